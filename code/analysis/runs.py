"""Stored runs, read for tables and figures: which belong together, and what was measured."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mode

from models.multimodal import encoder_classes
from training.messages import main_branch, selections
from training.resume import read_options
from training.stored import compared_settings, flags_of_run
from utils import registry
from utils.errors import BadInput
from utils.run_folder import cost_of, read_jsonl, read_result

ACCURACY = "accuracy/multimodal"  # the measure by which runs are compared


@dataclass(frozen=True)
class Run:
    """What a run folder holds, finished or not; steps, probes and measures are read when used."""

    folder: Path
    options: dict
    environment: dict[str, str]
    data: dict  # classes, samples, preparation; {} in the oldest runs
    epochs: list[dict]  # the records of metrics.jsonl

    @property
    def seed(self) -> int:
        return self.options["random_seed"]

    @property
    def modalities(self) -> list[str]:
        return self.options["modalities"]

    @property
    def steps(self) -> list[dict]:
        """The records of steps.jsonl; they are many, hence not kept.

        Raises BadInput where one is lacking of those in complete epochs.
        """
        file, count = self.folder / "steps.jsonl", self.epochs[-1]["step"] if self.epochs else 0
        records = read_jsonl(file)
        if [record.get("step") for record in records[:count]] != list(range(count)):
            raise BadInput(f"{file}: does not hold steps 0 to {count - 1}, each once; restore it")
        return records

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

    @cached_property
    def measures(self) -> dict[str, float]:
        """{measure: value}, shares in percent; what was not measured is left out.

        Measures are accuracy/X and macro_f1/X with X "multimodal" (or the only branch), a modality
        (its head) or "<modality> probe"; best_test and best_val, the multimodal test accuracy in
        those epochs; conflict/<modality>; the keys of other probes; those of `cost_of`.
        """
        branch = main_branch(self.modalities)
        chosen = selections(self.epochs, branch)
        last = chosen.pop("last")
        shares = {ACCURACY: last[f"test/accuracy/{branch}"]}
        shares |= {name: epoch[f"test/accuracy/{branch}"] for name, epoch in chosen.items()}
        shares["macro_f1/multimodal"] = last[f"test/macro_f1/{branch}"]
        steps, linear = self.steps, self.probes.get("linear")
        cost = cost_of(self.folder, len(self.epochs))
        for modality in self.modalities:
            heads = [f"accuracy/{modality}", f"macro_f1/{modality}"]
            if trains_heads(self.options):
                shares |= {key: last[f"test/{key}"] for key in heads}
            if linear:
                shares |= {f"{key} probe": linear[f"{key} probe"] for key in heads}
            if (rate := conflict_rate(steps, modality)) is not None:
                shares[f"conflict/{modality}"] = rate
        for name, scores in self.probes.items():
            if name != "linear":
                shares |= scores
        return {measure: 100 * share for measure, share in shares.items()} | cost


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


def conflict_rate(steps: list[dict], encoder: str) -> float | None:
    """Share of steps with cosine <= 0, of those that measured it; None if there are none."""
    values = [step[f"cosine/{encoder}"] for step in steps if f"cosine/{encoder}" in step]
    return sum(value <= 0 for value in values) / len(values) if values else None


def trains_heads(options: dict) -> bool:
    """Does the accuracy of the unimodal heads mean something?"""
    method = registry.load_class("methods", options["method"], "--method")
    return method.trains_unimodal_heads or len(options["modalities"]) == 1


def changed_flags(options: dict, usual: dict) -> list[str]:
    """The flags of `usual` that have another value, as one gives them; paths are left out."""
    changed = {k: options[k] for k, v in usual.items() if options.get(k, v) != v}
    return [f"--{k} {v}" for k, v in changed.items() if "/" not in str(v)]


def setting_of(options: dict, base: dict) -> list[str]:
    """The flags of encoders and fusion that are not the default, and what is not as in `base`."""
    usual = {flag: base[flag] for flag in compared_settings()}
    owners = [*encoder_classes(options["encoder"], options["modalities"]).values()]
    if len(options["modalities"]) > 1:
        owners.append(registry.load_class("models/fusion", options["fusion"], "--fusion"))
    for owner in owners:
        usual |= registry.defaults(owner)
    return changed_flags(options, usual)


def arm_of(options: dict, base: dict) -> str:
    """The method, those of its flags that are not the default, and `setting_of` the run."""
    if len(options["modalities"]) == 1:
        return f"{options['modalities'][0]} alone"
    method = registry.load_class("methods", options["method"], "--method")
    flags = changed_flags(options, registry.defaults(method))
    return " ".join([options["method"], *flags, *setting_of(options, base)])


def base_of(runs: list[Run]) -> dict:
    """{flag of `compared_settings`: the value most runs have}, which names of arms leave out."""
    return {flag: mode(run.options[flag] for run in runs) for flag in compared_settings()}


def group(runs: list[Run]) -> dict[str, list[Run]]:
    """{arm: its runs, which differ in their seed only}.

    Raises BadInput for a run that is not finished, for a seed that occurs twice, or for runs that
    differ in their data or in more than what they may differ in, see TOUCHES in
    training/flags.py, naming the difference.
    """
    for run in runs:
        count = run.options["epochs"]
        if len(run.epochs) < count:
            done = f"{len(run.epochs)} of {count} epochs done"
            raise BadInput(f"{run.folder}: {done}; finish it with --resume")
        if [record["epoch"] for record in run.epochs] != list(range(count)):
            expected = f"epochs 0 to {count - 1}, each once"
            raise BadInput(f"{run.folder}: metrics.jsonl does not hold {expected}")
    groups: dict[str, list[Run]] = {}
    base, reference = base_of(runs), max(runs, key=lambda run: len(run.modalities))
    for run in runs:
        check_comparable(run, reference)
        arm = arm_of(run.options, base)
        if run.seed in [other.seed for other in groups.get(arm, [])]:
            raise BadInput(f"{run.folder}: seed {run.seed} of {arm} is there twice")
        groups.setdefault(arm, []).append(run)
    return groups


def check_comparable(run: Run, reference: Run) -> None:
    """Raises BadInput where options that touch the results, or the data, are not the same."""
    _, touches, _ = flags_of_run({"options": run.options, "data": run.data})
    for flag in sorted(run.options.keys() & reference.options.keys()):  # a modality alone has fewer
        value, expected = run.options[flag], reference.options[flag]
        if touches[flag] == "results" and value != expected:
            raise BadInput(
                f"{run.folder}: --{flag} {value}, but {reference.folder} has {expected}; only runs "
                "with the same options share a table"
            )
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
