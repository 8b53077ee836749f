"""Figures from stored runs, each a file of figures/, written as .svg and .png.

python draw.py cosine runs/avmnist-mmpareto-seed0
python draw.py plane runs/avmnist-* --output ../pics/avmnist_plane
python draw.py NAME --help                     what the figure shows, and its flags
"""

import sys
from pathlib import Path

from analysis.runs import read_runs
from figures._style import save
from utils import registry
from utils.command import Parser
from utils.errors import BadInput, run_command


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0].startswith("-"):
        names = ", ".join(registry.names("figures"))
        raise BadInput(f"name a figure: {names}; see python draw.py NAME --help")
    name = argv[0]
    module = registry.load("figures", name, "draw.py")
    parser = Parser(f"draw.py {name}", module.__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders; files are left out")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("../pics") / name,
        metavar="PREFIX",
        help=f"of the files .svg and .png (default: ../pics/{name})",
    )
    if "add_options" in vars(module):
        module.add_options(parser)
    options = parser.parse_args(argv[1:])
    runs = read_runs(options.runs)
    save(module.draw(runs, options), options.output)


if __name__ == "__main__":
    run_command(main)
