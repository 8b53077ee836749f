"""Finished (or interrupted) runs -> metrics on a split, per class, and probes of their encoders.

python evaluate.py runs/NAME                       metrics, per class, confusion as a picture
python evaluate.py runs/NAME --probe linear        also a linear head on every frozen encoder
python evaluate.py runs/NAME --probe missing,noise,shapley,calibration
python evaluate.py runs/avmnist-* --json all.json  several runs, and the answer to every sample
"""

import argparse
import json
from pathlib import Path

from sklearn.metrics import confusion_matrix
from torch import Tensor

from analysis import probes, trained
from analysis.tables import heading
from figures._style import draw_confusion
from models.metrics import answers, predict, score
from training.messages import align, main_branch
from utils.atomic import write_text
from utils.command import Parser, listed
from utils.errors import BadInput, run_command
from utils.run_folder import cost_of, write_result


def per_class(logits: dict[str, Tensor], target: Tensor) -> dict[str, dict[int, float]]:
    """{branch: {class: accuracy in [0, 1]}} of the classes that are there."""
    hits = {branch: (answers(x) == target).double() for branch, x in logits.items()}
    return {
        b: {k: of[target == k].mean().item() for k in present(target)} for b, of in hits.items()
    }


def present(target: Tensor) -> list[int]:
    return target.unique().tolist()


def table_of_classes(accuracies: dict, target: Tensor, classes: list[str]) -> str:
    """`per_class` in percent, as text."""
    rows = [["class", "n", *accuracies]]
    for k in present(target):
        shares = [f"{100 * of_branch[k]:.2f}" for of_branch in accuracies.values()]
        rows.append([classes[k], f"{(target == k).sum()}", *shares])
    return align(rows)


def confusion(logits: dict[str, Tensor], target: Tensor, classes: list[str]) -> dict:
    """{branch: counts [true class][answered class]}; a sample without an answer is in none."""
    labels = range(len(classes))
    return {
        branch: confusion_matrix(target, answers(x), labels=labels).tolist()
        for branch, x in logits.items()
    }


def answers_by_sample(loader, logits: dict[str, Tensor], target: Tensor, classes) -> dict:
    """{id: {"target": class, branch: class, or null where there is no answer}}."""
    names = [*classes, None]  # -1 is no class
    columns = {"target": target} | {branch: answers(x) for branch, x in logits.items()}
    named = {key: [names[k] for k in column.tolist()] for key, column in columns.items()}
    rows = (dict(zip(named, row)) for row in zip(*named.values()))
    return {sample.id: row for sample, row in zip(loader.dataset.samples, rows)}


def read_options(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser("evaluate.py", __doc__)
    add = parser.add_argument
    add("runs", type=Path, nargs="+", help="run folders, such as runs/demo-mmpareto-seed0")
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
    add("--json", type=Path, metavar="FILE", help="all of it, and the answer to every sample")
    options = parser.parse_args(argv)
    options.probe = probes.read_probes(options.probe)
    if not all(level >= 0 for level in options.noise_levels):
        raise BadInput(f"--noise_levels {options.noise_levels}: must be at least 0")
    return options


def evaluate(folder: Path, options: argparse.Namespace) -> dict:
    """Prints what a run scores, keeps its probes and its confusion picture in its folder.

    Returns {"scores", "per_class", "confusion", "answers", "probes"}, shares in [0, 1].
    """
    run_options, dataset, loaders, model = trained.load_run(
        folder, options.checkpoint, options.device, options.data_root
    )
    loaders["train"] = loaders["train_plain"]
    if options.split not in loaders:
        raise BadInput(f"--split {options.split}: {folder} held out nothing (--val_fraction 0)")
    loader, branch = loaders[options.split], main_branch(run_options.modalities)

    # The branches, and with --probe linear what is fitted to the encoders' features
    logits, features, target = predict(model, loader)
    if "linear" in options.probe:
        _, train_features, train_target = predict(model, loaders["train"])
        for m, x in features.items():
            train = train_features[m], train_target
            logits[f"{m} probe"] = probes.linear_probe(train, (x, target))
    scores, classes = score(logits, target), dataset.classes
    rows = [[f"{options.split} split, {options.checkpoint}.pt, %", "accuracy", "macro F1"]]
    for name in logits:
        shares = scores[f"accuracy/{name}"], scores[f"macro_f1/{name}"]
        rows.append([name, *(f"{100 * share:.2f}" for share in shares)])
    accuracies, counts = per_class(logits, target), confusion(logits, target, classes)
    print(
        f"{align(rows)}\n\naccuracy per class, %\n{table_of_classes(accuracies, target, classes)}"
    )
    picture = folder / f"confusion_{options.split}_{options.checkpoint}.png"
    draw_confusion(counts, classes, picture)
    print(f"\nconfusion: {picture}")

    probed = {}
    for name in options.probe:
        probed[name] = scores  # of linear
        if name != "linear":
            title, measure = probes.PROBES[name]
            probed[name] = measure(model, loader, run_options, options)
            rows = [[key, f"{100 * share:.2f}"] for key, share in probed[name].items()]
            print(f"\n{title.format(branch=branch)}, %\n{align(rows)}")
        result = {"split": options.split, "scores": probed[name]}
        write_result(folder / f"probe_{name}.json", options.checkpoint, result)
    if cost := cost_of(folder):
        parts = [f"{heading(measure)} {value:.2f}" for measure, value in cost.items()]
        print(f"\ncost of the training: {'; '.join(parts)}")
    return {
        "scores": scores,
        "per_class": {b: {classes[k]: x for k, x in of.items()} for b, of in accuracies.items()},
        "classes": classes,
        "confusion": counts,
        "answers": answers_by_sample(loader, logits, target, classes),
        "probes": probed,
    }


def main(argv: list[str] | None = None) -> None:
    options = read_options(argv)
    results = {}
    for position, folder in enumerate(options.runs):
        if len(options.runs) > 1:
            print(f"{chr(10) * (position > 0)}{folder}\n")
        results[str(folder)] = evaluate(folder, options)
    if options.json:
        write_text(options.json, json.dumps(results, indent=1))


if __name__ == "__main__":
    run_command(main)
