"""The learning rate of every arm: all try the same ones, and further ones where the best of them is
at an end. A rate at which a run diverges is not chosen."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from statistics import mean
from typing import Protocol, TypeVar

from utils.errors import BadInput

FACTOR, FURTHER = 2, 4  # between rates; how many more are tried at either end


class Tuned(Protocol):
    """A run that held samples out."""

    @property
    def validation(self) -> float | None: ...


Arm = TypeVar("Arm", bound=Hashable)
Found = dict[Arm, dict[float, list[Tuned]]]  # {arm: {rate: its runs}}


def tune(
    run: Callable[[dict[Arm, list[float]]], Found], arms: Iterable[Arm], first: Iterable[float]
) -> Found:
    """All runs of all rates that were tried.

    run: carries out the rates that are asked for of each arm, those again that it has done, and
    leaves out those at which a run diverges. Raises BadInput for an arm of which none is left.
    """
    rates = {arm: sorted(first) for arm in arms}
    limit = {arm: len(tried) + FURTHER for arm, tried in rates.items()}
    while True:
        found = run(rates)
        wider = {
            arm: widened(tried, best_rate(found[arm]) if found[arm] else tried[0])
            if len(tried) < limit[arm]
            else tried
            for arm, tried in rates.items()
        }
        if wider == rates:
            for arm, tried in rates.items():
                check_some_left(arm, found[arm], tried)
            return found
        rates = wider


def check_some_left(arm: Hashable, found: Mapping, tried: list[float]) -> None:
    """Raises BadInput where every rate that was tried has diverged."""
    if not found:
        rates = ", ".join(f"{rate:g}" for rate in tried)
        raise BadInput(f"{arm}: diverges at each of the rates {rates}; name smaller --rates")


def flat(found: Found) -> list[Tuned]:
    """All runs, arm by arm, rate by rate."""
    return [run for of_arm in found.values() for runs in of_arm.values() for run in runs]


def widened(tried: list[float], best: float) -> list[float]:
    """Sorted rates, with one more where the best is at an end."""
    if best == tried[0]:
        return [best / FACTOR, *tried]
    return [*tried, best * FACTOR] if best == tried[-1] else tried


def best_rate(runs: Mapping[float, list[Tuned]]) -> float:
    """The one with the highest mean accuracy on held-out samples; of equals, to five digits, the
    smaller."""
    return max(sorted(runs), key=lambda rate: round(mean(run.validation for run in runs[rate]), 5))
