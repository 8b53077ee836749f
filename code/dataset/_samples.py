"""Split files: which samples a data set has, with their labels."""

from __future__ import annotations

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


def ids_of(folder: Path, suffixes: tuple[str, ...]) -> set[str]:
    """The names, without suffix, of the files of a folder with one of `suffixes` (lower case)."""
    if not folder.is_dir():
        return set()
    return {path.stem for path in folder.iterdir() if path.suffix.lower() in suffixes}


def file_of(folder: Path, sample_id: str, suffixes: tuple[str, ...]) -> Path:
    """The file of a sample: the first of `suffixes` that is there."""
    for suffix in (*suffixes, *(suffix.upper() for suffix in suffixes)):
        if (path := folder / f"{sample_id}{suffix}").is_file():
            return path
    return folder / f"{sample_id}{suffixes[0]}"  # opening it says that it is not there


def is_header(row: list[str]) -> bool:
    return [cell.lower() for cell in row] == ["id", "label"]


def read_csv(path: Path) -> list[list[str]]:
    """Rows of a CSV file without header, stripped, without empty lines and BOM."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        return [[cell.strip() for cell in row] for row in csv.reader(file) if any(row)]


def read_split(path: Path, classes: list[str] | tuple[str, ...]) -> list[Sample]:
    """Samples of a file with lines `id,label`, a first line `id,label` left out.

    Raises BadInput naming a bad line's number.
    """
    samples, seen = [], set()
    for number, row in enumerate(read_csv(path), start=1):
        if number == 1 and is_header(row):
            continue
        if len(row) != 2:
            raise BadInput(f"{path} line {number}: expected `id,label`, got {','.join(row)!r}")
        name, label = row
        if label not in classes:
            known = ", ".join(classes)
            raise BadInput(f"{path} line {number}: label {label!r} is none of {known}")
        if name in seen:
            raise BadInput(f"{path} line {number}: id {name!r} stands in the file twice")
        if name in ("", "..") or Path(name).name != name or "\\" in name:
            raise BadInput(f"{path} line {number}: id {name!r} is no plain file name")
        seen.add(name)
        samples.append(Sample(name, classes.index(label)))
    if not samples:
        raise BadInput(f"{path}: holds no sample")
    return samples
