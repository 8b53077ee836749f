"""A further modality of a prepared set, computed from the pictures or frames of another.

    python -m dataset.prepare.derive edge --data_root ../data/cgmnist --source colour
    python -m dataset.prepare.derive flow --data_root ../data/demo --source visual --jobs 4
    python train.py --dataset folder --data_root ../data/cgmnist --modalities grey,colour,edge

Run inside code/. Writes DATA_ROOT/<name>/, a picture or a folder of frames for each of the source.
Interrupted or killed, the same command goes on. What is computed is a file of dataset/derived/.
"""

from pathlib import Path

import cv2
import numpy as np

from dataset._files import entries_of, id_of, look_into, tell_left_out
from dataset.modalities import check_names, image
from dataset.modalities.frames import pictures_in
from dataset.prepare import _manifest as manifest
from dataset.prepare import _preparation as preparation
from utils import registry
from utils.atomic import new_folder, remove_leftovers, replacing
from utils.command import Parser
from utils.errors import BadInput, run_command


def read(path: Path) -> np.ndarray:
    """(H, W, 3) blue-green-red."""
    return np.asarray(image.opened(path).convert("RGB"))[..., ::-1].copy()


def write(path: Path, picture: np.ndarray) -> None:
    if not cv2.imwrite(str(path), picture):
        raise OSError(f"cannot write {path}")


def one_of_each(folder: Path, entries: list[Path]) -> dict[str, Path]:
    """{id: its entry}. Raises BadInput for two entries of one id: one would overwrite the other."""
    sources: dict[str, Path] = {}
    for entry in entries:
        if (other := sources.setdefault(id_of(entry), entry)) != entry:
            raise BadInput(f"{folder}: {other.name} and {entry.name} would be one picture; rename")
    return sources


def derive_sample(sources: list[Path], kind: str, target: Path) -> None:
    """One picture, or the folder of a clip's frames, of one source. Raises BadInput where that is
    unusable."""
    (source,) = sources
    compute = registry.load("dataset/derived", kind, "derive").derive
    is_clip = source.is_dir()
    files = pictures_in(source) if is_clip else [source]
    one_of_each(source, files)
    pictures = compute([read(file) for file in files])
    if is_clip:
        with new_folder(target) as folder:
            for file, picture in zip(files, pictures, strict=True):
                write(folder / f"{file.stem}.png", picture)
    else:
        with replacing(target.with_name(f"{target.name}.png")) as file:
            file.write_bytes(cv2.imencode(".png", pictures[0])[1].tobytes())


def derive(kind: str, source: Path, target: Path, jobs: int) -> int:
    """All samples of a modality that are not there yet; how many there were to do.

    Raises BadInput in the end where some cannot be derived; the others are.
    """
    entries, left_out = look_into(source)
    tell_left_out(source, left_out)
    other = [
        e for e in entries if not e.is_dir() and e.suffix.lower() not in image.Modality.suffixes
    ]
    if other or not entries:
        raise BadInput(f"{other[0] if other else source}: no picture and no folder of frames")
    sources = one_of_each(source, entries)
    target.mkdir(exist_ok=True)
    remove_leftovers(target)
    there = {id_of(entry) for entry in entries_of(target)}
    todo = {name: ([e], kind, target / name) for name, e in sources.items() if name not in there}
    preparation.tell_alike(sources)
    problems = preparation.convert(derive_sample, todo, jobs, kind) if todo else {}
    if problems.keys() == sources.keys():
        target.rmdir()
        raise BadInput(f"nothing is usable; the first: {next(iter(problems.values()))}")
    preparation.check_written(target, sources.keys() - problems.keys())
    manifest.add(target.parent, target.name)
    if problems:
        few = "; ".join(map(str, list(problems.values())[: preparation.SHOWN]))
        raise BadInput(f"{target}: without {len(problems)} of {len(sources)} samples, {few}")
    return len(todo)


def main(argv=None) -> None:
    parser = Parser("python -m dataset.prepare.derive", __doc__)
    add = parser.add_argument
    add("kind", help="a file of dataset/derived/: " + ", ".join(registry.names("dataset/derived")))
    add("--data_root", type=Path, required=True, metavar="DIR", help="the prepared set")
    add("--source", required=True, metavar="MODALITY", help="whose pictures or frames are used")
    add("--name", metavar="NAME", help="of the new modality (default: the kind)")
    preparation.add_jobs(parser)
    options = parser.parse_args(argv)
    registry.load("dataset/derived", options.kind, "derive")
    source, name = options.data_root / options.source, options.name or options.kind
    if not source.is_dir():
        raise BadInput(f"--source {options.source}: {options.data_root} has no such folder")
    if Path(name).name != name or name in ("cache", options.source):
        raise BadInput(f"--name {name}: must be a folder name of its own")
    check_names([name])
    done = derive(options.kind, source, options.data_root / name, options.jobs)
    print(f"{options.data_root / name}: {done} samples derived from {options.source}")


if __name__ == "__main__":
    run_command(main)
