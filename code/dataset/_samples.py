"""Split files: which samples a data set has, with their labels."""

import csv
import re
from pathlib import Path
from typing import NamedTuple

from utils.errors import BadInput


class Sample(NamedTuple):
    """`id` names its file in every modality's folder; `target` is the index of its class."""

    id: str
    target: int


def natural(name: str) -> list:
    """A key that sorts `clip2` before `clip10`."""
    return [(int(t), "") if t.isdecimal() else (0, t) for t in re.split(r"(\d+)", name)]


def read_csv(path: Path) -> list[list[str]]:
    """Rows of a CSV file without header, stripped, without empty lines and BOM."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        return [[cell.strip() for cell in row] for row in csv.reader(file) if any(row)]


def read_labels(path: Path, classes: list[str] | tuple[str, ...] = ()) -> dict[str, str]:
    """{id: label} of a file with lines `id,label`, a first line `id,label` left out.

    Raises BadInput naming a bad line's number; if `classes` are given, for other labels too.
    """
    labels = {}
    for number, row in enumerate(read_csv(path), start=1):
        if number == 1 and [cell.lower() for cell in row] == ["id", "label"]:
            continue
        if len(row) != 2:
            raise BadInput(f"{path} line {number}: expected `id,label`, got {','.join(row)!r}")
        name, label = row
        if classes and label not in classes:
            known = ", ".join(classes)
            raise BadInput(f"{path} line {number}: label {label!r} is none of {known}")
        if name in labels:
            raise BadInput(f"{path} line {number}: id {name!r} stands in the file twice")
        if name in ("", "..") or Path(name).name != name or "\\" in name:
            raise BadInput(f"{path} line {number}: id {name!r} is no plain file name")
        labels[name] = label
    return labels


def read_split(path: Path, classes: list[str] | tuple[str, ...]) -> list[Sample]:
    """Samples of a file with lines `id,label`. Raises BadInput for a bad line, or for no line."""
    labels = read_labels(path, classes)
    if not labels:
        raise BadInput(f"{path}: holds no sample")
    return [Sample(name, classes.index(label)) for name, label in labels.items()]
