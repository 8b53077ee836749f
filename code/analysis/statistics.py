"""Means over seeds and paired differences between them."""

from statistics import mean, stdev

from scipy.stats import t as student

LEVEL = 0.95  # of the confidence interval


def mean_std(values: list[float], digits: int = 2) -> str:
    """Mean ± sample standard deviation; the mean alone of one value."""
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"


def interval(differences: list[float]) -> tuple[float, float]:
    """Student's confidence interval of the mean of paired differences, at the level LEVEL."""
    n = len(differences)
    reach = student.ppf((1 + LEVEL) / 2, n - 1) * stdev(differences) / n**0.5
    return mean(differences) - reach, mean(differences) + reach


def difference(values: dict[int, float], reference: dict[int, float]) -> str:
    """Paired difference over the seeds both have, as text. values, reference: {seed: accuracy}."""
    pairs = [values[seed] - reference[seed] for seed in values if seed in reference]
    if not pairs:
        return "no common seed"
    if len(pairs) < 2:
        return f"{mean(pairs):+.2f}, one seed"
    low, high = interval(pairs)
    text = f"{mean(pairs):+.2f} [{low:+.2f}, {high:+.2f}]"
    return text if low > 0 or high < 0 else f"{text} not distinguishable"
