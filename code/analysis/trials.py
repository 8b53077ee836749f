"""Fair trials: their records, and the tables that are made from them.

Records are those of the tested runs; beside them, in tuning/, of the runs by which each arm's
learning rate was chosen, and in other_rates/ of the reference at the rates of other arms.
"""

from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from analysis import records
from analysis.names import name_of
from analysis.runs import ACCURACY, Run, arm_of, base_of, group, setting_of
from analysis.statistics import explained, paired, verdicts
from analysis.tables import (
    REFERENCE,
    Table,
    all_runs,
    cell,
    compared_with,
    heading,
    of_seeds,
    source_of,
)
from models.multimodal import MULTIMODAL

TUNING, OTHER_RATES = "tuning", "other_rates"  # folders of records
RATE = "learning_rate"
SUMS = ("joint", "uniform", "dgl")  # methods that add losses up, with weights that are given


class Runs(NamedTuple):
    """tuned: those that chose the rates. tested: every arm at its own rate. other_rates: further
    ones of arms that others are compared with, at the rates of those."""

    tuned: list[Run]
    tested: list[Run]
    other_rates: list[Run]


def write(folder: Path, runs: Runs) -> None:
    of_stages = ("", runs.tested), (TUNING, runs.tuned), (OTHER_RATES, runs.other_rates)
    for name, of_stage in of_stages:
        if of_stage:
            records.write_records(folder / name, of_stage, with_epochs=False)


def read(folder: Path) -> Runs:
    tested, others = records.read([folder]), folder / OTHER_RATES
    other_rates = records.read([others]) if others.is_dir() else []
    records.check_one_source(tested + other_rates)
    return Runs(records.read([folder / TUNING]), tested, other_rates)


def arms_of(runs: list[Run]) -> dict[str, list[Run]]:
    """{arm: its runs}, whatever their learning rate."""
    return group([replace(run, selected=(RATE,)) for run in runs])


def arms_of_rates(
    runs: list[Run], among: list[Run] | None = None
) -> dict[str, dict[float, list[Run]]]:
    """{arm: {rate: its runs}}. among: the runs by which arms are named, by default these."""
    base = base_of([replace(run, selected=(RATE,)) for run in among or runs])
    arms: dict[str, dict[float, list[Run]]] = {}
    for run in (replace(run, selected=(RATE,)) for run in runs):
        by_rate = arms.setdefault(arm_of(run, base), {})
        by_rate.setdefault(run.options[RATE], []).append(run)
    return arms


def best_sum(tuned: list[Run], arms: dict[str, list[Run]]) -> str:
    """The arm that adds losses of all modalities up, whatever their weights, in the usual setting,
    which was best on the held-out samples."""
    base, by_rate = base_of(all_runs(arms)), arms_of_rates(tuned)
    scores = {
        arm: max(mean(run.validation for run in of_rate) for of_rate in by_rate[arm].values())
        for arm, (run, *_) in arms.items()
        if arm in by_rate
        and run.options["method"] in SUMS
        and len(run.modalities) > 1
        and all(flag.startswith("--unimodal_weight ") for flag in setting_of(run, base))
    }
    return max(scores, key=scores.get, default=REFERENCE)


def references(arms: dict[str, list[Run]], reference: str) -> dict[str, str]:
    """{arm: the reference in the same setting if there is one, which itself is compared with the
    plain one}."""
    others = compared_with(arms, reference)
    if reference in arms:
        others = {arm: others.get(arm, reference) for arm in arms if arm != reference}
    return others


def differences(arms: dict[str, list[Run]], reference: str) -> dict[str, list[float]]:
    """{arm: its accuracies minus those of its reference, paired by seed}."""
    accuracy = {arm: of_seeds(runs, ACCURACY) for arm, runs in arms.items()}
    others = references(arms, reference)
    pairs = {arm: paired(accuracy[arm], accuracy[other]) for arm, other in others.items()}
    return {arm: of_arm for arm, of_arm in pairs.items() if len(of_arm) > 1}


def references_at_rates(arms: dict[str, list[Run]]) -> dict[str, tuple[str, float]]:
    """{arm: (the reference in its setting, the arm's own rate)} of all arms with all modalities and
    the optimizer of their reference."""
    all_modalities = max(len(runs[0].modalities) for runs in arms.values())
    return {
        arm: (other, arms[arm][0].options[RATE])
        for arm, other in references(arms, REFERENCE).items()
        if other in arms
        and len(arms[arm][0].modalities) == all_modalities
        and arms[arm][0].options["optimizer"] == arms[other][0].options["optimizer"]
    }


def at_same_rate(runs: Runs) -> dict[str, str]:
    """{arm: what is said of its difference to the reference at the arm's rate}."""
    by_rate = arms_of_rates(runs.tested + runs.other_rates, among=runs.tested)
    pairs, said = {}, {}
    for arm, (other, rate) in references_at_rates(arms_of(runs.tested)).items():
        both = by_rate[arm][rate], by_rate[other].get(rate)
        if both[1]:
            pairs[arm] = paired(*(of_seeds(of_arm, ACCURACY) for of_arm in both))
        else:
            said[arm] = "that diverges"
    pairs = {arm: of_arm for arm, of_arm in pairs.items() if len(of_arm) > 1}
    return said | verdicts(pairs)


def tables(runs: Runs) -> list[Table]:
    """A row per arm: what it comes to, and what its modalities do."""
    tuned, tested, _ = runs
    arms = arms_of(tested)
    best = best_sum(tuned, arms)
    compared = {
        f"minus {name_of(other)}": {other: ""} | verdicts(differences(arms, other))
        for other in dict.fromkeys([REFERENCE, best])
    }
    compared[f"minus {name_of(REFERENCE)} at this rate"] = at_same_rate(runs)
    modalities = max((run.modalities for run in tested), key=len)
    whole = [ACCURACY, f"macro_f1/{MULTIMODAL}"]
    parts = [f"accuracy/{m}{kind}" for kind in ("", " probe") for m in modalities]
    head = ["method", "rate", "n", *map(heading, whole)]
    head += [*compared, "time"]
    joint = mean(run.measures["minutes"] for run in arms.get("joint", tested))
    rows, of_modalities = [], []
    for arm, runs in arms.items():
        cells = [f"{runs[0].options[RATE]:g}", f"{len(runs)}"]
        cells += [cell(runs, measure) for measure in whole]
        cells += [said.get(arm, "") for said in compared.values()]
        minutes = mean(run.measures["minutes"] for run in runs)
        rows.append([arm, *cells, f"{minutes / joint:.2f}"])
        of_modalities.append([arm, *(cell(runs, measure) for measure in parts)])
    return [
        Table("Each arm at its own rate", head, rows),
        Table("Modalities, accuracy", ["method", *map(heading, parts)], of_modalities),
    ]


def caption(runs: Runs) -> str:
    tuned, tested, _ = runs
    run, arms = tested[0], len(arms_of(tested))
    seeds = len({run.seed for run in tuned})
    return (
        f"{run.data_name}, {run.options['fusion']}, test split after the last of "
        f"{run.options['epochs']} epochs, mean ± standard deviation over n seeds. rate: of the "
        "highest mean accuracy on held-out samples of the training split, with "
        f"{seeds} other seeds. Differences: {explained(arms - 1)}. References: uniform, and of all "
        "that add losses of all modalities up the best on the held-out samples; at this rate: "
        "uniform with the row's learning rate and optimizer, corrected over "
        f"{len(at_same_rate(runs))} arms. time: of a run, in those of one joint loss. "
        f"{source_of(tested)}."
    )
