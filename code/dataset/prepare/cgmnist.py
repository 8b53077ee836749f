"""Grey and coloured MNIST -> dataset/cgmnist.py.

    python -m dataset.prepare.cgmnist                    downloads MNIST (12 MB) and colours it
    python -m dataset.prepare.cgmnist --source DIR       takes MNIST's archives that lie below DIR
    python -m dataset.prepare.cgmnist --npy FILE.npy     takes the coloured MNIST of Kim et al. 2019

Both pictures show the same digit. In training a digit has its class's colour, with Gaussian jitter
of the variance `--variance` per channel; in testing the colour of a class drawn at random, with the
same jitter, so that it says nothing about the digit. With a small variance colour is the easier cue
in training: 0.030 is what PMR uses, in the middle of Kim et al.'s 0.020 to 0.050.
"""

import argparse
import io
import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dataset._limits import naming
from dataset.prepare import _preparation as preparation
from dataset.prepare.avmnist import DIGITS, MNIST_SIZES, add_sizes, mnist, sizes_of
from utils.atomic import write_text
from utils.command import natural, number
from utils.errors import BadInput, run_command

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
    with naming(path):
        file = io.BytesIO(path.read_bytes())
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(file)
        if shape != () or not dtype.hasobject:
            raise BadInput(f"--npy {path}: an array {shape} of {dtype}, not a dictionary of arrays")
        content = ArraysOnly(file, encoding="latin1").load()
        content = content.item() if isinstance(content, np.ndarray) else content
        arrays = {str(key): np.asarray(value) for key, value in dict(content).items()}
    parts = {}
    for part in MNIST_SIZES:
        image, label = f"{part}_image", f"{part}_label"
        if missing := [key for key in (image, label) if key not in arrays]:
            raise BadInput(f"--npy {path}: has no {', '.join(missing)}, but {sorted(arrays)}")
        pictures, digits = arrays[image], arrays[label]
        if pictures.ndim != 4 or pictures.shape[1:] != (28, 28, 3):
            raise BadInput(f"--npy {path}: {image} is {pictures.shape}, not (N, 28, 28, 3)")
        if digits.shape != pictures.shape[:1] or not np.isin(digits, range(10)).all():
            raise BadInput(f"--npy {path}: {label} must hold a digit for each of {image}")
        # [0, 1] would become black pictures; nan is in no range
        is_levels = pictures.dtype.kind in "uif" and (pictures == np.round(pictures)).all()
        if not (is_levels and pictures.size and pictures.min() >= 0 and 1 < pictures.max() <= 255):
            raise BadInput(
                f"--npy {path}: {image} must hold whole numbers, 0 to 255; of pictures in [0, 1] "
                "save np.round(255 * x).astype(np.uint8)"
            )
        parts[part] = pictures.astype(np.uint8), digits.astype(int)
    return parts


def prepare(options: argparse.Namespace, tree: Path) -> None:
    """Fills the folder `tree` with the first pictures of MNIST's parts, in its order.

    With --npy the coloured picture of the same index is taken from there, if the digits agree.
    """
    downloads = options.output.parent / ".download"
    for modality in ("grey", "colour"):
        (tree / modality).mkdir()
    rng, split = np.random.default_rng(options.seed), {}
    published = read_npy(options.npy) if options.npy else {}
    for part, size in sizes_of(options).items():
        grey, digits = (array[:size] for array in mnist(part, options.source, downloads))
        if options.npy:
            coloured, labels = (array[:size] for array in published[part])
            if len(labels) < size or (labels != digits).any():
                raise BadInput(
                    f"--npy {options.npy}: {part}_label differs from MNIST's, so grey and coloured "
                    "pictures of one index would show different digits"
                )
        else:
            coloured = colour_pictures(grey, digits, options.variance, part == "train", rng)
        split[part] = {f"{part}_{i:05d}": str(digit) for i, digit in enumerate(digits)}
        for i, sample in enumerate(tqdm(split[part], desc=part, disable=None)):
            Image.fromarray(grey[i]).save(tree / "grey" / f"{sample}.png")
            Image.fromarray(coloured[i]).save(tree / "colour" / f"{sample}.png")
    settings = {"npy": None, "variance": options.variance, "seed": options.seed}
    if options.npy:
        settings |= {"npy": options.npy.name, "variance": None}
    write_text(tree / "settings.json", json.dumps(settings))
    preparation.finish(tree, DIGITS, split)


def main(argv: list[str] | None = None) -> None:
    parser = preparation.command_line("cgmnist", __doc__, "folder with MNIST's four archives")
    add = parser.add_argument
    add("--npy", type=Path, help="mnist_10color_jitter_var_0.030.npy or the like")
    variance = number(float, "between 0 and 1", lambda x: 0 <= x <= 1)
    help_text = "of the jitter of each channel, 0 to 1"
    add("--variance", type=variance, default=0.03, help=help_text)
    add_sizes(parser, MNIST_SIZES["train"], MNIST_SIZES["test"])
    add("--seed", type=natural, default=0, help="of the colours")
    options = preparation.parse(parser, argv)
    with preparation.new_tree(options.output) as tree:
        prepare(options, tree)


if __name__ == "__main__":
    run_command(main)
