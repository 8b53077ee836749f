"""A finished (or interrupted) run -> its metrics on a split, per class, and probes of its encoders.

python evaluate.py runs/NAME                       metrics, per class, confusion matrix
python evaluate.py runs/NAME --probe linear        also a linear head on every frozen encoder
python evaluate.py runs/NAME --probe missing,noise,shapley,calibration
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sklearn.metrics import confusion_matrix
from torch import Tensor

from train import build_model
from utils import checkpoint, probes, registry
from utils.atomic import write_text
from utils.command import parser_of
from utils.errors import BadInput, run
from utils.loading import build_loaders
from utils.metrics import predict, score
from utils.options import choose_device, settings_of_loaders
from utils.record import cost_of
from utils.summary import align, main_branch


def load_run(folder: Path, which: str, device: str, data_root: Path | None = None):
    """(options, data set, loaders, model) of a run folder, with the weights of `which`.pt."""
    opt = argparse.Namespace(**checkpoint.read_options(folder)["options"])
    opt.device, opt.gpu_ids = device, None
    opt.device = choose_device(opt)
    opt.data_root = data_root or Path(opt.data_root)
    opt.pretrained = False  # the weights are those of the checkpoint
    dataset = registry.load_class("dataset", opt.dataset, "--dataset")(opt.data_root)
    state = checkpoint.load(folder / f"{which}.pt")
    loaders = build_loaders(dataset, opt.modalities, vars(opt), **settings_of_loaders(opt))
    model = build_model(opt, dataset, loaders["test"].dataset.readers)
    model.load_state_dict(state["model"])
    return opt, dataset, loaders, model.to(opt.device)


def per_class(logits: dict[str, Tensor], target: Tensor, classes: list[str]) -> str:
    """Accuracy of every class and branch in percent, as text."""
    rows = [["class", "n", *logits]]
    for k, name in enumerate(classes):
        own = target == k
        if own.any():
            hits = [f"{100 * (v.argmax(1)[own] == k).double().mean():.2f}" for v in logits.values()]
            rows.append([name, str(int(own.sum())), *hits])
    return align(rows)


def confusion(logits: Tensor, target: Tensor, classes: list[str]) -> str:
    """Counts as text: a row per true class, a column per predicted one."""
    counts = confusion_matrix(target, logits.argmax(1), labels=range(len(classes)))
    rows = [["true \\ predicted", *classes]]
    rows += [[name, *(str(n) for n in row)] for name, row in zip(classes, counts)]
    return align(rows)


def probe_missing(model, loader, modalities: list[str], branch: str, args) -> dict[str, float]:
    """Accuracy with every input, and with one modality's input zero."""
    del args
    found = {"missing/none": probes.accuracy(model, loader, branch)}
    for m in modalities:
        found[f"missing/{m}"] = probes.accuracy(model, probes.without(loader, m), branch)
    return found


def probe_noise(model, loader, modalities: list[str], branch: str, args) -> dict[str, float]:
    """Accuracy with Gaussian noise on one modality, per level in deviations of its input."""
    return {
        f"noise/{m}/{level:g}": probes.accuracy(model, probes.with_noise(loader, m, level), branch)
        for m in modalities
        for level in args.noise_levels
    }


def probe_shapley(model, loader, modalities: list[str], branch: str, args) -> dict[str, float]:
    """Contribution of every modality to the accuracy, the others' inputs exchanged."""
    del args
    found = probes.shapley(model, loader, modalities, branch)
    return {f"shapley/{m}": value for m, value in found.items()}


def probe_calibration(model, loader, modalities: list[str], branch: str, args) -> dict[str, float]:
    """Expected calibration error of every branch."""
    del modalities, branch, args
    logits, _, target = predict(model, loader)
    return {f"calibration/{b}": probes.calibration_error(x, target) for b, x in logits.items()}


PROBES = {  # {what: share in [0, 1]}; besides linear, which needs the training split
    "missing": probe_missing,
    "noise": probe_noise,
    "shapley": probe_shapley,
    "calibration": probe_calibration,
}


def read_probes(text: str) -> list[str]:
    """The names in a list such as linear,noise. Raises BadInput for one that does not exist."""
    wanted = [name for name in text.split(",") if name != "none"]
    if unknown := [name for name in wanted if name not in ("linear", *PROBES)]:
        raise BadInput(f"--probe {unknown[0]}: choose from none, linear, {', '.join(PROBES)}")
    return wanted


def main(argv=None) -> None:
    parser = parser_of("evaluate.py", __doc__)
    parser.add_argument("run", type=Path, help="run folder, such as runs/demo-mmpareto-seed0")
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test")
    parser.add_argument(
        "--probe",
        default="none",
        metavar="A,B",
        help=f"of linear, {', '.join(PROBES)}; default none. Each also to the run's probe_A.json",
    )
    parser.add_argument(
        "--noise_levels",
        type=lambda text: [float(level) for level in text.split(",")],
        default=[0, 0.5, 1, 2, 4],
        metavar="0,1,2",
        help="of --probe noise, in standard deviations of the modality's own input",
    )
    parser.add_argument("--data_root", type=Path, help="if the data have moved since the run")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    args = parser.parse_args(argv)
    wanted = read_probes(args.probe)
    if not all(level >= 0 for level in args.noise_levels):
        raise BadInput(f"--noise_levels {args.noise_levels}: must be at least 0")

    opt, dataset, loaders, model = load_run(args.run, args.checkpoint, args.device, args.data_root)
    loaders["train"] = loaders["train_plain"]
    if args.split not in loaders:
        raise BadInput(f"--split {args.split}: this run held out nothing (--val_fraction 0)")
    logits, features, target = predict(model, loaders[args.split])
    if "linear" in wanted:
        _, train_features, train_target = predict(model, loaders["train"])
        for modality in opt.modalities:
            logits[f"{modality} probe"] = probes.linear_probe(
                (train_features[modality], train_target), (features[modality], target)
            )

    scores = score(logits, target)
    rows = [[f"{args.split} split, {args.checkpoint}.pt, %", "accuracy", "macro F1"]]
    for branch in logits:
        values = (scores[f"accuracy/{branch}"], scores[f"macro_f1/{branch}"])
        rows.append([branch, *(f"{100 * value:.2f}" for value in values)])
    print(align(rows))
    print(f"\naccuracy per class, %\n{per_class(logits, target, dataset.classes)}")
    for branch, values in logits.items():
        print(f"\nconfusion, {branch}\n{confusion(values, target, dataset.classes)}")
    about = {"checkpoint": args.checkpoint, "split": args.split}
    found = {"linear": {"scores": scores}} if "linear" in wanted else {}
    branch = main_branch(opt.modalities)
    for name in wanted:
        if name in PROBES:
            probe = PROBES[name]
            shares = probe(model, loaders[args.split], opt.modalities, branch, args)
            found[name] = {"scores": shares}
            rows = [[key, f"{100 * share:.2f}"] for key, share in shares.items()]
            print(f"\n{probe.__doc__} %, {branch} branch:\n{align(rows)}")
    for name, content in found.items():
        write_text(args.run / f"probe_{name}.json", json.dumps(about | content, indent=1))
    if cost := cost_of(args.run):
        told = ", ".join(f"{what} {value:.2f}" for what, value in cost.items())
        print(f"\ncost of the training: {told}")
    if args.json:
        write_text(args.json, json.dumps(scores, indent=1))


if __name__ == "__main__":
    run(main)
