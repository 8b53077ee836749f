"""Split files: which samples a data set has, with their labels."""

import csv
import io
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from utils.atomic import write_text
from utils.errors import BadInput

ID_COLUMNS = "id ids name names file files filename filenames path sample sampleid clip".split()
LABEL_COLUMNS = "label labels class classes classname target category emotion".split()


class Sample(NamedTuple):
    """`id` names its file in every modality's folder; `target` is the index of its class."""

    id: str
    target: int


def natural(name: str) -> tuple:
    """A key that sorts `clip2` before `clip10`. It ends in the name itself, so that names which it
    takes for the same number, `s1` and `s01`, have an order of their own, the same every time."""

    def number(digits: str) -> tuple[int, str]:
        digits = digits.lstrip("0")
        return len(digits), digits

    parts = re.split(r"(\d+)", name)
    return [number(part) if part.isdecimal() else (0, part) for part in parts], name


def has_control(text: str) -> bool:
    """Whether a line end or another control character is in a text."""
    return any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in text)


def fault_of(name: str) -> str:
    """What keeps a name from being one of a sample, of its file and in a line of a list; "" where
    nothing does."""
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        return "is no plain file name"
    if name != name.strip():
        return "begins or ends with a blank"
    if has_control(name):
        return "holds a line end or another control character"
    if any(unicodedata.category(letter) == "Cs" for letter in name):
        return "is no UTF-8"
    return ""


def read_csv(path: Path) -> list[list[str]]:
    """Rows of a CSV file without header, stripped, without empty lines and BOM.

    Raises BadInput for a file that is none.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: cannot be read as CSV in UTF-8 ({error})") from None
    return [row for row in rows if any(row)]


def write_csv(path: Path, rows: Iterable[Iterable[str]], start: str = "") -> None:
    """What `read_csv` reads: cells that hold commas, quotes or line ends stand in quotes.

    start: a byte-order mark, or nothing.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, start + text.getvalue())


def is_header(row: list[str]) -> bool:
    """Whether a first line names the columns, such as `id,label` or `filename,class`."""
    words = [cell.lower().replace("_", "").replace(" ", "") for cell in row]
    return len(words) == 2 and words[0] in ID_COLUMNS and words[1] in LABEL_COLUMNS


def read_labels(path: Path, classes: list[str] | tuple[str, ...] = ()) -> dict[str, str]:
    """{id: label} of a file with lines `id,label`, without a first line that names the columns.

    Raises BadInput naming a bad line's number; if `classes` are given, for other labels too.
    """
    labels = {}
    for number, row in enumerate(read_csv(path), start=1):
        if number == 1 and is_header(row):
            continue
        if len(row) != 2:
            raise BadInput(f"{path} line {number}: expected `id,label`, got {','.join(row)!r}")
        name, label = row
        if not label or has_control(label):
            raise BadInput(f"{path} line {number}: label {label!r} is empty or more than a line")
        if classes and label not in classes:
            known = ", ".join(classes)
            raise BadInput(f"{path} line {number}: label {label!r} is none of {known}")
        if name in labels:
            raise BadInput(f"{path} line {number}: id {name!r} stands in the file twice")
        if fault := fault_of(name):
            raise BadInput(f"{path} line {number}: id {name!r} {fault}")
        labels[name] = label
    return labels


def read_split(path: Path, classes: list[str] | tuple[str, ...]) -> list[Sample]:
    """Samples of a file with lines `id,label`. Raises BadInput for a bad line, or for no line."""
    labels = read_labels(path, classes)
    if not labels:
        raise BadInput(f"{path}: holds no sample")
    return [Sample(name, classes.index(label)) for name, label in labels.items()]
