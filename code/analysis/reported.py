"""What others report: results/reported_by_others.csv, test accuracy in %.

Cells are multimodal / audio / visual. Marks: c as quoted by a third party, f read off the paper's
Figure 1, r from memory, not proof. Never mixed with what is measured here.
"""

from __future__ import annotations

import csv
from pathlib import Path

FILE = Path(__file__).resolve().parents[2] / "results" / "reported_by_others.csv"


def reported(dataset: str) -> dict[str, dict[str, str]]:
    """{method: {source: cell}} of a data set; {} where there is nothing."""
    cells: dict[str, dict[str, str]] = {}
    with open(FILE, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["dataset"] == dataset:
                cells.setdefault(row["method"], {})[row["source"]] = row["accuracy"]
    return cells
