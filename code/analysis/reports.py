"""What is asked of a table of runs: report.py's flags, also of the tables in this repository."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import NamedTuple

from analysis import records
from analysis.runs import Run, group, select
from analysis.tables import REFERENCE, Table, caption, tabulate
from utils.command import listed
from utils.errors import BadInput


class Report(NamedTuple):
    """runs: all; groups: {arm: its runs}, those shown; caption: how the numbers came about."""

    runs: list[Run]
    groups: dict[str, list[Run]]
    tables: list[Table]
    caption: str


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        help="run folders, or folders of records; files are left out",
    )
    parser.add_argument(
        "--reference",
        metavar="ARM",
        help=f"what the others are compared with (default: {REFERENCE}, where it is there)",
    )
    parser.add_argument(
        "--select",
        type=listed(str),
        metavar="FLAG,FLAG",
        help="show each row with that value only which has the best accuracy on held-out samples, "
        "such as learning_rate",
    )
    parser.add_argument(
        "--arm",
        action="append",
        metavar="ARM",
        help='show this row, quoted, such as "mmpareto --gamma 2"; again for each (default: all)',
    )
    parser.add_argument(
        "--columns",
        type=listed(str),
        default=[],
        metavar="A,B",
        help="of the LaTeX table, by the headings of all tables up to a comma (default: accuracies "
        "and the difference)",
    )


def report_of(options: Namespace) -> Report:
    """Raises BadInput for runs that do not belong together, and for what is not there."""
    runs, chosen_by = records.read(options.runs), ""
    if options.select:
        groups, chosen_by = select(runs, options.select)
    else:
        groups = group(runs)
    asked = {"--reference": [options.reference] * (options.reference is not None)}
    for flag, arms in (asked | {"--arm": options.arm or []}).items():
        for arm in arms:
            if arm not in groups:
                raise BadInput(f"{flag} {arm}: no such row; choose from {', '.join(groups)}")
    tables = tabulate(groups, options.reference or REFERENCE)
    shown = {arm: groups[arm] for arm in options.arm or groups}
    for position, table in enumerate(tables):
        if "n" in table.head:
            by_arm = {row[0]: row for row in table.rows}
            tables[position] = table._replace(rows=[by_arm[arm] for arm in shown])
    return Report(runs, shown, tables, " ".join([caption(shown), chosen_by]).strip())
