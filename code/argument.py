"""The paper's argument, link by link: Hypothesis 1, Remark 1, noise, sharpness, accuracy.

python argument.py runs/avmnist-*           measures every run, once, and prints which links hold
python argument.py ../results/avmnist       the same table, from records

Needs the last checkpoints of runs of uniform, Pareto and MMPareto, with two or more seeds; with
uniform --encoder_grad_scale 1.5, too, it tells the direction from the gain. What is measured
stands in analysis/argument.py.
"""

from pathlib import Path

from tqdm import tqdm

from analysis import argument, records
from analysis.runs import group
from training.messages import align
from utils.command import Parser
from utils.errors import run_command


def main(argv: list[str] | None = None) -> None:
    parser = Parser("argument.py", __doc__)
    add = parser.add_argument
    add("runs", type=Path, nargs="+", help="run folders, or folders of records")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    options = parser.parse_args(argv)
    runs = records.read(options.runs)
    for run in tqdm(runs, "measured", disable=None):
        if not isinstance(run, records.Recorded):
            argument.collect(run.folder, options.device)
    _, head, rows = argument.table(group(runs))
    print(align([head, *rows]))


if __name__ == "__main__":
    run_command(main)
