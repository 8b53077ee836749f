"""Runs -> tables of accuracies, with what others report beside and below them."""

from pathlib import Path
from statistics import mean
from typing import NamedTuple

from analysis.runs import ACCURACY, Run, base_of, differing, setting_of, trains_heads
from analysis.statistics import LEVEL, difference, mean_std
from dataset._samples import read_csv
from models.multimodal import MULTIMODAL
from training.messages import SELECTIONS
from utils.errors import BadInput

REFERENCE = "uniform"  # the arm that the others are compared with
ENOUGH = 5  # seeds
PROBES = "Probes: multimodal accuracy without X, what X contributes to it, calibration error, %"
REPORTED = Path(__file__).resolve().parents[2] / "results" / "reported_by_others.csv"
HEADINGS = SELECTIONS | {"peak_gb": "peak memory, GB", "val": "validation"}
HIGHER_IS_BETTER = ("accuracy/", "macro_f1/", "best_", "val", "missing")  # how measures begin


class Table(NamedTuple):
    title: str
    head: list[str]
    rows: list[list[str]]


def heading(measure: str) -> str:
    """How tables write a measure of `Run.measures`: macro_f1/audio -> F1 audio head."""
    kind, _, branch = measure.partition("/")
    if kind == "conflict":
        return f"conflict {branch}"
    if kind not in ("accuracy", "macro_f1"):
        return HEADINGS.get(measure, measure)
    if branch != MULTIMODAL and not branch.endswith(" probe"):
        branch += " head"
    return branch if kind == "accuracy" else f"F1 {branch}"


def cell(runs: list[Run], measure: str) -> str:
    """Mean and deviation of a measure over the runs of an arm, or why there is none."""
    values = [run.measures[measure] for run in runs if measure in run.measures]
    if len(values) < len(runs):
        is_head = heading(measure).endswith(" head")
        return "untrained" if is_head and not trains_heads(runs[0].options) else "-"
    return mean_std(values, 1 if measure.startswith(("conflict/", "minutes", "peak_gb")) else 2)


def number_of(runs: list[Run]) -> str:
    """How many seeds, with a mark where they are too few to conclude anything from."""
    return f"{len(runs)}" if len(runs) >= ENOUGH else f"{len(runs)} (few)"


def all_runs(groups: dict[str, list[Run]]) -> list[Run]:
    return [run for runs in groups.values() for run in runs]


def table_of(groups: dict[str, list[Run]], title: str, measures: list[str]) -> Table:
    """A row per arm, a column per measure that some run has."""
    known = {measure for run in all_runs(groups) for measure in run.measures}
    shown = [measure for measure in measures if measure in known]
    rows = [[arm, number_of(r), *(cell(r, m) for m in shown)] for arm, r in groups.items()]
    return Table(title, ["method", "n", *map(heading, shown)], rows)


def differences(groups: dict[str, list[Run]], reference: str = REFERENCE) -> dict[str, str]:
    """{arm: accuracy minus that of the arm it is `compared_with`}."""
    accuracy = {arm: of_seeds(runs, ACCURACY) for arm, runs in groups.items()}
    pairs = compared_with(groups, reference)
    return {arm: difference(accuracy[arm], accuracy[other]) for arm, other in pairs.items()}


def compared_with(groups: dict[str, list[Run]], reference: str) -> dict[str, str]:
    """{arm: `reference` in the same setting, else `reference` itself}, for all but this one."""
    base, others = base_of(all_runs(groups)), {}
    for arm, runs in groups.items():
        other = " ".join([reference, *setting_of(runs[0], base)])
        if other not in groups:
            other = reference
        if other in groups and other != arm:
            others[arm] = other
    return others


def of_seeds(runs: list[Run], measure: str) -> dict[int, float]:
    return {run.seed: run.measures[measure] for run in runs if measure in run.measures}


def best(groups: dict[str, list[Run]]) -> set[tuple[str, str]]:
    """{(arm, heading)} where a mean is the highest of those that can be compared: of several arms
    in the same setting with the same seeds."""
    base, comparable = base_of(all_runs(groups)), {}
    for arm, runs in groups.items():
        key = (*setting_of(runs[0], base), *sorted(run.seed for run in runs))
        comparable.setdefault(key, []).append(arm)
    highest = set()
    for arms in comparable.values():
        for measure in groups[arms[0]][0].measures.keys() | groups[arms[-1]][0].measures.keys():
            values = {a: [r.measures.get(measure) for r in groups[a]] for a in arms}
            means = {a: f"{mean(v):.2f}" for a, v in values.items() if None not in v}
            if measure.startswith(HIGHER_IS_BETTER) and len(means) > 1:
                top = max(means.values(), key=float)
                highest |= {(a, heading(measure)) for a, text in means.items() if text == top}
    return highest


def reported(dataset: str) -> list[dict[str, str]]:
    """What others report for a data set, a number each: {column of REPORTED: cell}. Never mixed
    with what is measured here.

    mark: p read in the paper's text, c quoted by a third party, f read off a figure of the paper.
    """
    names, *rows = read_csv(REPORTED) or [[]]
    if lacking := {"dataset", "model", "method", "source", "mark", "measure", "value"} - set(names):
        raise BadInput(f"{REPORTED}: its first line names no column {min(lacking)}")
    for values in rows:
        if len(values) != len(names):
            raise BadInput(f"{REPORTED}: needs {','.join(names)}, has {','.join(values)}")
    lines = [dict(zip(names, values)) for values in rows]
    return [line for line in lines if line["dataset"] == dataset]


