"""A grid of runs: methods, seeds, and any flag of train.py with several values.

python sweep.py --methods joint,uniform,pareto,mmpareto --seeds 0,1,2 --dataset avmnist
python sweep.py --methods mmpareto --gamma 1,1.5,2 --seeds 0,1,2 --dataset avmnist --jobs 2
python sweep.py --arm joint --arm "uniform --encoder_grad_scale 1.5" --seeds 0,1 --dataset demo

What is done is skipped and what was interrupted goes on, so the same command can be given again at
any time, also after a kill. A run that fails does not end the others; it is named at the end. Flags
that only some runs have (of a method, of a kind of file) are given to those. Then:
python report.py runs/DATASET-*
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from analysis import probes
from training.grid import carry_out
from utils.command import Parser, count
from utils.errors import run_command


def read_options(argv) -> tuple[argparse.Namespace, list[str]]:
    """The flags of this command, and those that are train.py's."""
    parser = Parser(
        "sweep.py",
        __doc__,
        epilog="All other flags are train.py's, with one value or several, such as --gamma 1,2.",
    )
    add = parser.add_argument
    add("--methods", metavar="A,B", help="files of methods/, or all")
    add("--arm", action="append", default=[], help="one method with flags of its own, quoted")
    add("--each_modality", action="store_true", help="also one run with each modality alone")
    add("--seeds", default="0", metavar="0,1,2", help="random seeds, one run each")
    add("--dataset", required=True, type=str.lower, metavar="NAME", help="a file of dataset/")
    add("--data_root", type=Path, metavar="DIR", help="prepared data set (default: data/NAME)")
    add("--ckpt_path", type=Path, default=Path("runs"), metavar="DIR", help="where run folders go")
    add("--jobs", type=count, default=1, metavar="N", help="runs at the same time, on this machine")
    add(
        "--scheduler",
        metavar="ADDRESS",
        help="of a Dask cluster, or its scheduler file: runs are trained by its workers",
    )
    add("--probe", default="none", metavar="A,B", help="also evaluate.py --probe A,B on every run")
    add(
        "--checkpoints",
        choices=("keep", "delete"),
        default="keep",
        help="of runs that are done: 360 MB each with two ResNet-18",
    )
    options, flags = parser.parse_known_args(argv)
    options.probe = probes.read_probes(options.probe)
    if options.scheduler:  # its workers may stand in other folders
        options.ckpt_path = options.ckpt_path.absolute()
        options.data_root = options.data_root and options.data_root.absolute()
    return options, flags


def main(argv=None) -> None:
    if any(carry_out(*read_options(argv)).values()):
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
