"""Stored runs, read for tables and figures: which belong together, and what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mode

from models.multimodal import encoder_classes
from training.messages import main_branch, selections
from training.options import compared_settings, flags_of_run
from training.resume import read_options
from utils import registry
from utils.errors import BadInput
from utils.run_folder import cost_of, read_jsonl


def read_run(folder: Path) -> dict:
    """Options, environment, epochs and probes of a run. Raises BadInput unless complete."""
    content = read_options(folder)
    epochs = read_jsonl(folder / "metrics.jsonl")
    wanted = content["options"]["epochs"]
    if len(epochs) < wanted:
        raise BadInput(f"{folder}: {len(epochs)} of {wanted} epochs done; finish it with --resume")
    if [record["epoch"] for record in epochs] != list(range(wanted)):
        raise BadInput(f"{folder}: metrics.jsonl does not hold epochs 0 to {wanted - 1}, each once")
    content["probes"] = {}
    for file in sorted(folder.glob("probe_*.json")):
        name, probe = file.stem.removeprefix("probe_"), json.loads(file.read_text())
        if (probe["checkpoint"], probe["split"]) != ("last", "test"):
            raise BadInput(
                f"{file}: of {probe['checkpoint']}.pt on the {probe['split']} split, tables show "
                f"the last epoch on the test split; run evaluate.py {folder} --probe {name} again"
            )
        content["probes"][name] = probe["scores"]
    return content | {"folder": folder, "epochs": epochs}


def flags_of_method(options: dict) -> dict:
    """{flag: default} of what the method's file adds to the command line."""
    return registry.defaults(registry.load_class("methods", options["method"], "--method"))


def flags_of_model(options: dict) -> dict:
    """{flag: default} of what the files of encoders and fusion add to the command line."""
    owners = [*encoder_classes(options["encoder"], options["modalities"]).values()]
    if len(options["modalities"]) > 1:
        owners.append(registry.load_class("models/fusion", options["fusion"], "--fusion"))
    return {flag: value for owner in owners for flag, value in registry.defaults(owner).items()}


def otherwise(options: dict, usual: dict) -> list[str]:
    """The flags of `usual` that have another value, as one gives them; paths are left out."""
    changed = {k: options[k] for k, v in usual.items() if options.get(k, v) != v}
    return [f"--{k} {v}" for k, v in changed.items() if "/" not in str(v)]


def setting_of(options: dict, base: dict) -> list[str]:
    """What of `compared_settings`, and of the flags of encoders and fusion, is not as in `base`."""
    return otherwise(options, {k: base[k] for k in compared_settings()} | flags_of_model(options))


def label_of(options: dict, base: dict) -> str:
    """The method, those of its flags that are not the default, and the run's setting."""
    if len(options["modalities"]) == 1:
        return f"{options['modalities'][0]} alone"
    own = otherwise(options, flags_of_method(options))
    return " ".join([options["method"], *own, *setting_of(options, base)])


def base_of(runs: list[dict]) -> dict:
    """{flag of `compared_settings`: the value most runs have}, which labels leave out."""
    return {k: mode(r["options"][k] for r in runs) for k in compared_settings()}


def group(runs: list[dict]) -> dict[str, list[dict]]:
    """{label: runs that differ in their seed only}.

    Raises BadInput for a seed that occurs twice, or for runs that differ in their data or in more
    than what they may differ in, see TOUCHES in training/options.py, naming the difference.
    """
    groups: dict[str, list[dict]] = {}
    first = max(runs, key=lambda r: len(r["options"]["modalities"]))
    base = base_of(runs)
    for r in runs:
        opt, label = r["options"], label_of(r["options"], base)
        touches = flags_of_run(r)[1]
        shared = opt.keys() & first["options"].keys()  # a run with one modality has fewer
        for key in sorted(k for k in shared if touches[k] == "results"):
            if opt[key] != first["options"][key]:
                raise BadInput(
                    f"{r['folder']}: --{key} {opt[key]}, but {first['folder']} has "
                    f"{first['options'][key]}; only runs with the same options share a table"
                )
        for key in ("classes", "samples", "preparation"):
            own, wanted = (data_of(x).get(key) for x in (r, first))
            if own != wanted and (key != "samples" or None not in (own, wanted)):  # older: unsaid
                raise BadInput(
                    f"{r['folder']}: trained on data with {key} {own}, {first['folder']} with "
                    f"{wanted}; only runs on the same data share a table"
                )
        if opt["random_seed"] in [o["options"]["random_seed"] for o in groups.get(label, [])]:
            raise BadInput(f"{r['folder']}: seed {opt['random_seed']} of {label} is there twice")
        groups.setdefault(label, []).append(r)
    return groups


def data_of(one: dict) -> dict:
    """What the run says of its data, the samples held out counted among those of training."""
    data = dict(one.get("data") or {})
    if held_out := (data.get("samples") or {}).get("val"):
        counts = {k: n for k, n in data["samples"].items() if k != "val"}
        data["samples"] = {k: n + held_out * k.startswith("train") for k, n in counts.items()}
    return data


def conflict_rate(records: list[dict], encoder: str) -> float | None:
    values = [r[f"cosine/{encoder}"] for r in records if f"cosine/{encoder}" in r]
    return sum(v <= 0 for v in values) / len(values) if values else None


def trains_heads(options: dict) -> bool:
    """Does the accuracy of the unimodal heads mean something?"""
    method = registry.load_class("methods", options["method"], "--method")
    return method.trains_unimodal_heads or len(options["modalities"]) == 1


def measures_of(one: dict) -> dict[str, float]:
    """{measure: value} of a run, shares in percent; what was not measured is left out."""
    opt, found = one["options"], {}
    branch = main_branch(opt["modalities"])
    chosen = selections(one["epochs"], branch)
    last = chosen["last epoch"]
    found["multimodal"] = 100 * last[f"test/accuracy/{branch}"]
    for selection, record in list(chosen.items())[1:]:
        found[selection] = 100 * record[f"test/accuracy/{branch}"]
    found["F1 multimodal"] = 100 * last[f"test/macro_f1/{branch}"]
    heads = trains_heads(opt)
    steps = read_jsonl(one["folder"] / "steps.jsonl")
    for modality in opt["modalities"]:
        if heads:
            found[f"{modality} head"] = 100 * last[f"test/accuracy/{modality}"]
            found[f"F1 {modality} head"] = 100 * last[f"test/macro_f1/{modality}"]
        if linear := one["probes"].get("linear"):
            found[f"{modality} probe"] = 100 * linear[f"accuracy/{modality} probe"]
            found[f"F1 {modality} probe"] = 100 * linear[f"macro_f1/{modality} probe"]
        if (rate := conflict_rate(steps, modality)) is not None:
            found[f"conflict {modality}"] = 100 * rate
    for name, scores in one["probes"].items():
        if name != "linear":
            found |= {key: 100 * share for key, share in scores.items()}
    found |= cost_of(one["folder"])
    return found
