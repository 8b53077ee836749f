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

from analysis import probes, trained
from analysis.tables import heading
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
        of_class = target == k
        if count := int(of_class.sum()):
            hits = [int((x.argmax(1)[of_class] == k).sum()) for x in logits.values()]
            rows.append([name, str(count), *(f"{100 * n / count:.2f}" for n in hits)])
    return align(rows)


def confusion(logits: Tensor, target: Tensor, classes: list[str]) -> str:
    """Counts as text: a row per true class, a column per predicted one."""
    counts = confusion_matrix(target, logits.argmax(1), labels=range(len(classes)))
    rows = [["true \\ predicted", *classes]]
    rows += [[name, *map(str, row)] for name, row in zip(classes, counts)]
    return align(rows)


def read_arguments(argv) -> argparse.Namespace:
    parser = parser_of("evaluate.py", __doc__)
    add = parser.add_argument
    add("run", type=Path, help="run folder, such as runs/demo-mmpareto-seed0")
    trained.add_options(parser)
    add("--split", choices=("train", "val", "test"), default="test")
    add(
        "--probe",
        default="none",
        metavar="A,B",
        help=f"of linear, {', '.join(probes.PROBES)}; default none. Each also to the run's "
        "probe_A.json",
    )
    add(
        "--noise_levels",
        type=lambda text: [float(level) for level in text.split(",")],
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


def main(argv=None) -> None:
    options = read_arguments(argv)
    run_options, dataset, loaders, model = trained.load_run(
        options.run, options.checkpoint, options.device, options.data_root
    )
    loaders["train"] = loaders["train_plain"]
    if options.split not in loaders:
        raise BadInput(f"--split {options.split}: this run held out nothing (--val_fraction 0)")
    loader, branch = loaders[options.split], main_branch(run_options.modalities)

    def store(probe: str, scores: dict[str, float]) -> None:
        content = {"checkpoint": options.checkpoint, "split": options.split, "scores": scores}
        write_text(options.run / f"probe_{probe}.json", json.dumps(content, indent=1))

    # The branches, and with --probe linear the encoders' features
    logits, features, target = predict(model, loader)
    if "linear" in options.probe:
        _, known, known_target = predict(model, loaders["train"])
        for m in run_options.modalities:
            train, test = (known[m], known_target), (features[m], target)
            logits[f"{m} probe"] = probes.linear_probe(train, test)
    scores = score(logits, target)
    if "linear" in options.probe:
        store("linear", scores)
    if options.json:
        write_text(options.json, json.dumps(scores, indent=1))

    rows = [[f"{options.split} split, {options.checkpoint}.pt, %", "accuracy", "macro F1"]]
    for name in logits:
        shares = scores[f"accuracy/{name}"], scores[f"macro_f1/{name}"]
        rows.append([name, *(f"{100 * share:.2f}" for share in shares)])
    print(align(rows))
    print(f"\naccuracy per class, %\n{per_class(logits, target, dataset.classes)}")
    for name, x in logits.items():
        print(f"\nconfusion, {name}\n{confusion(x, target, dataset.classes)}")

    # The other probes, which run the model on changed inputs
    for name in options.probe:
        if name != "linear":
            title, measure = probes.PROBES[name]
            shares = measure(model, loader, branch, options)
            store(name, shares)
            rows = [[key, f"{100 * share:.2f}"] for key, share in shares.items()]
            print(f"\n{title.format(branch=branch)}, %\n{align(rows)}")

    if cost := cost_of(options.run):
        parts = [f"{heading(measure)} {value:.2f}" for measure, value in cost.items()]
        print(f"\ncost of the training: {'; '.join(parts)}")


if __name__ == "__main__":
    run(main)
