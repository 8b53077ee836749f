"""A finished (or interrupted) run -> its metrics on a split, per class, and probes of its encoders.

python evaluate.py runs/NAME                       metrics, per class, confusion matrix
python evaluate.py runs/NAME --probe linear        also a linear head on every frozen encoder
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from train import build_model
from utils import checkpoint, registry
from utils.atomic import write_text
from utils.errors import BadInput, run
from utils.loading import build_loaders
from utils.metrics import predict, score
from utils.options import choose_device
from utils.summary import align


def load_run(folder: Path, which: str, device: str, data_root: Path | None = None):
    """(options, data set, loaders, model) of a run folder, with the weights of `which`.pt."""
    stored = folder / "options.json"
    if not stored.is_file():
        raise BadInput(f"{folder}: no run folder, it has no options.json")
    opt = argparse.Namespace(**json.loads(stored.read_text())["options"])
    opt.device, opt.gpu_ids = device, None
    opt.device = choose_device(opt)
    opt.data_root = data_root or Path(opt.data_root)
    dataset = registry.load("dataset", opt.dataset, "--dataset").Dataset(opt.data_root)
    state = checkpoint.load(folder / f"{which}.pt")
    loaders = build_loaders(dataset, opt)
    model = build_model(opt, dataset, loaders["test"].dataset.readers)
    model.load_state_dict(state["model"])
    return opt, dataset, loaders, model.to(opt.device)


def linear_probe(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Tensor:
    """Test logits (N, K) of a linear classifier fitted to frozen features.

    Standardised features, L2-regularised logistic regression (C = 1): the same for every encoder,
    so that heads trained with little or no weight do not hide what an encoder knows.

    train, test: features (N, D) and targets (N,).
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 300 steps are the definition here
        probe.fit(train[0].numpy(), train[1].numpy())
    known = probe.predict_proba(test[0].numpy())
    logits = torch.full((len(known), int(train[1].max()) + 1), -torch.inf, dtype=torch.double)
    logits[:, torch.from_numpy(probe.classes_)] = torch.from_numpy(known).double().log()
    return logits


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
    parser = argparse.ArgumentParser(
        prog="evaluate.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, help="run folder, such as runs/demo-mmpareto-seed0")
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test")
    parser.add_argument("--probe", choices=("none", "linear"), default="none")
    parser.add_argument("--data_root", type=Path, help="if the data have moved since the run")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    args = parser.parse_args(argv)

    opt, dataset, loaders, model = load_run(args.run, args.checkpoint, args.device, args.data_root)
    loaders["train"] = loaders["train_plain"]
    if args.split not in loaders:
        raise BadInput(f"--split {args.split}: this run held out nothing (--val_fraction 0)")
    logits, features, target = predict(model, loaders[args.split])
    if args.probe == "linear":
        _, train_features, train_target = predict(model, loaders["train"])
        for modality in opt.modalities:
            logits[f"{modality} probe"] = linear_probe(
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
    if args.probe != "none":
        found = {"checkpoint": args.checkpoint, "split": args.split, "scores": scores}
        write_text(args.run / f"probe_{args.probe}.json", json.dumps(found, indent=1))
    if args.json:
        write_text(args.json, json.dumps(scores, indent=1))


if __name__ == "__main__":
    run(main)
