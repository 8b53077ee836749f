"""UCI's Multiple Features, six views of 2,000 handwritten digits -> dataset/mfeat.py.

    python -m dataset.prepare.mfeat --source DIR [--split_seed 1] [--train_size 100]

DIR holds mfeat-fac, mfeat-fou, mfeat-kar, mfeat-mor, mfeat-pix and mfeat-zer at any depth, or an
archive of them (multiple+features.zip), which is unpacked beside the output; or it is that archive.
A line of each is a digit: 200 of each class, in order 0 to 9.

A random `--test_share` of every class is for testing, and of the others `--train_size`, as many of
every class; by default all. A smaller training set is a part of a larger one of the same seed, the
test set is the same. From every number the mean of the training set is subtracted, and it is
divided by the deviation there.
"""

import argparse
import json
import re
import zlib
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset._files import one_for_each
from dataset._limits import check_cost, naming
from dataset._values import LARGEST
from dataset.prepare import _preparation as preparation
from dataset.prepare._archive import raw_with_folders
from utils.atomic import write_text
from utils.command import natural, number, share
from utils.errors import BadInput, run_command

# view -> (numbers in a line, CRC-32 of all of them as little-endian float64)
VIEWS = {
    "fac": (216, 0x047C7C2F),
    "fou": (76, 0x1A75BB5C),
    "kar": (64, 0xB66A98CC),
    "mor": (6, 0xFFC13832),
    "pix": (240, 0x1C7031A4),
    "zer": (47, 0x55840BA4),
}
CLASSES, OF_CLASS = 10, 200
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
SETTINGS = ("split_seed", "test_share", "train_size")
HOW_TO_GET = (
    "--source: name the folder or archive of the six files. This project does not download them: "
    "https://archive.ics.uci.edu/dataset/72/multiple+features (CC BY 4.0)"
)


def read_view(path: Path, view: str) -> np.ndarray:
    """(2000, numbers in a line) float64. Raises BadInput that names a bad line."""
    width, crc = VIEWS[view]
    with naming(path):
        check_cost(bytes_of_text=path.stat().st_size)
        lines = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    for place, words in enumerate(lines, start=1):
        if len(words) != width:
            raise BadInput(f"{path} line {place}: {len(words)} numbers, mfeat-{view} has {width}")
        for word in words:
            if not NUMBER.fullmatch(word) or abs(float(word)) > LARGEST:
                raise BadInput(f"{path} line {place}: {word!r} is no number within {LARGEST:g}")
    if len(lines) != CLASSES * OF_CLASS:
        raise BadInput(f"{path}: {len(lines)} lines, mfeat-{view} has {CLASSES * OF_CLASS}")
    values = np.array(lines, dtype="<f8")
    if zlib.crc32(values.tobytes()) != crc:
        print(f"NOTE: {path}: other numbers than those of the public file", flush=True)
    return values


def read_views(source: Path, downloads: Path) -> dict[str, np.ndarray]:
    """{view: its numbers}. Raises BadInput where one is not in the source."""
    paths = [path for path, _ in raw_with_folders(source, downloads)]
    names = {f"mfeat-{view}": view for view in VIEWS}
    files = one_for_each(paths, lambda path: names.get(path.name.lower().removesuffix(".txt")))
    if missing := [name for name, view in names.items() if view not in files]:
        raise BadInput(f"--source {source}: has no {', '.join(missing)} in it or below it")
    return {view: read_view(files[view], view) for view in VIEWS}


def split_of(labels: dict[str, str], options: argparse.Namespace) -> dict[str, dict[str, str]]:
    """{"train" | "test": {sample: class}}. Raises BadInput where there are too few."""
    test = preparation.random_share(labels, options.split_seed, options.test_share)
    rest = {sample: label for sample, label in labels.items() if sample not in test}
    size = len(rest) if options.train_size is None else options.train_size
    if size > len(rest):
        raise BadInput(
            f"--train_size {size}: --test_share {options.test_share:g} leaves {len(rest)}"
        )
    train = preparation.random_share(rest, options.split_seed, size / max(len(rest), 1))
    split = {
        "train": {sample: label for sample, label in rest.items() if sample in train},
        "test": {sample: label for sample, label in labels.items() if sample in test},
    }
    if lacking := [part for part, of_part in split.items() if not of_part]:
        raise BadInput(f"--test_share {options.test_share:g}: leaves no digit for {lacking[0]}.csv")
    return split


def prepare(options: argparse.Namespace, tree: Path) -> None:
    """Fills the folder `tree`."""
    ids = [f"d{digit}_{i:03d}" for digit in range(CLASSES) for i in range(OF_CLASS)]
    split = split_of({sample: sample[1] for sample in ids}, options)
    views = read_views(options.source, options.output.parent / ".download")
    trained = np.array([sample in split["train"] for sample in ids])
    for view, values in tqdm(views.items(), disable=None):
        mean, deviation = preparation.mean_and_deviation(values[trained])
        (tree / view).mkdir()
        for sample, row in zip(ids, ((values - mean) / deviation).astype(np.float32)):
            if any(sample in labels for labels in split.values()):
                np.save(tree / view / f"{sample}.npy", row)
    settings = {flag: vars(options)[flag] for flag in SETTINGS}
    write_text(tree / "settings.json", json.dumps(settings))
    preparation.finish(tree, [str(digit) for digit in range(CLASSES)], split)


def main(argv: list[str] | None = None) -> None:
    parser = preparation.command_line("mfeat", __doc__, "folder of the files, or an archive")
    add = parser.add_argument
    add("--split_seed", type=natural, default=0, metavar="N", help="of the random split")
    help_text = "of every class is for testing"
    add("--test_share", type=share, default=0.5, metavar="SHARE", help=help_text)
    of_all = number(int, "a multiple of 10, at least 10", lambda n: n >= 10 and n % 10 == 0)
    help_text = "training digits, as many of every class; default: all that are not for testing"
    add("--train_size", type=of_all, metavar="N", help=help_text)
    options = preparation.parse(parser, argv)
    if options.source is None:
        raise BadInput(HOW_TO_GET)
    with preparation.new_tree(options.output) as tree:
        prepare(options, tree)


if __name__ == "__main__":
    run_command(main)
