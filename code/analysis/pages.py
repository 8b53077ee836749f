"""The tables in this repository's pages, made anew from records: python -m analysis.pages

A table stands in README.md, docs/ and results/ between `<!-- report.py FLAGS -->`, with the flags
of that command, `<!-- multitask.py --from DIR -->`, `<!-- trial.py --from DIR -->` or
`<!-- argument.py DIR -->`, and `<!-- end -->`. Beside each runs.csv of a set stands a summary.csv.
Between `<!-- methods -->` and `<!-- end -->` stands what the files of methods/ say of themselves.
"""

import re
import shlex
from inspect import getdoc
from pathlib import Path

from analysis import argument, records, reports, tasks, trials
from analysis.names import name_of
from analysis.runs import group
from analysis.tables import Table
from analysis.typeset import chosen, markdown, summary
from training.flags import FlagParser
from utils import registry
from utils.atomic import write_text
from utils.command import Parser
from utils.errors import run_command

ROOT = registry.CODE.parent
TABLE = re.compile(
    r"(<!-- (report|multitask|argument|trial)\.py (.*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL
)
METHODS = re.compile(r"(<!-- methods -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("results/**/*.md")])]


def named(table: Table) -> Table:
    """Its arms as pages call them."""
    return table._replace(rows=[[name_of(arm), *cells] for arm, *cells in table.rows])


def filled(text: str) -> str:
    """A page with its tables as the records give them. Raises BadInput where one cannot be made."""
    parser = Parser("report.py")
    reports.add_options(parser)

    def of_runs(flags: list[str]) -> str:
        options = parser.parse_args(flags)
        options.runs = [ROOT / path for path in options.runs]
        _, groups, tables, below = reports.report_of(options)
        return untitled(named(chosen(groups, tables, options.columns)), below)

    def of_tasks(flags: list[str]) -> str:
        runs = tasks.read(ROOT / flags[-1])
        return untitled(named(tasks.table(tasks.rows_of(runs))), tasks.caption(runs))

    def of_trial(flags: list[str]) -> str:
        runs = trials.read(ROOT / flags[-1])
        return markdown([named(table) for table in trials.tables(runs)], trials.caption(runs))

    def of_links(flags: list[str]) -> str:
        groups = group(records.read([ROOT / flags[-1]]))
        return untitled(argument.table(groups), argument.caption(groups))

    def table_for(found: re.Match) -> str:
        begin, command, flags, _, end = found.groups()
        makers = {"report": of_runs, "multitask": of_tasks, "argument": of_links, "trial": of_trial}
        return f"{begin}\n{makers[command](shlex.split(flags))}\n\n{end}"

    text = TABLE.sub(table_for, text)
    return METHODS.sub(lambda found: f"{found[1]}\n{methods_in_full()}\n\n{found[3]}", text)


def untitled(table: Table, below: str) -> str:
    """In Markdown; the page has a title of its own."""
    return markdown([table], below).split("\n\n", 1)[1].strip()


def methods_in_full() -> str:
    """Every method's description, as its file has it, and its flags."""
    parts = []
    for name in registry.names("methods"):
        method = registry.load_class("methods", name, "--method")
        about = getdoc(registry.load("methods", name, "--method"))
        parts.append(f"## `{name}`\n\n```text\n{about}\n```")
        parser = FlagParser(add_help=False)
        method.add_options(parser)
        actions = dict.fromkeys(parser.actions.values())  # once, whatever its spellings
        flags = [[f"`--{a.dest}`", f"{a.default}", a.help] for a in actions]
        if flags:
            parts.append(untitled(Table("", ["flag", "default", "what it is"], flags), ""))
    return "\n\n".join(parts)


def summaries() -> dict[Path, str]:
    """{summary.csv: its content} for every set of results/."""
    made = {}
    for file in sorted(ROOT.glob("results/*/runs.csv")):
        runs, is_trial = records.read([file.parent]), (file.parent / trials.TUNING).is_dir()
        groups = trials.arms_of(runs) if is_trial else group(runs)
        made[file.with_name("summary.csv")] = summary(groups)
    return made


def main() -> None:
    made = {page: filled(page.read_text()) for page in pages()} | summaries()
    for path, text in made.items():
        write_text(path, text)
        print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    run_command(main)
