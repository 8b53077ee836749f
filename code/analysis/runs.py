"""Stored runs, read for tables and figures: which belong together, and what was measured."""

import itertools
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import mean, mode

from methods import Method
from training.flags import FREE
from training.messages import main_branch, selections
from training.resume import read_options
from training.stored import flags_of_run
from utils import registry
from utils.errors import BadInput
from utils.run_folder import cost_of, opened, read_jsonl, read_result, sealed

ARGUMENT = "argument.json"  # what argument.py measured
RUNS = "RUNS"  # stands for paths of runs, which differ from seed to seed
ACCURACY = "accuracy/multimodal"  # the measure by which runs are compared


@dataclass(frozen=True)
class Run:
    """What a run folder holds, finished or not; steps, probes and measures are read when used."""

    folder: Path
    options: dict
    environment: dict[str, str]
    data: dict  # classes, samples, preparation; {} in the oldest runs
    epochs: list[dict]  # the records of metrics.jsonl
    selected: tuple[str, ...] = ()  # flags whose best value was chosen: its arm does not name them
    at_edge: tuple[str, ...] = ()  # those of them whose value is an end of the tried range

    @property
    def seed(self) -> int:
        return self.options["random_seed"]

    @property
    def modalities(self) -> list[str]:
        return self.options["modalities"]

    @property
    def method(self) -> type[Method]:
        return registry.load_class("methods", self.options["method"], "--method")

    @property
    def data_name(self) -> str:
        """What the data are called: the set, or the folder of own data."""
        dataset = registry.load_class("dataset", self.options["dataset"], "--dataset")
        return dataset.name_of(Path(self.options["data_root"]))

    @cached_property
    def own(self) -> dict:
        """{flag of its method: value}, but for runs, such as its teachers."""
        named = self._named(registry.defaults(self.method))
        return {flag: value for flag, value in named.items() if value != RUNS}

    @cached_property
    def settings(self) -> dict:
        """{flag: value} of all others that change results, but for method and seed."""
        _, touches, _ = flags_of_run({"options": self.options, "data": self.data})
        left_out = {"method", "random_seed"} | registry.defaults(self.method).keys()
        if len(self.modalities) == 1:  # which the row's name says
            left_out.add("modalities")
        flags = self.options.keys() - left_out
        return self._named(flag for flag in touches if flag in flags and touches[flag] not in FREE)

    def _named(self, flags: Iterable[str]) -> dict:
        """Those that a row can be named after: not the selected ones, and RUNS in place of
        paths."""
        values = {flag: self.options[flag] for flag in flags if flag not in self.selected}
        texts = {k: ",".join(map(str, v)) if isinstance(v, list) else v for k, v in values.items()}
        return {flag: RUNS if "/" in str(value) else value for flag, value in texts.items()}

    @property
    def validation(self) -> float | None:
        """Accuracy on held-out samples in the last epoch; None where none were held out."""
        return self.epochs[-1].get(f"val/accuracy/{main_branch(self.modalities)}")

    @property
    def steps(self) -> list[dict]:
        """`read_steps` with all entries."""
        return self.read_steps()

    def read_steps(self, entries: Collection[str] | None = None) -> list[dict]:
        """The records of steps.jsonl with these entries; they are many, hence not kept.

        Raises BadInput where one is lacking of those in complete epochs.
        """
        file, count = self.folder / "steps.jsonl", self.epochs[-1]["step"] if self.epochs else 0
        records = read_jsonl(file, entries=entries)
        if [record.get("step") for record in records[:count]] != list(range(count)):
            raise BadInput(f"{file}: does not hold steps 0 to {count - 1}, each once; restore it")
        return records

    @property
    def conflicts(self) -> dict[str, float | None]:
        """{modality: `conflict_rate` of all steps}, kept in .conflicts.json while steps.jsonl is
        the same: reading all steps takes nearly all the time that a table needs."""
        file, kept = self.folder / "steps.jsonl", self.folder / ".conflicts.json"
        about = file.stat() if file.is_file() else None
        of = about and [self.epochs[-1]["step"], about.st_size, about.st_mtime_ns]
        with suppress(OSError, ValueError, KeyError):
            stored = opened(kept.read_bytes())
            if of and stored["of"] == of:
                return stored["rates"]
        steps = self.read_steps(["step", *(f"cosine/{modality}" for modality in self.modalities)])
        rates = {modality: conflict_rate(steps, modality) for modality in self.modalities}
        with suppress(OSError):  # in folders of others, which can only be read
            kept.write_text(sealed({"of": of, "rates": rates}))  # half of it would not be read
        return rates

    @cached_property
    def probes(self) -> dict[str, dict[str, float]]:
        """{probe: scores}. Raises BadInput for those of another checkpoint or split."""
        scores = {}
        for file in sorted(self.folder.glob("probe_*.json")):
            name, probe = file.stem.removeprefix("probe_"), read_result(file)
            again = f"run evaluate.py {self.folder} --probe {name} again"
            if not probe:
                raise BadInput(f"{file}: damaged, or of a checkpoint that has changed; {again}")
            if (probe["checkpoint"], probe["split"]) != ("last", "test"):
                raise BadInput(
                    f"{file}: of {probe['checkpoint']}.pt on the {probe['split']} split, tables "
                    f"show the last epoch on the test split; {again}"
                )
            scores[name] = probe["scores"]
        return scores

    @property
    def argument(self) -> dict[str, float]:
        """What argument.py measured. Raises BadInput for what is not of the last checkpoint."""
        file = self.folder / ARGUMENT
        if not file.is_file():
            return {}
        if not (result := read_result(file)):
            raise BadInput(
                f"{file}: damaged, or of a checkpoint that has changed; run argument.py "
                f"{self.folder} again"
            )
        return result["measured"]

    @cached_property
    def measures(self) -> dict[str, float]:
        """{measure: value to six digits}, shares in percent; what was not measured is left out.

        Measures are accuracy/X and macro_f1/X with X "multimodal" (or the only branch), a modality
        (its head) or "<modality> probe"; val, as `validation`; best_test and best_val, the
        multimodal test accuracy in those epochs; conflict/<modality>; the keys of other probes;
        those of `cost_of`; argument/<what analysis/argument.py measures>.
        """
        branch = main_branch(self.modalities)
        chosen = selections(self.epochs, branch)
        last = chosen.pop("last")
        shares = {ACCURACY: last[f"test/accuracy/{branch}"]}
        if self.validation is not None:
            shares["val"] = self.validation
        shares |= {name: epoch[f"test/accuracy/{branch}"] for name, epoch in chosen.items()}
        shares["macro_f1/multimodal"] = last[f"test/macro_f1/{branch}"]
        linear, cost = self.probes.get("linear"), cost_of(self.folder, len(self.epochs))
        conflicts = self.conflicts  # last: a run that is refused is left as it is
        for modality in self.modalities:
            heads = [f"accuracy/{modality}", f"macro_f1/{modality}"]
            if trains_heads(self.options):
                shares |= {key: last[f"test/{key}"] for key in heads}
            if linear:
                shares |= {f"{key} probe": linear[f"{key} probe"] for key in heads}
            if conflicts[modality] is not None:
                shares[f"conflict/{modality}"] = conflicts[modality]
        for name, scores in self.probes.items():
            if name != "linear":
                shares |= scores
        measures = {measure: 100 * share for measure, share in shares.items()} | cost
        measures |= {f"argument/{name}": value for name, value in self.argument.items()}
        return {measure: to_six_digits(value) for measure, value in measures.items()}

    def curve(self, branch: str) -> list[float]:
        """Test accuracy of a branch after each epoch, in percent."""
        return [to_six_digits(100 * e[f"test/accuracy/{branch}"]) for e in self.epochs]

    def check_finished(self) -> None:
        """Raises BadInput where epochs are lacking, or there twice."""
        count = self.options["epochs"]
        if len(self.epochs) < count:
            done = f"{len(self.epochs)} of {count} epochs done"
            raise BadInput(f"{self.folder}: {done}; finish it with --resume")
        if [record["epoch"] for record in self.epochs] != list(range(count)):
            expected = f"epochs 0 to {count - 1}, each once"
            raise BadInput(f"{self.folder}: metrics.jsonl does not hold {expected}")


