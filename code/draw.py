"""Figures from stored runs, each a file of figures/, written as .svg and .png.

python draw.py cosine runs/avmnist-mmpareto-seed0
python draw.py plane runs/avmnist-* --output ../pics/avmnist_plane
python draw.py NAME --help                     what the figure shows, and its flags
"""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path

from analysis.runs import read_run
from figures._style import save
from utils import registry
from utils.command import parser_of
from utils.errors import BadInput, run


def main(argv=None) -> None:
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("figure", nargs="?")
    chosen = first.parse_known_args(argv)[0].figure
    if chosen is None:
        names = ", ".join(registry.names("figures"))
        raise BadInput(f"name a figure: {names}; see python draw.py NAME --help")
    module = registry.load("figures", chosen, "draw.py")
    parser = parser_of(f"draw.py {chosen}", inspect.getdoc(module))
    parser.add_argument("figure", help=argparse.SUPPRESS)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("../pics") / chosen,
        metavar="PREFIX",
        help=f"of the files .svg and .png (default: ../pics/{chosen})",
    )
    if "add_options" in vars(module):
        module.add_options(parser)
    options = parser.parse_args(argv)
    runs = [read_run(folder) for folder in options.runs]
    save(module.draw(runs, options), options.output)


if __name__ == "__main__":
    run(main)
