"""Means over seeds and paired differences between them."""

from statistics import mean, stdev

from scipy.stats import t as student
from scipy.stats import ttest_1samp

LEVEL = 0.95  # of the confidence interval
MARGIN = 1.0  # points of accuracy that do not matter


def mean_std(values: list[float], digits: int = 2) -> str:
    """Mean ± sample standard deviation; the mean alone of one value."""
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"


def interval(differences: list[float]) -> tuple[float, float]:
    """Student's confidence interval of the mean of paired differences, at the level LEVEL."""
    n = len(differences)
    reach = student.ppf((1 + LEVEL) / 2, n - 1) * stdev(differences) / n**0.5
    return mean(differences) - reach, mean(differences) + reach


def paired(values: dict[int, float], reference: dict[int, float]) -> list[float]:
    """Differences over the seeds that both have. values, reference: {seed: measure}."""
    return [values[seed] - reference[seed] for seed in values if seed in reference]


def difference(values: dict[int, float], reference: dict[int, float]) -> str:
    """Paired difference over the seeds both have, as text. values, reference: {seed: accuracy}."""
    pairs = paired(values, reference)
    if not pairs:
        return "no common seed"
    if len(pairs) < 2:
        return f"{mean(pairs):+.2f}, one seed"
    low, high = interval(pairs)
    text = f"{mean(pairs):+.2f} [{low:+.2f}, {high:+.2f}]"
    return text if low > 0 or high < 0 else f"{text} not distinguishable"


def p_value(differences: list[float]) -> float:
    """Of Student's two-sided test that the mean of paired differences is 0."""
    if len(set(differences)) == 1:
        return float(differences[0] == 0)
    return float(ttest_1samp(differences, 0).pvalue)


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Adjusted so that one below 0.05 is a false alarm in at most 5 % of such families."""
    adjusted, so_far = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.get)):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = so_far
    return adjusted


def verdicts(pairs: dict[str, list[float]]) -> dict[str, str]:
    """{arm: its mean difference with interval, and what that says}, with Holm's correction over the
    arms. pairs: {arm: paired differences in points}."""
    adjusted, said = holm({arm: p_value(values) for arm, values in pairs.items()}), {}
    for arm, values in pairs.items():
        low, high = interval(values)
        words = []
        if adjusted[arm] < 1 - LEVEL:
            words.append("above" if low > 0 else "below")
        if -MARGIN < low and high < MARGIN:
            words.append(f"within {MARGIN:g} point")
        text = ", ".join(words) or "not decided"
        said[arm] = f"{mean(values):+.2f} [{low:+.2f}, {high:+.2f}] {text}"
    return said


def explained(arms: int) -> str:
    """What `verdicts` says of so many arms."""
    return (
        f"paired by seed, Student's {LEVEL:.0%} interval; above, below: p < {1 - LEVEL:.2f} after "
        f"Holm's correction over {arms} arms; within {MARGIN:g} point: the whole interval is"
    )


def detectable(differences: list[float], n: int | None = None, power: float = 0.8) -> float:
    """The mean difference that a test at the level LEVEL finds with this probability, given that
    differences scatter like these; of n seeds, by default as many as there are."""
    n = n or len(differences)
    return (
        (student.ppf((1 + LEVEL) / 2, n - 1) + student.ppf(power, n - 1))
        * stdev(differences)
        / n**0.5
    )
