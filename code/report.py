"""Stored runs -> tables: mean ± standard deviation over seeds, paired differences to uniform.

python report.py runs/avmnist-*            prints Markdown, writes runs/report.md, .csv and .tex
python report.py runs/avmnist-* --output tables/avmnist
python report.py runs/avmnist-* --reference "uniform --encoder_grad_scale 1.5"
python report.py runs/avmnist-* --select learning_rate --columns "multimodal,minus uniform,n"
python report.py runs/avmnist-* --records ../results/avmnist     what the runs gave, to be kept
python report.py ../results/avmnist                              the same tables, from what was kept

Runs on the same data may differ in any flag. Rows stand in the order of the runs, and say what is
not as in most runs. They are compared with the reference in the same setting where it is there.
"""

from pathlib import Path

from analysis import records, reports
from analysis.tables import REFERENCE
from analysis.typeset import latex, markdown, summary
from utils.atomic import write_text
from utils.command import Parser, listed
from utils.errors import BadInput, run_command


def main(argv=None) -> None:
    parser = Parser("report.py", __doc__)
    reports.add_options(parser)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PREFIX",
        help="of the files .md, .csv, .tex (default: report beside the first run)",
    )
    parser.add_argument(
        "--records",
        type=Path,
        metavar="DIR",
        help="write runs.csv and epochs.csv of all these runs there",
    )
    parser.add_argument(
        "--steps",
        type=listed(str),
        default=[],
        metavar="RUN,RUN",
        help="with --records: steps.csv of these runs, for figures of a single run",
    )
    options = parser.parse_args(argv)
    runs, groups, tables, text = reports.report_of(options)
    output = options.output or options.runs[0].parent / "report"
    typeset = latex(groups, tables, options.columns, text)
    if options.records:
        if any(isinstance(run, records.Recorded) for run in runs):
            raise BadInput("--records: these are records already; name the run folders")
        records.write_records(options.records, runs, options.steps)
        print(f"recorded: {len(runs)} runs in {options.records}/\n")
    print(markdown(tables, text))
    write_text(Path(f"{output}.md"), markdown(tables, text) + "\n")
    write_text(Path(f"{output}.tex"), typeset + "\n")
    write_text(Path(f"{output}.csv"), summary(groups, options.reference or REFERENCE))
    print(f"\nwritten: {output}.md, .csv, .tex")


if __name__ == "__main__":
    run_command(main)