def model_of(run: Run) -> str:
    """As REPORTED names it."""
    name = "mbt" if run.options["fusion"] == "mbt" else run.options["encoder"]
    return f"{name} pretrained" if run.options.get("pretrained") else name


def of_paper(groups: dict[str, list[Run]], lines: list[dict], measure: str) -> dict[str, str]:
    """{arm: what the paper has for this method, data set and model}; an arm with flags has none."""
    cells = {}
    for arm, runs in groups.items():
        branch = measure if len(runs[0].modalities) > 1 else f"accuracy/{runs[0].modalities[0]}"
        wanted = {"model": model_of(runs[0]), "method": arm, "source": "paper", "measure": branch}
        found = [line["value"] for line in lines if wanted.items() <= line.items()]
        cells[arm] = found[0] if found else ""
    return cells


def table_of_reported(lines: list[dict[str, str]]) -> Table | None:
    """A row per method, a column per source: multimodal / audio / visual accuracy."""
    cells: dict[str, dict[str, list[str]]] = {}
    for line in lines:
        if line["measure"].startswith("accuracy/"):
            name = " ".join(filter(None, [line["method"], line["model"].replace("resnet18", "")]))
            spread = f" ± {line['std']}" if line["std"] else ""
            text = f"{line['value']}{spread} {line['mark']}"
            cells.setdefault(name, {}).setdefault(line["source"], []).append(text)
    sources = list(dict.fromkeys(source for of_method in cells.values() for source in of_method))
    rows = [
        [name, *(" / ".join(of_method.get(source, ["-"])) for source in sources)]
        for name, of_method in cells.items()
    ]
    title = "Reported by others, multimodal / audio / visual, %"
    return Table(title, ["method", *sources], rows) if rows else None


def tabulate(groups: dict[str, list[Run]], reference: str = REFERENCE) -> list[Table]:
    """Accuracy, macro F1, probes and what others report; compared with the arm `reference`."""
    runs = all_runs(groups)
    modalities = max((run.modalities for run in runs), key=len)
    heads = [*modalities, *(f"{m} probe" for m in modalities)]
    accuracy = [ACCURACY, "val", "best_test", "best_val", *(f"accuracy/{name}" for name in heads)]
    cost = [*(f"conflict/{m}" for m in modalities), "minutes", "peak_gb"]
    tables = [
        table_of(groups, "Test accuracy, %", accuracy + cost),
        table_of(groups, "Macro F1, %", [f"macro_f1/{name}" for name in (MULTIMODAL, *heads)]),
    ]
    if compared := differences(groups, reference):
        tables[0].head.insert(3, f"minus {reference}, {LEVEL:.0%} interval")
        for row in tables[0].rows:
            row.insert(3, compared.get(row[0], ""))
    lines = reported(runs[0].options["dataset"])
    headings = {ACCURACY: "the paper", "macro_f1/multimodal": "F1 in the paper"}
    for table, (measure, title) in zip(tables, headings.items()):
        papers = of_paper(groups, lines, measure)
        if any(papers.values()):
            table.head.insert(3, title)
            for row in table.rows:
                row.insert(3, papers[row[0]])
    for position, flag in enumerate(runs[0].selected, start=1):
        tables[0].head.insert(position, f"{flag}, chosen on validation")
        for row in tables[0].rows:
            first = groups[row[0]][0]
            edge = " (edge)" if flag in first.at_edge else ""
            row.insert(position, f"{first.options.get(flag, '-')}{edge}")
    probed = [
        f"{probe}/{m}" for probe in ("missing", "missing_feature", "shapley") for m in modalities
    ]
    probed += [f"calibration/{branch}" for branch in (MULTIMODAL, *modalities)]
    probes = table_of(groups, PROBES, probed)
    if len(probes.head) > 2:
        tables.append(probes)
    if published := table_of_reported(lines):
        tables.append(published)
    return tables


def caption(groups: dict[str, list[Run]]) -> str:
    """Below a table of accuracies: what was run, how numbers are to be read, on what."""
    runs = all_runs(groups)
    base = base_of(runs)
    several = [f"--{flag} {base[flag]}" for flag in differing(runs) if flag in base]
    usual = f"; {' '.join(several)} unless the row says otherwise" if several else ""
    counts = sorted({len(of_arm) for of_arm in groups.values()})
    n = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else counts[0]
    few = f" (few: less than {ENOUGH})" if counts[0] < ENOUGH else ""
    return (
        f"{runs[0].data_name}, {base['encoder']}, {base['fusion']}, last of {base['epochs']} "
        f"epochs unless the column says otherwise{usual}; mean ± standard deviation over n = {n} "
        f"seeds{few}; conflict: % of steps with cosine <= 0; intervals: Student, paired by seed. "
        f"{source_of(runs)}."
    )


def source_of(runs: list[Run]) -> str:
    """The hardware, the version of torch and the commits that the runs come from."""
    environment = runs[0].environment
    commits = ", ".join(sorted({run.environment["commit"] for run in runs}))
    hardware = environment["gpu" if runs[0].options["device"] == "cuda" else "cpu"]
    return f"{hardware}, torch {environment['torch']}, commit {commits}"
