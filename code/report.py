"""Stored runs -> tables: mean ± standard deviation over seeds, paired differences to uniform.

python report.py runs/avmnist-*            prints Markdown, writes runs/report.md, .csv and .tex
python report.py runs/avmnist-* --output tables/avmnist
python report.py runs/avmnist-* --reference "uniform --encoder_grad_scale 1.5"

Rows with another encoder, fusion or held-out share are compared with the reference in that setting
where it is there.
"""

from pathlib import Path

from analysis.runs import group, read_runs
from analysis.tables import REFERENCE, caption, comma_separated, latex, markdown, tabulate
from utils.atomic import write_text
from utils.command import Parser
from utils.errors import BadInput, run_command


def main(argv=None) -> None:
    parser = Parser("report.py", __doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders; files are left out")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PREFIX",
        help="of the files .md, .csv, .tex (default: report beside the first run)",
    )
    parser.add_argument(
        "--reference",
        metavar="ROW",
        help=f"the row that the others are compared with (default: {REFERENCE}, where it is there)",
    )
    options = parser.parse_args(argv)
    groups = group(read_runs(options.runs))
    if options.reference is not None and options.reference not in groups:
        raise BadInput(
            f"--reference {options.reference}: no such row; choose from {', '.join(groups)}"
        )
    tables, text = tabulate(groups, options.reference or REFERENCE), caption(groups)
    output = options.output or options.runs[0].parent / "report"
    print(markdown(tables, text))
    write_text(Path(f"{output}.md"), markdown(tables, text) + "\n")
    write_text(Path(f"{output}.tex"), latex(tables, text) + "\n")
    write_text(Path(f"{output}.csv"), comma_separated(groups))
    print(f"\nwritten: {output}.md, .csv, .tex")


if __name__ == "__main__":
    run_command(main)
