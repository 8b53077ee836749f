"""Fair trials: their records, and the table that is made from them.

Records are those of the tested runs, and beside them, in tuning/, of the runs by which each arm's
learning rate was chosen.
"""

from dataclasses import replace
from pathlib import Path
from statistics import mean

from analysis import records
from analysis.names import name_of
from analysis.runs import ACCURACY, Run, arm_of, base_of, group, select, setting_of
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

TUNING = "tuning"  # the folder of their records
RATE = "learning_rate"
SUMS = ("joint", "uniform", "dgl")  # methods that add losses up, with weights that are given


def write(folder: Path, tuned: list[Run], tested: list[Run]) -> None:
    records.write_records(folder, tested, [])
    records.write_records(folder / TUNING, tuned, [])
    (folder / TUNING / "epochs.csv").unlink()  # large, and nothing is drawn from it


def read(folder: Path) -> tuple[list[Run], list[Run]]:
    """(tuned, tested)."""
    return records.read([folder / TUNING]), records.read([folder])


def arms_of(runs: list[Run]) -> dict[str, list[Run]]:
    """{arm: its runs}, whatever their learning rate."""
    return group([replace(run, selected=(RATE,)) for run in runs])


def arms_of_rates(runs: list[Run]) -> dict[str, dict[float, list[Run]]]:
    """{arm: {rate: its runs}}."""
    renamed = [replace(run, selected=(RATE,)) for run in runs]
    base, arms = base_of(renamed), {}
    for run in renamed:
        by_rate = arms.setdefault(arm_of(run, base), {})
        by_rate.setdefault(run.options[RATE], []).append(run)
    return arms


def best_sum(tuned: list[Run], arms: dict[str, list[Run]]) -> str:
    """The arm that adds losses of all modalities up, whatever their weights, in the usual setting,
    which was best on the held-out samples."""
    chosen, _ = select(tuned, [RATE])
    base = base_of(all_runs(arms))
    scores = {
        arm: mean(run.validation for run in runs)
        for arm, runs in chosen.items()
        if arm in arms
        and runs[0].options["method"] in SUMS
        and len(runs[0].modalities) > 1
        and all(flag.startswith("--unimodal_weight ") for flag in setting_of(arms[arm][0], base))
    }
    return max(scores, key=scores.get, default=REFERENCE)


def differences(arms: dict[str, list[Run]], reference: str) -> dict[str, list[float]]:
    """{arm: its accuracies minus those of the reference, paired by seed}: of the reference in the
    same setting if there is one, which itself is compared with the plain one."""
    accuracy = {arm: of_seeds(runs, ACCURACY) for arm, runs in arms.items()}
    others = compared_with(arms, reference)
    if reference in arms:
        others = {arm: others.get(arm, reference) for arm in arms if arm != reference}
    pairs = {arm: paired(accuracy[arm], accuracy[other]) for arm, other in others.items()}
    return {arm: of_arm for arm, of_arm in pairs.items() if len(of_arm) > 1}


def tables(tuned: list[Run], tested: list[Run]) -> list[Table]:
    """A row per arm: what it comes to, and what its modalities do."""
    arms = arms_of(tested)
    best = best_sum(tuned, arms)
    compared = {
        other: verdicts(differences(arms, other)) for other in dict.fromkeys([REFERENCE, best])
    }
    modalities = max((run.modalities for run in tested), key=len)
    whole = [ACCURACY, f"macro_f1/{MULTIMODAL}"]
    parts = [f"accuracy/{m}{kind}" for kind in ("", " probe") for m in modalities]
    head = ["method", "rate", "n", *map(heading, whole)]
    head += [f"minus {name_of(other)}" for other in compared] + ["time"]
    joint = mean(run.measures["minutes"] for run in arms.get("joint", tested))
    rows, of_modalities = [], []
    for arm, runs in arms.items():
        cells = [f"{runs[0].options[RATE]:g}", f"{len(runs)}"]
        cells += [cell(runs, measure) for measure in whole]
        cells += ["" if arm == other else said.get(arm, "-") for other, said in compared.items()]
        minutes = mean(run.measures["minutes"] for run in runs)
        rows.append([arm, *cells, f"{minutes / joint:.2f}"])
        of_modalities.append([arm, *(cell(runs, measure) for measure in parts)])
    return [
        Table("Each arm at its own rate", head, rows),
        Table("Modalities, accuracy", ["method", *map(heading, parts)], of_modalities),
    ]


def caption(tuned: list[Run], tested: list[Run]) -> str:
    run, arms = tested[0], len(arms_of(tested))
    seeds = len({run.seed for run in tuned})
    return (
        f"{run.data_name}, {run.options['fusion']}, test split after the last of "
        f"{run.options['epochs']} epochs, mean ± standard deviation over n seeds. rate: of the "
        "highest mean accuracy on held-out samples of the training split, with "
        f"{seeds} other seeds. Differences: {explained(arms - 1)}. References: uniform, and of all "
        "that add losses of all modalities up the best on the held-out samples. time: of a run, in "
        f"those of one joint loss. {source_of(tested)}."
    )