def read_run(folder: Path) -> Run:
    """Raises BadInput where there is no run, or a damaged one."""
    stored, epochs = read_options(folder), read_jsonl(folder / "metrics.jsonl")
    return Run(folder, stored["options"], stored["environment"], stored["data"] or {}, epochs)


def read_runs(paths: list[Path]) -> list[Run]:
    """The runs among these paths: files, such as tables that were written beside them, are left
    out. Raises BadInput where there is none."""
    folders = [path for path in paths if not path.is_file()]
    if not folders:
        raise BadInput(f"{paths[0]}: no run folder")
    return [read_run(folder) for folder in folders]


def to_six_digits(value: float) -> float:
    """As records keep it, so that runs and their records give the same tables."""
    return float(f"{value:.6g}")


def conflict_rate(steps: list[dict], encoder: str) -> float | None:
    """Share of steps with cosine <= 0, of those that measured it; None if there are none."""
    name = f"cosine/{encoder}"
    values = [step[name] for step in steps if name in step]
    return sum(value <= 0 for value in values) / len(values) if values else None


def trains_heads(options: dict) -> bool:
    """Does the accuracy of the unimodal heads mean something?"""
    method = registry.load_class("methods", options["method"], "--method")
    return method.trains_unimodal_heads or len(options["modalities"]) == 1


def changed_flags(flags: dict, usual: dict) -> list[str]:
    """The flags of `usual` that have another value, as one gives them."""
    return [f"--{k} {flags[k]}" for k, v in usual.items() if flags.get(k, v) != v]


def setting_of(run: Run, base: dict) -> list[str]:
    """What is not as in `base`, besides the method and its flags."""
    return changed_flags(run.settings, base)


def arm_of(run: Run, base: dict) -> str:
    """The method or the only modality, the method's flags that are not the default, the setting."""
    alone = len(run.modalities) == 1
    name = f"{run.modalities[0]} alone" if alone else run.options["method"]
    flags = changed_flags(run.own, registry.defaults(run.method))
    return " ".join([name, *flags, *setting_of(run, base)])


