"""MNIST pictures and Free Spoken Digit recordings of the same digit -> dataset/avmnist.py.

    python -m dataset.prepare.avmnist                       downloads both (about 27 MB)
    python -m dataset.prepare.avmnist --source DIR          takes the archives that lie below DIR

Splits are disjoint in both sources: training pictures come from MNIST's training part, test
pictures from its test part; recordings are split by `--split`. As in Vielzeuf et al. 2018
(CentralNet) the pictures lose their leading principal components, so that neither modality is
trivial.

The default holds out the speakers theo and yweweler, so that sound does not generalise easily. The
easy variant of the same digits, which every method solves:
    --split index --output ../data/avmnist-easy
"""

import argparse
import io
import json
import struct
from functools import cache, partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image
from tqdm import tqdm

from dataset._limits import check_cost, naming
from dataset.media.audio import filter_bank
from dataset.prepare import _preparation as preparation
from dataset.prepare._archive import opened_tar, read_gzip
from dataset.prepare._download import check_sha256
from utils.atomic import write_text
from utils.command import natural, number, share
from utils.errors import run_command

MNIST_HOMES = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
MNIST_SHA256 = {  # of the decompressed files
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
FSDD_HOMES = [
    "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz",
]
FSDD_SHA256 = "45a9b976ba3397a2fd5c70a9f2e43c34f442a3a6be47392ecfc41174b678f37e"  # see recordings()
HELD_OUT_SPEAKERS = ("theo", "yweweler")
MNIST_SIZES = {"train": 60000, "test": 10000}
DIGITS = [str(d) for d in range(10)]
AUDIO_FRAMES, MEL_BINS = 48, 32  # 0.48 s: half of the recordings are shorter, the rest is cut


def mnist(split: str, source: Path | None, downloads: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, 28, 28) uint8 and digits (N,) of "train" or "test"; content checked.

    source: folder with MNIST's four archives, None to download them.
    """
    part = {"train": "train", "test": "t10k"}[split]
    arrays = []
    for kind, header_bytes in (("images-idx3", 16), ("labels-idx1", 8)):
        name = f"{part}-{kind}-ubyte"
        urls = [f"{home}{name}.gz" for home in MNIST_HOMES]
        read = partial(read_checked, name)
        content = preparation.find_or_fetch(f"{name}.gz", urls, downloads, source, read)
        shape = struct.unpack(f">{header_bytes // 4 - 1}I", content[4:header_bytes])
        arrays.append(np.frombuffer(content, np.uint8, offset=header_bytes).reshape(shape))
    return arrays[0], arrays[1]


def read_checked(name: str, path: Path) -> bytes:
    """The content of an archive of MNIST."""
    content = read_gzip(path)
    check_sha256(str(path), content, MNIST_SHA256[name])
    return content


def recordings(source: Path | None, downloads: Path) -> dict[str, bytes]:
    """{"3_theo_17": WAV file}, 3,000 of them; SHA-256 over sorted names and contents checked."""
    name = "recordings.tar.gz"
    return preparation.find_or_fetch(name, FSDD_HOMES, downloads, source, read_recordings)


def read_recordings(path: Path) -> dict[str, bytes]:
    files, size = {}, 0
    with naming(path), opened_tar(path) as tar:  # in memory: no path can lead out
        for member in tar:
            check_cost(bytes=(size := size + member.size))
            if member.isfile() and member.name.endswith(".wav"):
                files[Path(member.name).stem] = tar.extractfile(member).read()
    content = b"".join(f"{name}.wav".encode() + files[name] for name in sorted(files))
    check_sha256(str(path), content, FSDD_SHA256)
    return files


def is_test_recording(name: str, split: str) -> bool:
    """By "speaker": the held-out ones. By "index": FSDD's own split, 0 to 4 of every speaker."""
    _, speaker, index = name.split("_")
    return speaker in HELD_OUT_SPEAKERS if split == "speaker" else int(index) < 5


class Weaken:
    """Removes the leading principal components that hold `energy` of the variance of the pictures.

    Fitted to `pictures` (N, 28, 28) uint8; applied to (M, 28, 28) uint8 it gives uint8, 127.5 +
    127.5 r for the remainder r in [-1, 1] (grey is nothing left). energy 0 changes nothing.
    """

    def __init__(self, pictures: np.ndarray, energy: float):
        flat = torch.from_numpy(pictures.reshape(len(pictures), -1) / np.float32(255))
        self.mean = flat.mean(0)
        variances, vectors = torch.linalg.eigh((flat - self.mean).T.double().cov())  # ascending
        kept = variances.cumsum(0) <= (1 - energy) * variances.sum()
        self.energy, self.rest = energy, vectors[:, kept].float()

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        if self.energy == 0:
            return pictures
        flat = torch.from_numpy(pictures.reshape(len(pictures), -1) / np.float32(255)) - self.mean
        remainder = (flat @ self.rest @ self.rest.T).clamp(-1, 1)
        return (127.5 + 127.5 * remainder).round().byte().numpy().reshape(pictures.shape)


def pair(
    digits: np.ndarray, recordings: list[str], size: int, rng: np.random.Generator
) -> list[tuple[int, str]]:
    """`size` pairs (index of the picture, name of the recording) of the same digit.

    Pictures are drawn without repetition; the recordings of a digit take turns in random order.
    """
    waiting: dict[int, list[str]] = {digit: [] for digit in range(10)}
    pairs = []
    for index in rng.permutation(len(digits))[:size]:
        digit = int(digits[index])
        if not waiting[digit]:
            of_digit = [name for name in recordings if name.startswith(f"{digit}_")]
            waiting[digit] = [of_digit[i] for i in rng.permutation(len(of_digit))]
        pairs.append((int(index), waiting[digit].pop()))
    return pairs


def add_sizes(parser: argparse.ArgumentParser, train: int, test: int) -> None:
    """--train_size and --test_size, of a set made of MNIST, with these defaults."""
    for part, default in (("train", train), ("test", test)):
        most = MNIST_SIZES[part]
        size = number(int, f"between 10 and {most}", lambda n, most=most: 10 <= n <= most)
        text = f"samples, at most {most}"
        parser.add_argument(f"--{part}_size", type=size, default=default, metavar="N", help=text)


def sizes_of(options: argparse.Namespace) -> dict[str, int]:
    return {"train": options.train_size, "test": options.test_size}


def prepare(options: argparse.Namespace, tree: Path) -> None:
    """Fills the folder `tree`."""
    downloads = options.output.parent / ".download"
    sounds = recordings(options.source, downloads)

    @cache
    def bank(name: str) -> torch.Tensor:
        waveform, sample_rate_hz = soundfile.read(io.BytesIO(sounds[name]), dtype="float32")
        return filter_bank(waveform, sample_rate_hz, MEL_BINS, AUDIO_FRAMES)

    (tree / "audio").mkdir()
    (tree / "visual").mkdir()
    rng, split = np.random.default_rng(options.seed), {}
    sizes = sizes_of(options)
    parts = {part: mnist(part, options.source, downloads) for part in sizes}
    weaken = Weaken(parts["train"][0], options.energy_removed)
    for part, (pictures, digits) in parts.items():
        in_part = [
            name
            for name in sorted(sounds)
            if is_test_recording(name, options.split) == (part == "test")
        ]
        pairs = pair(digits, in_part, sizes[part], rng)
        weakened = weaken(pictures[[index for index, _ in pairs]])
        split[part], origins = {}, []
        for i, (index, name) in enumerate(tqdm(pairs, desc=part, disable=None)):
            sample = f"{part}_{i:05d}"
            torch.save(bank(name), tree / "audio" / f"{sample}.pt")
            Image.fromarray(weakened[i]).save(tree / "visual" / f"{sample}.png")
            split[part][sample] = str(digits[index])
            origins.append(f"{sample},{index},{name}\n")
        write_text(tree / f"{part}_origin.csv", "".join(origins))
    settings = {flag: vars(options)[flag] for flag in ("split", "energy_removed", "seed")}
    write_text(tree / "settings.json", json.dumps(settings))
    preparation.finish(tree, DIGITS, split)


def main(argv: list[str] | None = None) -> None:
    source = "folder with the archives, instead of a download"
    parser = preparation.command_line("avmnist", __doc__, source)
    add = parser.add_argument
    add("--split", choices=("speaker", "index"), default="speaker", help="of the recordings")
    add(
        "--energy_removed",
        type=share,
        default=0.92,
        metavar="SHARE",
        help="share of the pictures' variance removed, leading components first; 0 to below 1",
    )
    add_sizes(parser, 2000, 2000)
    add("--seed", type=natural, default=0, help="of the pairing")
    options = preparation.parse(parser, argv)
    with preparation.new_tree(options.output) as tree:
        prepare(options, tree)


if __name__ == "__main__":
    run_command(main)
