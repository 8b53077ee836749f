"""The paper's comparison on one data set, from training to tables and figures.

python reproduce.py --dataset avmnist            runs/avmnist/, figures ../pics/avmnist_*
python reproduce.py --dataset avmnist --quick    1 seed, 2 epochs; all in runs/avmnist-quick/
python reproduce.py --dataset demo --seeds 0,1,2,3,4 --jobs 2

Unimodal runs, one joint loss, uniform, conventional Pareto, MMPareto, its controls, other gammas;
report.py's tables and every figure of figures/. Interrupted or killed, the same command goes on.
Checkpoints, 360 MB a run with two ResNet-18, are kept of the five methods that figures show.
All other flags are sweep.py's and train.py's.
"""

from __future__ import annotations

from pathlib import Path

import draw
import report
import sweep
from utils.command import parser_of
from utils.errors import run

METHODS = ["joint", "uniform", "pareto", "mmpareto"]
GAIN = "uniform --encoder_grad_scale 1.5"  # control: the gain without any direction
OTHERS = [
    "mmpareto --gamma 1",  # the direction and its magnitude without the gain
    "mmpareto --rescale none",  # the magnitude not restored
    "mmpareto --rescale encoder",  # one scale per encoder in place of one per tensor
    "mmpareto --rescale encoder --gamma 1",  # Pareto's direction with exactly uniform's magnitude
    "random_weights",  # MMPareto's magnitude, weights drawn at random in conflict
    "mmpareto --gamma 2",
    "mmpareto --gamma 3",
]
PROBES = "linear,missing,noise,shapley,calibration"
QUICK = ["--seeds", "0", "--epochs", "2"]


def folders(where: Path, dataset: str, *arms: str) -> list[str]:
    """The runs of these arms, all seeds, in the order of the arms."""
    names = ["-".join(word.lstrip("-") for word in arm.split()) for arm in arms]
    return [str(f) for name in names for f in sorted(where.glob(f"{dataset}-{name}-seed*"))]


def main(argv=None) -> None:
    parser = parser_of("reproduce.py", __doc__)
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a file of dataset/")
    parser.add_argument("--quick", action="store_true", help=f"shorthand for {' '.join(QUICK)}")
    parser.add_argument(
        "--ckpt_path",
        type=Path,
        metavar="DIR",
        help="everything goes there, figures to DIR/pics (default: as above)",
    )
    args, flags = parser.parse_known_args(argv)
    name = args.dataset.lower()
    where = args.ckpt_path or Path("runs") / (f"{name}-quick" if args.quick else name)
    pictures = where / "pics" if args.quick or args.ckpt_path else Path("../pics")

    given = ["--dataset", name, "--ckpt_path", str(where), "--seeds", "0,1,2"]
    given += [*(QUICK if args.quick else []), *flags]
    arms = [word for arm in OTHERS for word in ("--arm", arm)]
    sweep.main(["--methods", ",".join(METHODS), "--arm", GAIN, "--probe", PROBES, *given])
    sweep.main(["--each_modality", *arms, "--probe", "linear", "--checkpoints", "delete", *given])

    report.main(folders(where, name, "joint-modalities-*", *METHODS, GAIN, *OTHERS))
    shown = folders(where, name, *METHODS, GAIN)
    one = folders(where, name, "mmpareto")[:1]
    pair = folders(where, name, "joint")[:1] + one
    gammas = [f"mmpareto --gamma {value}" for value in (1, 2, 3)]
    for figure, runs in {
        "overview": shown,
        "cosine": one,
        "plane": shown,
        "norms": one,
        "weights": one,
        "curves": shown,
        "gamma": folders(where, name, "mmpareto", *gammas),
        "landscape": shown,
        "features": pair,
        "noise": shown,
    }.items():
        draw.main([figure, *runs, "--output", str(pictures / f"{name}_{figure}")])


if __name__ == "__main__":
    run(main)