def values_of(flags: Iterable[dict]) -> dict[str, list]:
    """{flag: its values in all that have it}, in the order in which they come."""
    values: dict[str, list] = {}
    for flag, value in itertools.chain.from_iterable(f.items() for f in flags):
        values.setdefault(flag, []).append(value)
    return values


def base_of(runs: list[Run]) -> dict:
    """{flag of `Run.settings`: the value most runs have}, which names of arms leave out."""
    return {flag: mode(values) for flag, values in values_of(r.settings for r in runs).items()}


def differing(runs: list[Run]) -> list[str]:
    """The flags that have several values, of the methods and of the settings."""
    values = values_of(run.own | run.settings for run in runs)
    return [flag for flag, given in values.items() if len(set(given)) > 1]


def group(runs: list[Run]) -> dict[str, list[Run]]:
    """{arm: its runs, which differ in their seed only}, in the order in which they come.

    Raises BadInput for a run that is not finished, for a seed that occurs twice, or for runs on
    other data, naming the difference.
    """
    for run in runs:
        run.check_finished()
    groups: dict[str, list[Run]] = {}
    seen: set[tuple[str, int]] = set()
    base, reference = base_of(runs), max(runs, key=lambda run: len(run.modalities))
    for run in runs:
        check_same_data(run, reference)
        arm = arm_of(run, base)
        if (arm, run.seed) in seen:
            raise BadInput(f"{run.folder}: seed {run.seed} of {arm} is there twice")
        seen.add((arm, run.seed))
        groups.setdefault(arm, []).append(run)
    return groups


def by_data(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """{what the data are called: its runs}, in the order in which they come."""
    sets: dict[str, list[Run]] = {}
    for run in runs:
        sets.setdefault(run.data_name, []).append(run)
    return sets


def order_of(value: object) -> tuple:
    """By which values of a flag are sorted: numbers by size, then words."""
    is_number = isinstance(value, (int, float))
    return not is_number, value if is_number else 0, str(value)


def select(runs: list[Run], flags: list[str]) -> tuple[dict[str, list[Run]], str]:
    """({arm without these flags: its runs with their best values}, how they were chosen).

    Best: the highest mean over seeds of the validation accuracy in the last epoch; of equals the
    smaller value. Raises BadInput for a flag that does not differ, for runs that held no samples
    out, and as `group`.
    """
    choices = differing(runs)
    for flag in flags:
        if flag not in choices:
            known = f"choose from {', '.join(choices)}" if choices else "no flag does"
            raise BadInput(f"--select {flag}: does not differ among these runs; {known}")
    group(runs)  # finished, on the same data, none twice
    renamed = [replace(run, selected=tuple(flags)) for run in runs]
    base = base_of(renamed)
    arms: dict[str, dict[tuple, list[Run]]] = {}
    for full, run in zip(runs, renamed):
        if run.validation is None:
            raise BadInput(
                f"--select {','.join(flags)}: {run.folder} held no samples out to choose by, and "
                "nothing is chosen on the test split; train with --val_fraction 0.1"
            )
        given = full.own | full.settings
        values = tuple(given.get(flag) for flag in flags)
        arms.setdefault(arm_of(run, base), {}).setdefault(values, []).append(run)
    text = f"{', '.join(flags)}: chosen by mean accuracy on held-out samples in the last epoch"
    groups = {}
    for arm, tried in arms.items():
        by_size = sorted(tried, key=lambda values: [order_of(value) for value in values])
        best = max(by_size, key=lambda values: mean(run.validation for run in tried[values]))
        edges = []
        for flag, value, given in zip(flags, best, zip(*tried)):
            numbers = [v for v in given if type(v) in (int, float)]
            if value in numbers and value in (min(numbers), max(numbers)):
                edges.append(flag)
                tried_range = f"{min(numbers)} to {max(numbers)}"
                text += f"; {flag} {value} of {arm} is at the edge of what was tried, {tried_range}"
        if len({frozenset(run.seed for run in of_value) for of_value in tried.values()}) > 1:
            text += f"; not all values of {arm} have the same seeds"
        groups[arm] = [replace(run, at_edge=tuple(edges)) for run in tried[best]]
    return groups, f"{text}."


def check_same_data(run: Run, reference: Run) -> None:
    """Raises BadInput where they were not trained on the same data."""
    for key in ("classes", "samples", "preparation"):
        value, expected = data_of(run).get(key), data_of(reference).get(key)
        unknown = key == "samples" and None in (value, expected)  # the oldest runs do not say
        if value != expected and not unknown:
            raise BadInput(
                f"{run.folder}: trained on data with {key} {value}, {reference.folder} with "
                f"{expected}; only runs on the same data share a table"
            )


def data_of(run: Run) -> dict:
    """`run.data` with the samples held out for validation counted as training samples."""
    if not run.data.get("samples"):
        return run.data
    samples = dict(run.data["samples"])
    held_out = samples.pop("val", 0)
    for split in samples:
        if split.startswith("train"):
            samples[split] += held_out
    return run.data | {"samples": samples}
