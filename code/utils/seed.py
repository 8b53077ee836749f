"""All randomness of a run follows from `--random_seed` and where the run stands.

Seeded are the generators that code draws from without naming one: torch's, numpy's global one and
that of `random`. A `numpy.random.default_rng()` without a seed is beyond this.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def _number(*where: int) -> int:
    """A 63-bit number that differs for different positions (splitmix64 over them)."""
    state = 0
    for part in where:
        state = (state + part + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state >> 1


def seed_everything(*where: int) -> None:
    """Seeds torch (all devices), numpy and `random` from a position such as (seed, epoch)."""
    torch.manual_seed(_number(*where))
    seed_host(*where)


def seed_host(*where: int) -> None:
    """As `seed_everything`, but of torch the CPU's generator only."""
    number = _number(*where)
    torch.default_generator.manual_seed(number)
    # numpy takes 32 bits. The upper ones: from the lower ones, which torch's CPU generator takes,
    # it would draw the same numbers, as both are Mersenne twisters.
    np.random.seed(number >> 31)
    random.seed(number)


def generator(*where: int) -> torch.Generator:
    """A CPU generator of its own for a position."""
    return torch.Generator().manual_seed(_number(*where))


@contextmanager
def restored() -> Iterator[None]:
    """Afterwards the generators of `seed_host` are as they were before.

    It costs some 85 microseconds, most of them numpy's, and `seed_host` 10: so once for many seeds.
    """
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


@contextmanager
def seeded(*where: int) -> Iterator[None]:
    """Inside, the generators are those of the position, see `seed_host`; afterwards as before."""
    with restored():
        seed_host(*where)
        yield
