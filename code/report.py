"""Stored runs -> tables: mean ± standard deviation over seeds, paired differences to uniform.

python report.py runs/avmnist-*            prints Markdown, writes runs/report.md, .csv and .tex
python report.py runs/avmnist-* --output tables/avmnist
python report.py runs/avmnist-* --reference "uniform --encoder_grad_scale 1.5"
python report.py runs/avmnist-* --select learning_rate --columns "multimodal,minus uniform,n"

Runs on the same data may differ in any flag. Rows stand in the order of the runs, and say what is
not as in most runs. They are compared with the reference in the same setting where it is there.
"""

from pathlib import Path

from analysis.runs import group, read_runs, select
from analysis.tables import REFERENCE, caption, comma_separated, latex, markdown, tabulate
from utils.atomic import write_text
from utils.command import Parser, listed
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
    parser.add_argument(
        "--select",
        type=listed(str),
        metavar="FLAG,FLAG",
        help="show each row with that value only which has the best accuracy on held-out samples, "
        "such as learning_rate",
    )
    parser.add_argument(
        "--columns",
        type=listed(str),
        default=[],
        metavar="A,B",
        help="of the LaTeX table, by the headings of all tables up to a comma (default: accuracies "
        "and the difference)",
    )
    options = parser.parse_args(argv)
    runs, chosen_by = read_runs(options.runs), ""
    if options.select:
        groups, chosen_by = select(runs, options.select)
    else:
        groups = group(runs)
    if options.reference is not None and options.reference not in groups:
        raise BadInput(
            f"--reference {options.reference}: no such row; choose from {', '.join(groups)}"
        )
    tables = tabulate(groups, options.reference or REFERENCE)
    text = " ".join([caption(groups), chosen_by]).strip()
    output = options.output or options.runs[0].parent / "report"
    typeset = latex(groups, tables, options.columns, text)
    print(markdown(tables, text))
    write_text(Path(f"{output}.md"), markdown(tables, text) + "\n")
    write_text(Path(f"{output}.tex"), typeset + "\n")
    write_text(Path(f"{output}.csv"), comma_separated(groups))
    print(f"\nwritten: {output}.md, .csv, .tex")


if __name__ == "__main__":
    run_command(main)
