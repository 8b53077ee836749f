"""The fair trial on a data set: every arm at its own best learning rate, then twenty fresh seeds.

python trial.py --dataset utd_mhad                  with the settings of trials/utd_mhad.py
python trial.py --dataset utd_mhad --records ../results/utd_mhad       keeps what came out
python trial.py --from ../results/utd_mhad          the table again, from what was kept

1. Each arm tries the same learning rates with the same few seeds, on the training split without the
   speakers that are held out; where its best rate stands at an end, further ones. The rate with the
   highest mean accuracy on the held-out speakers, after the last epoch, is chosen.
   One at which a run diverges is not, even if that shows in the second stage only.
2. Each arm is trained with twenty other seeds, on the whole training split, at its rate, and tested
   after the last epoch.
3. So is uniform at the rates of the other arms, as two arms may differ by their rates alone.

What is done is skipped: the same command goes on after an interruption or a kill.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from analysis import trials
from analysis.runs import Run, read_run
from analysis.typeset import markdown
from training import grid
from training.messages import align
from training.rates import best_rate, check_some_left, flat, tune
from training.workers import DIVERGED
from trials import Trial
from utils import registry
from utils.atomic import write_text
from utils.command import Parser, count, listed, positive
from utils.errors import BadInput, run_command


class Stage:
    """A folder of runs with the same seeds: a sweep."""

    def __init__(self, name: str, trial: Trial, options: argparse.Namespace, flags: list[str]):
        self.folder, self.trial, self.is_tuning = options.ckpt_path / name, trial, name == "tuning"
        self.seeds = trial.tuning_seeds if self.is_tuning else trial.seeds
        self.diverged: set[tuple[str, float]] = set()  # arms and rates
        self.flags = [*shlex.split(trial.flags), *flags]  # the last of equal flags counts
        self.options = argparse.Namespace(
            dataset=options.dataset,
            data_root=options.data_root,
            ckpt_path=self.folder,
            methods="",
            each_modality=False,
            seeds=",".join(map(str, self.seeds)),
            jobs=options.jobs,
            scheduler=None,
            probe=[] if self.is_tuning else ["linear"],
        )

    def run(self, rates: dict[str, list[float]]) -> dict[str, dict[float, list[Run]]]:
        """{arm: {rate: its runs}} of the arms and rates that are asked for, without rates at which
        a run diverges. Ends with status 1 where one fails for another reason."""
        asked = [(arm, rate) for arm, of_arm in rates.items() for rate in of_arm]
        lines = [line for line in asked if line not in self.diverged]
        found: dict[str, dict[float, list[Run]]] = {arm: {} for arm in rates}
        if not lines:
            return found
        self.options.arm = [self._command_line(*line) for line in lines]
        self.options.checkpoints = "keep" if any(map(is_alone, rates)) else "delete"
        problems = grid.carry_out(self.options, self.flags)  # of its runs, seed by seed
        if not all(problem.startswith(DIVERGED) for problem in problems.values() if problem):
            sys.exit(1)
        swept = list(zip(itertools.product(self.seeds, lines), problems.items()))
        diverged = dict.fromkeys(line for (_, line), (_, problem) in swept if problem)
        for arm, rate in diverged:
            print(f"diverges, so its rate is not chosen: {arm} --learning_rate {rate:g}")
        self.diverged |= diverged.keys()
        for (_, (arm, rate)), (run, _) in swept:
            if (arm, rate) not in self.diverged:
                found[arm].setdefault(rate, []).append(read_run(run.folder))
        return found

    def _command_line(self, arm: str, rate: float) -> str:
        alone = self.folder / "alone-{modality}-seed{seed}"
        words = [arm.format(alone=alone), f"--learning_rate {rate:g}"]
        if self.is_tuning or looks_at_held_out(arm):
            words.append(self.trial.validation)
        return " ".join(words)

    def link(self, found: dict[str, dict[float, list[Run]]], rates: dict[str, float]) -> None:
        """Names for the runs of single modalities, by which others begin with their encoders."""
        for arm in filter(is_alone, found):
            for run in found[arm][rates[arm]]:
                name = self.folder / f"alone-{run.modalities[0]}-seed{run.seed}"
                name.unlink(missing_ok=True)
                name.symlink_to(run.folder.name)


def is_alone(arm: str) -> bool:
    return "--modalities" in arm


def looks_at_held_out(arm: str) -> bool:
    """Whether its method cannot do without."""
    return "validation" in registry.load_class("methods", arm.split()[0], "--arm").needs


def at_rates_of_others(tested: dict[str, dict[float, list[Run]]]) -> dict[str, list[float]]:
    """{arm: rates} by which each arm can be compared with its reference at its own rate."""
    arms = trials.arms_of(flat(tested))
    given = dict(zip(arms, tested, strict=True))  # {its name in tables: as it was given}
    wanted: dict[str, list[float]] = {}
    for other, rate in sorted(set(trials.references_at_rates(arms).values())):
        if rate not in tested[given[other]]:
            wanted.setdefault(given[other], []).append(rate)
    return wanted


def carry_out(trial: Trial, options: argparse.Namespace, flags: list[str]) -> trials.Runs:
    """The runs of all stages. Single modalities come first: others may begin with them."""
    tuning, test = (Stage(name, trial, options, flags) for name in ("tuning", "test"))
    alone = [arm for arm in trial.arms if is_alone(arm)]
    waves = [arms for arms in (alone, [a for a in trial.arms if a not in alone]) if arms]
    tuned, tested, rates = {}, {}, {}
    for arms in waves:
        found = tune(tuning.run, arms, trial.rates)
        rates |= {arm: best_rate(of_arm) for arm, of_arm in found.items()}
        tuning.link(found, rates)
        tuned |= found
    for arms in waves:
        found = test.run({arm: [rates[arm]] for arm in arms})
        while diverged := [arm for arm in arms if not found[arm]]:
            for arm in diverged:
                tried = list(tuned[arm])
                del tuned[arm][rates[arm]]
                check_some_left(arm, tuned[arm], tried)
                rates[arm] = best_rate(tuned[arm])
            found |= test.run({arm: [rates[arm]] for arm in diverged})
        test.link(found, rates)
        tested |= found
    wanted = at_rates_of_others(tested)
    return trials.Runs(flat(tuned), flat(tested), flat(test.run(wanted)) if wanted else [])


def read_options(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The flags of this command, and those that are train.py's."""
    parser = Parser("trial.py", __doc__, epilog="All other flags are train.py's, for every run.")
    add = parser.add_argument
    add("--dataset", type=str.lower, metavar="NAME", help="a file of trials/")
    add("--data_root", type=Path, metavar="DIR", help="prepared data set (default: data/NAME)")
    add("--ckpt_path", type=Path, metavar="DIR", help="of all runs (default: runs/trial/NAME)")
    add("--arm", action="append", metavar="ARM", help="in place of all, quoted; again for each")
    add("--rates", type=listed(positive), metavar="A,B", help="in place of those of the settings")
    add("--tuning_seeds", type=count, metavar="N", help="in place of those of the settings")
    add("--test_seeds", type=count, metavar="N", help="in place of those of the settings")
    add("--jobs", type=count, default=1, metavar="N", help="runs at the same time")
    add("--records", type=Path, metavar="DIR", help="keep there what the runs gave")
    add("--from", dest="source", type=Path, metavar="DIR", help="only print the table of records")
    options, flags = parser.parse_known_args(argv)
    if not options.dataset and not options.source:
        raise BadInput("name --dataset, or --from DIR")
    options.ckpt_path = options.ckpt_path or Path("runs", "trial", options.dataset or "")
    return options, flags


def settings_of(options: argparse.Namespace) -> Trial:
    """Those of the data set's file, with what the flags put in their place."""
    trial = registry.load("trials", options.dataset, "--dataset").TRIAL
    asked = {
        "arms": options.arm and tuple(options.arm),
        "rates": options.rates and tuple(options.rates),
        "tuning_seeds": options.tuning_seeds and tuple(range(100, 100 + options.tuning_seeds)),
        "seeds": options.test_seeds and tuple(range(options.test_seeds)),
    }
    return replace(trial, **{name: value for name, value in asked.items() if value})


def main(argv: list[str] | None = None) -> None:
    options, flags = read_options(argv)
    if options.source:
        runs = trials.read(options.source)
    else:
        runs = carry_out(settings_of(options), options, flags)
        if options.records:
            trials.write(options.records, runs)
    tables, below = trials.tables(runs), trials.caption(runs)
    print("\n\n".join([*(align([table.head, *table.rows]) for table in tables), below]))
    if not options.source:
        write_text(options.ckpt_path / "trial.md", markdown(tables, below) + "\n")


if __name__ == "__main__":
    run_command(main)
