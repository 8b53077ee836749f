"""Figures from stored runs, each a file of figures/, written as .svg, .pdf and .png.

python draw.py cosine runs/avmnist-mmpareto-seed0
python draw.py plane runs/avmnist-* --output paper/avmnist_plane
python draw.py NAME --help                     what the figure shows, and its flags
"""

import re
import sys
from pathlib import Path

from analysis import records
from figures._style import save
from utils import registry
from utils.command import Parser
from utils.errors import BadInput, run_command


def describe_figures() -> str:
    """A line per figure: its name and what it shows."""
    lines = ["figures:"]
    for name in registry.names("figures"):
        about = registry.load("figures", name, "draw.py").__doc__.replace("\n", " ")
        lines.append(f"  {name:11} {re.split(r'[.:;] ', about)[0].rstrip('.')}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in (["-h"], ["--help"]):
        print(f"{__doc__}\n{describe_figures()}")
        return
    if not argv or argv[0].startswith("-"):
        names = ", ".join(registry.names("figures"))
        raise BadInput(f"name a figure: {names}; see python draw.py --help")
    name = argv[0]
    module = registry.load("figures", name, "draw.py")
    parser = Parser(f"draw.py {name}", module.__doc__)
    parser.add_argument(
        "runs", type=Path, nargs="+", help="run folders, or records; files are left out"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PREFIX",
        help=f"of the files .svg, .pdf and .png (default: {name} beside the first run)",
    )
    if "add_options" in vars(module):
        module.add_options(parser)
    options = parser.parse_args(argv[1:])
    runs = records.read(options.runs)
    save(module.draw(runs, options), options.output or runs[0].folder.parent / name)


if __name__ == "__main__":
    run_command(main)
