"""A finished (or interrupted) run -> its metrics on a split, per class, and probes of its encoders.

python evaluate.py runs/NAME                       metrics, per class, confusion matrix
python evaluate.py runs/NAME --probe linear        also a linear head on every frozen encoder
python evaluate.py runs/NAME --probe missing,noise,shapley,calibration
"""

import argparse
import json
from pathlib import Path

from sklearn.metrics import confusion_matrix
from torch import Tensor

from analysis import probes, trained
from analysis.tables import heading
from models.metrics import answers, predict, score
from training.messages import align, main_branch
from utils.atomic import write_text
from utils.command import Parser, listed
from utils.errors import BadInput, run_command
from utils.run_folder import cost_of, write_result


def per_class(logits: dict[str, Tensor], target: Tensor, classes: list[str]) -> str:
    """Accuracy of every class and branch in percent, as text."""
    rows = [["class", "n", *logits]]
    for k, name in enumerate(classes):
        of_class = target == k
        if of_class.any():
            shares = [(answers(x)[of_class] == k).double().mean() for x in logits.values()]
            rows.append([name, f"{of_class.sum()}", *(f"{100 * share:.2f}" for share in shares)])
    return align(rows)


def confusion(logits: Tensor, target: Tensor, classes: list[str]) -> str:
    """Counts as text: a row per true class, a column per predicted one. A sample without an answer
    is in no column."""
    counts = confusion_matrix(target, answers(logits), labels=range(len(classes)))
    rows = [[name, *map(str, row)] for name, row in zip(classes, counts)]
    return align([["true \\ predicted", *classes], *rows])


def read_options(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser("evaluate.py", __doc__)
    add = parser.add_argument
    add("run", type=Path, help="run folder, such as runs/demo-mmpareto-seed0")
    trained.add_options(parser)
    add("--split", choices=("train", "val", "test"), default="test")
    names = f"of linear, {', '.join(probes.PROBES)}; default none"
    also = "Each also to the run's probe_A.json"
    add("--probe", default="none", metavar="A,B", help=f"{names}. {also}")
    add(
        "--noise_levels",
        type=listed(float),
        default=[0, 0.5, 1, 2, 4],
        metavar="0,1,2",
        help="of --probe noise, in standard deviations of the modality's own input",
    )
    add("--data_root", type=Path, help="if the data have moved since the run")
    add("--json", type=Path, metavar="FILE", help="also write the numbers here")
    options = parser.parse_args(argv)
    options.probe = probes.read_probes(options.probe)
    if not all(level >= 0 for level in options.noise_levels):
        raise BadInput(f"--noise_levels {options.noise_levels}: must be at least 0")
    return options


def main(argv: list[str] | None = None) -> None:
    options = read_options(argv)
    run_options, dataset, loaders, model = trained.load_run(
        options.run, options.checkpoint, options.device, options.data_root
    )
    loaders["train"] = loaders["train_plain"]
    if options.split not in loaders:
        raise BadInput(f"--split {options.split}: this run held out nothing (--val_fraction 0)")
    loader, branch = loaders[options.split], main_branch(run_options.modalities)

    # The branches, and with --probe linear what is fitted to the encoders' features
    logits, features, target = predict(model, loader)
    if "linear" in options.probe:
        _, train_features, train_target = predict(model, loaders["train"])
        for m, x in features.items():
            train = train_features[m], train_target
            logits[f"{m} probe"] = probes.linear_probe(train, (x, target))
    scores = score(logits, target)
    rows = [[f"{options.split} split, {options.checkpoint}.pt, %", "accuracy", "macro F1"]]
    for name in logits:
        shares = scores[f"accuracy/{name}"], scores[f"macro_f1/{name}"]
        rows.append([name, *(f"{100 * share:.2f}" for share in shares)])
    print(align(rows))
    print(f"\naccuracy per class, %\n{per_class(logits, target, dataset.classes)}")
    for name, x in logits.items():
        print(f"\nconfusion, {name}\n{confusion(x, target, dataset.classes)}")
    if options.json:
        write_text(options.json, json.dumps(scores, indent=1))

    for name in options.probe:
        shares = scores  # of linear
        if name != "linear":
            title, measure = probes.PROBES[name]
            shares = measure(model, loader, branch, options)
            rows = [[key, f"{100 * share:.2f}"] for key, share in shares.items()]
            print(f"\n{title.format(branch=branch)}, %\n{align(rows)}")
        result = {"split": options.split, "scores": shares}
        write_result(options.run / f"probe_{name}.json", options.checkpoint, result)
    if cost := cost_of(options.run):
        parts = [f"{heading(measure)} {value:.2f}" for measure, value in cost.items()]
        print(f"\ncost of the training: {'; '.join(parts)}")


if __name__ == "__main__":
    run_command(main)
