"""The paper's argument, link by link: Hypothesis 1, Remark 1, noise, sharpness, accuracy.

python argument.py runs/avmnist-*            measures every run, once, and tells which links hold
python argument.py ../results/avmnist ../results/cgmnist      the same tables, from records

Needs the last checkpoints of runs of uniform, Pareto and MMPareto, with two or more seeds; with
uniform --encoder_grad_scale 1.5, too, it tells the direction from the gain. Runs on several data
sets give a table each. What is measured stands in analysis/argument.py; `python draw.py argument`
draws it.
"""

from pathlib import Path

from tqdm import tqdm

from analysis import argument, records
from analysis.runs import by_data, group
from analysis.typeset import markdown
from training.messages import align
from utils.atomic import write_text
from utils.command import Parser
from utils.errors import run_command


def main(argv: list[str] | None = None) -> None:
    parser = Parser("argument.py", __doc__)
    add = parser.add_argument
    add("runs", type=Path, nargs="+", help="run folders, or folders of records")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    add("--output", type=Path, metavar="FILE", help="of the tables in Markdown")
    options = parser.parse_args(argv)
    runs = records.read(options.runs)
    groups_of = {name: group(of_data) for name, of_data in by_data(runs).items()}
    for run in tqdm(runs, "measured", disable=None):
        if not isinstance(run, records.Recorded):
            argument.collect(run.folder, options.device)
    pages = []
    for name, groups in groups_of.items():
        table, below = argument.table(groups, name), argument.caption(groups)
        print(f"{name}\n{align([table.head, *table.rows])}\n{below}\n")
        pages.append(markdown([table], below))
    if options.output:
        write_text(options.output, "\n\n".join(pages) + "\n")
        print(f"written: {options.output}")


if __name__ == "__main__":
    run_command(main)
