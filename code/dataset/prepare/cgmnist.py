"""Grey and coloured MNIST -> dataset/cgmnist.py.

    python -m dataset.prepare.cgmnist                    downloads MNIST (12 MB) and colours it
    python -m dataset.prepare.cgmnist --source DIR       takes MNIST's archives that lie below DIR
    python -m dataset.prepare.cgmnist --npy FILE.npy     takes the coloured MNIST of Kim et al. 2019
    python -m dataset.prepare.cgmnist --check            compares the tree with its checksums

Run inside code/. Both pictures show the same digit. In training a digit has its class's colour,
with Gaussian jitter of the variance `--variance` per channel; in testing the colour of a class
drawn at random, with the same jitter, so that it tells nothing. Small variances make colour the
easier way: 0.030 is what PMR uses, in the middle of Kim et al.'s 0.020 to 0.050.
"""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dataset.prepare import _preparation as preparation
from dataset.prepare.avmnist import DIGITS, MNIST_SIZES, check_request, mnist
from utils.atomic import new_folder, write_text
from utils.errors import BadInput, run

# Mean colour of digits 0 to 9, red-green-blue: ten that are easily told apart (crimson, teal,
# lemon, blue, orange, violet, cyan, pink, lime, maroon). Kim et al.'s are in their files only.
MEAN_COLOURS = np.array(
    [
        (220, 20, 60),
        (0, 128, 128),
        (253, 233, 16),
        (0, 149, 182),
        (237, 145, 33),
        (145, 30, 188),
        (70, 240, 240),
        (250, 197, 187),
        (210, 245, 60),
        (128, 0, 0),
    ]
)
SAFE = {  # all that a pickled dictionary of arrays needs
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


def colours(classes: np.ndarray, variance: float, rng: np.random.Generator) -> np.ndarray:
    """(N, 3) in [0, 1]: the mean colour of each class plus jitter, clipped.

    classes: (N,); variance: of each channel, on the scale 0 to 1.
    """
    jitter = rng.normal(0, variance**0.5, (len(classes), 3))
    return (MEAN_COLOURS[classes] / 255 + jitter).clip(0, 1)


def colour_pictures(
    grey: np.ndarray, digits: np.ndarray, variance: float, train: bool, rng: np.random.Generator
) -> np.ndarray:
    """(N, 28, 28, 3) uint8: each grey level times the picture's colour.

    grey: (N, 28, 28) uint8; digits: (N,). Testing: the colour of a class drawn independently.
    """
    classes = digits if train else rng.integers(10, size=len(digits))
    tint = colours(classes, variance, rng)[:, None, None]
    return (grey[..., None] * tint).round().astype(np.uint8)


class ArraysOnly(pickle.Unpickler):
    """Unpickles arrays, and refuses whatever could run code."""

    def find_class(self, module: str, name: str):
        if (module, name) not in SAFE:
            raise pickle.UnpicklingError(f"asks for {module}.{name}")
        return super().find_class(module, name)


def read_npy(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{"train" | "test": (pictures (N, 28, 28, 3) uint8, digits (N,))} of a file of Kim et al.

    The file is a dictionary that NumPy has pickled; nothing in it is run. Raises BadInput for other
    keys, shapes or values.
    """
    try:
        content = path.read_bytes()
        file = io.BytesIO(content)
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(file)
        if shape != () or not dtype.hasobject:
            raise BadInput(f"--npy {path}: an array {shape} of {dtype}, not a dictionary of arrays")
        found = ArraysOnly(file, encoding="latin1").load()
        found = found.item() if isinstance(found, np.ndarray) else found
        found = {str(key): np.asarray(value) for key, value in dict(found).items()}
    except (OSError, KeyError, EOFError, TypeError, ValueError, pickle.UnpicklingError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"--npy {path}: unreadable ({error})") from error
    parts = {}
    for part in MNIST_SIZES:
        keys = f"{part}_image", f"{part}_label"
        if missing := [key for key in keys if key not in found]:
            raise BadInput(f"--npy {path}: has no {', '.join(missing)}, but {sorted(found)}")
        pictures, digits = (found[key] for key in keys)
        if pictures.ndim != 4 or pictures.shape[1:] != (28, 28, 3):
            raise BadInput(f"--npy {path}: {keys[0]} is {pictures.shape}, not (N, 28, 28, 3)")
        if digits.shape != pictures.shape[:1] or not np.isin(digits, range(10)).all():
            raise BadInput(f"--npy {path}: {keys[1]} must hold a digit for each of {keys[0]}")
        if pictures.min() < 0 or pictures.max() > 255:
            raise BadInput(f"--npy {path}: {keys[0]} must lie in 0 to 255")
        parts[part] = pictures.astype(np.uint8), digits.astype(int)
    return parts


def build(
    source: Path | None,
    downloads: Path,
    npy: Path | None,
    variance: float,
    seed: int,
    sizes: dict[str, int],
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """{part: (grey, coloured, digits)}, the first pictures of MNIST's parts in its order.

    npy: coloured pictures of the same index from here, if their digits agree; else coloured anew.
    """
    rng, parts = np.random.default_rng(seed), {}
    published = read_npy(npy) if npy else {}
    for part, size in sizes.items():
        grey, digits = (array[:size] for array in mnist(part, source, downloads))
        if npy:
            coloured, theirs = (array[:size] for array in published[part])
            if len(theirs) < size or (theirs != digits).any():
                raise BadInput(
                    f"--npy {npy}: {part}_label differs from MNIST's, so grey and coloured "
                    "pictures of one index would show different digits"
                )
        else:
            coloured = colour_pictures(grey, digits, variance, part == "train", rng)
        parts[part] = grey, coloured, digits
    return parts


def prepare(
    source: Path | None,
    output: Path,
    npy: Path | None = None,
    variance: float = 0.03,
    train_size: int = MNIST_SIZES["train"],
    test_size: int = MNIST_SIZES["test"],
    seed: int = 0,
) -> None:
    """Writes the tree; `output` appears only when it is complete."""
    sizes = {"train": train_size, "test": test_size}
    check_request(source, output, sizes)
    if not 0 <= variance <= 1:
        raise BadInput(f"--variance {variance}: must be between 0 and 1")
    downloads = output.parent / ".download"
    split, parts = {}, build(source, downloads, npy, variance, seed, sizes)

    with new_folder(output) as scratch:
        for modality in ("grey", "colour"):
            (scratch / modality).mkdir()
        for part, (grey, coloured, digits) in parts.items():
            names = [f"{part}_{number:05d}" for number in range(len(digits))]
            for i, name in enumerate(tqdm(names, desc=part, disable=None)):
                Image.fromarray(grey[i]).save(scratch / "grey" / f"{name}.png")
                Image.fromarray(coloured[i]).save(scratch / "colour" / f"{name}.png")
            split[part] = [f"{name},{digit}" for name, digit in zip(names, digits)]
        settings = dict(npy=npy and npy.name, variance=None if npy else variance, seed=seed)
        write_text(scratch / "settings.json", json.dumps(settings))
        preparation.finish(scratch, DIGITS, split)


def main() -> None:
    parser = preparation.command_line("cgmnist", __doc__)
    parser.add_argument("--source", type=Path, help="folder with MNIST's four archives")
    parser.add_argument("--npy", type=Path, help="mnist_10color_jitter_var_0.030.npy or the like")
    parser.add_argument(
        "--variance", type=float, default=0.03, help="of the jitter of each channel, 0 to 1"
    )
    parser.add_argument("--train_size", type=int, default=60000, metavar="N", help="the first N")
    parser.add_argument("--test_size", type=int, default=10000, metavar="N", help="the first N")
    parser.add_argument("--seed", type=int, default=0, help="of the colours")
    prepare(**preparation.parse(parser))


if __name__ == "__main__":
    run(main)
