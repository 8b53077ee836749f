"""ModelNet40: meshes, or MVCNN's pictures of them -> front and rear views, dataset/modelnet40.py.

    python -m dataset.prepare.modelnet40                 downloads the meshes (2 GB), renders them
    python -m dataset.prepare.modelnet40 --source FILE   takes ModelNet40.zip, or
                                                         modelnet40_images_new_12x.tar.gz
    python -m dataset.prepare.modelnet40 --source DIR    takes either, unpacked
    python -m dataset.prepare.modelnet40 --check         compares the tree with its checksums

Run inside code/. Expects <class>/<train or test>/<object>.off, or the twelve
<object>.obj.shaded_v001.png to _v012.png of MVCNN, of which views 1 and 7 are taken, 180 degrees
apart. From meshes the same two views are rendered here: camera 30 degrees up, z upwards, grey on
white. Broken meshes are named at the end and in <output>/report.json. It can be interrupted, also
killed, and run again.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from dataset.media.render import read_mesh, render
from dataset.prepare import _preparation as preparation
from dataset.prepare._archive import is_archive, unpack
from dataset.prepare._download import fetch
from utils.atomic import replacing
from utils.errors import BadInput, run

VIEWS = {"front": 1, "rear": 7}  # of twelve, 30 degrees apart
EXPECTED = {"train": 9843, "test": 2468}
HOMES = ("http://modelnet.cs.princeton.edu/ModelNet40.zip",)  # for academic use


class Object(NamedTuple):
    """One object: its class and its files, {0: mesh} or {number of the view: picture}."""

    label: str
    files: dict[int, Path]


def find_objects(source: Path) -> tuple[str, dict[str, dict[str, Object]]]:
    """("mesh" | "picture", {"train" | "test": {id: object}}) of what lies below `source`.

    Raises BadInput where there is neither or both, or where two objects have one name.
    """
    found: dict[str, dict[str, dict[str, Object]]] = {}
    for path in sorted(source.rglob("*")):
        name = re.fullmatch(r"([^.].*?)(\.off|(?:\.obj)?\.shaded_v(\d{3})\.png)", path.name)
        if not name or path.parent.name not in EXPECTED:
            continue
        kind = "mesh" if name[3] is None else "picture"
        objects = found.setdefault(kind, {split: {} for split in EXPECTED})
        label = path.parent.parent.name
        own = objects[path.parent.name].setdefault(name[1], Object(label, {}))
        if own.label != label:
            raise BadInput(f"{path}: {name[1]} is also in {own.label}; names must differ")
        own.files[int(name[3] or 0)] = path
    if len(found) != 1:
        raise BadInput(
            f"--source {source}: holds {'both' if found else 'neither'} <class>/<train or test>/"
            "<object>.off and <object>.obj.shaded_v001.png; name one of them"
        )
    ((kind, objects),) = found.items()
    if both := objects["train"].keys() & objects["test"].keys():
        raise BadInput(f"--source {source}: {min(both)} is in train and in test")
    return kind, objects


def prepare_object(name: str, files: dict[int, Path], output: Path, size: int) -> None:
    """Both pictures of one object, unless they are there. Raises BadInput for unusable files."""
    targets = {view: output / modality / f"{name}.png" for modality, view in VIEWS.items()}
    if all(target.is_file() for target in targets.values()):
        return
    if 0 in files:
        mesh = read_mesh(files[0])
        for view, target in targets.items():
            with replacing(target) as temporary:
                picture = render(mesh, 30 * (view - 1), size)
                Image.fromarray(picture).save(temporary, format="PNG")
        return
    for view in targets:
        if view not in files:
            raise BadInput(f"{name}: has no view {view}")
        try:
            with Image.open(files[view]) as picture:
                picture.load()
        except (UnidentifiedImageError, OSError) as error:
            raise BadInput(f"{files[view]}: unreadable ({error})") from error
    for view, target in targets.items():
        with replacing(target) as temporary:
            shutil.copyfile(files[view], temporary)


def from_raw(files: list[Path], name: str, output: Path, settings: dict) -> None:
    """For predict.py: an object of its mesh, or of its front and rear view."""
    views = dict(zip(VIEWS.values(), files)) if len(files) == len(VIEWS) else {0: files[0]}
    if len(files) > len(VIEWS) or (0 in views) != (settings["from"] == "mesh"):
        raise BadInput(f"{files[0]}: the model was trained on a {settings['from']} of each object")
    prepare_object(name, views, output, settings["size"])


def prepare(source: Path | None, output: Path, size: int, jobs: int) -> dict[str, str]:
    """Writes the whole tree. Returns {object: what is wrong with it}.

    source: folder or archive, None to download; size: height and width of a rendering in pixels.
    """
    if size < 1:
        raise BadInput(f"--size {size}: must be > 0")
    downloads = output.parent / ".download"
    source = source or fetch(HOMES, downloads / "ModelNet40.zip")
    if not source.exists():
        raise BadInput(f"--source {source}: no such file or folder")
    if is_archive(source):
        source = unpack(source, downloads / source.name.split(".")[0])
    kind, objects = find_objects(source)
    preparation.begin(output, {"from": kind, "size": size if kind == "mesh" else None})
    work = {
        name: (name, one.files, output, size)
        for own in objects.values()
        for name, one in own.items()
    }
    problems, seconds = preparation.convert(prepare_object, work, jobs, "objects")
    files = [file for _, own, _, _ in work.values() for file in own.values()]
    speed = preparation.speed_of(files, len(work), seconds, jobs)
    split = {s: [f"{n},{one.label}" for n, one in own.items()] for s, own in objects.items()}
    classes = sorted({one.label for own in objects.values() for one in own.values()})
    preparation.finish(output, classes, split, problems, EXPECTED, speed)
    return problems


def main() -> None:
    parser = preparation.command_line("modelnet40", __doc__)
    parser.add_argument("--source", type=Path, help="instead of a download, see above")
    parser.add_argument(
        "--size", type=int, default=224, metavar="PIXELS", help="of a rendering, as MVCNN's"
    )
    preparation.add_jobs(parser)
    prepare(**preparation.parse(parser))


if __name__ == "__main__":
    run(main)
