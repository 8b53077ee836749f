"""A finished (or interrupted) run -> its metrics on a split, per class, and probes of its encoders.

python evaluate.py runs/NAME                       metrics, per class, confusion matrix
python evaluate.py runs/NAME --probe linear        also a linear head on every frozen encoder
python evaluate.py runs/NAME --probe missing,noise,shapley,calibration
"""

from __future__ import annotations

import json
from pathlib import Path

from sklearn.metrics import confusion_matrix
from torch import Tensor

from analysis import probes, trained
from models.metrics import predict, score
from training.messages import align, main_branch
from utils.atomic import write_text
from utils.command import parser_of
from utils.errors import BadInput, run
from utils.run_folder import cost_of


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


def main(argv=None) -> None:
    parser = parser_of("evaluate.py", __doc__)
    parser.add_argument("run", type=Path, help="run folder, such as runs/demo-mmpareto-seed0")
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test")
    parser.add_argument(
        "--probe",
        default="none",
        metavar="A,B",
        help=f"of linear, {', '.join(probes.PROBES)}; default none. Each also to the run's "
        "probe_A.json",
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
    wanted = probes.read_probes(args.probe)
    if not all(level >= 0 for level in args.noise_levels):
        raise BadInput(f"--noise_levels {args.noise_levels}: must be at least 0")

    opt, dataset, loaders, model = trained.load_run(
        args.run, args.checkpoint, args.device, args.data_root
    )
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
        if name in probes.PROBES:
            probe = probes.PROBES[name]
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
