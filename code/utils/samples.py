"""Split files: which samples a data set has, with their labels."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from utils.errors import BadInput


class Sample(NamedTuple):
    """`id` names its file in every modality's folder; `target` is the index of its class."""

    id: str
    target: int


def read_csv(path: Path) -> list[list[str]]:
    """Rows of a CSV file without header, stripped, without empty lines and BOM."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        return [[cell.strip() for cell in row] for row in csv.reader(file) if any(row)]


def read_split(path: Path, classes: list[str] | tuple[str, ...]) -> list[Sample]:
    """Samples of a file with lines `id,label`. Raises BadInput naming a bad line's number."""
    samples, seen = [], set()
    for number, row in enumerate(read_csv(path), start=1):
        if len(row) != 2:
            raise BadInput(f"{path} line {number}: expected `id,label`, got {','.join(row)!r}")
        name, label = row
        if label not in classes:
            known = ", ".join(classes)
            raise BadInput(f"{path} line {number}: label {label!r} is none of {known}")
        if name in seen:
            raise BadInput(f"{path} line {number}: id {name!r} stands in the file twice")
        if not name or Path(name).name != name:
            raise BadInput(f"{path} line {number}: id {name!r} is no plain file name")
        seen.add(name)
        samples.append(Sample(name, classes.index(label)))
    if not samples:
        raise BadInput(f"{path}: holds no sample")
    return samples
