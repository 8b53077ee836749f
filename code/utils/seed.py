"""All randomness of a run follows from `--random_seed` and where the run stands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
    """Seeds torch (all devices) from a position such as (seed,) or (seed, epoch)."""
    torch.manual_seed(_number(*where))


def generator(*where: int) -> torch.Generator:
    """A CPU generator of its own for a position."""
    return torch.Generator().manual_seed(_number(*where))


@contextmanager
def seeded(*where: int) -> Iterator[None]:
    """Inside, torch's CPU generator is that of the position; afterwards it is as it was before.

    A sample augmented under (seed, epoch, index) is the same with any number of workers, and after
    a resume.
    """
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(_number(*where))
    try:
        yield
    finally:
        torch.set_rng_state(before)
