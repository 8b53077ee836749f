"""The tables in this repository's pages, made anew from records: python -m analysis.pages

A table stands in README.md, docs/ and results/ between `<!-- report.py FLAGS -->`, with the flags
of that command, and `<!-- end -->`. Beside each runs.csv stands a summary.csv.
"""

import re
import shlex
from pathlib import Path

from analysis import records, reports
from analysis.names import name_of
from analysis.runs import group
from analysis.typeset import chosen, markdown, summary
from utils import registry
from utils.atomic import write_text
from utils.command import Parser
from utils.errors import run_command

ROOT = registry.CODE.parent
TABLE = re.compile(r"(<!-- report\.py (.*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("results/**/*.md")])]


def filled(text: str) -> str:
    """A page with its tables as the records give them. Raises BadInput where one cannot be made."""
    parser = Parser("report.py")
    reports.add_options(parser)

    def table_for(found: re.Match) -> str:
        options = parser.parse_args(shlex.split(found[2]))
        options.runs = [ROOT / path for path in options.runs]
        _, groups, tables, text = reports.report_of(options)
        table = chosen(groups, tables, options.columns)
        table = table._replace(rows=[[name_of(arm), *cells] for arm, *cells in table.rows])
        _, rows = markdown([table], text).split("\n\n", 1)  # the page has a title of its own
        return f"{found[1]}\n{rows}\n\n{found[4]}"

    return TABLE.sub(table_for, text)


def summaries() -> dict[Path, str]:
    """{summary.csv: its content} for every runs.csv of results/."""
    files = sorted(ROOT.glob("results/**/runs.csv"))
    return {
        file.with_name("summary.csv"): summary(group(records.read([file.parent]))) for file in files
    }


def main() -> None:
    made = {page: filled(page.read_text()) for page in pages()} | summaries()
    for path, text in made.items():
        write_text(path, text)
        print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    run_command(main)
