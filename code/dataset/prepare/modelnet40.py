"""ModelNet40: meshes, or MVCNN's pictures of them -> front and rear views, dataset/modelnet40.py.

    python -m dataset.prepare.modelnet40                 downloads the meshes (2 GB), renders them
    python -m dataset.prepare.modelnet40 --source FILE   takes ModelNet40.zip, or
                                                         modelnet40_images_new_12x.tar.gz
    python -m dataset.prepare.modelnet40 --source DIR    takes either, unpacked

Expects <class>/<train or test>/<object>.off, or the twelve <object>.obj.shaded_v001.png to
_v012.png of MVCNN, of which views 1 and 7 are taken, 180 degrees apart. From meshes the same two
views are rendered here: camera 30 degrees up, z upwards, grey on white. Broken meshes are left out.
"""

import argparse
import re
import shutil
from collections import Counter
from pathlib import Path

from PIL import Image

from dataset._files import raw_files
from dataset.media.render import read_mesh, render
from dataset.modalities.image import opened_alone
from dataset.prepare import _preparation as preparation
from dataset.prepare._archive import is_archive, unpack
from dataset.prepare._download import fetch
from utils.atomic import replacing
from utils.command import count
from utils.errors import BadInput, run_command

VIEWS = {"front": 1, "rear": 7}  # of twelve, 30 degrees apart
EXPECTED = {"train": 9843, "test": 2468}
HOMES = ["http://modelnet.cs.princeton.edu/ModelNet40.zip"]  # for academic use
# object, suffix, view
NAMES = re.compile(r"([^.].*?)(\.off|(?:\.obj)?\.shaded_v(\d{3})\.png)", re.IGNORECASE)


def find_raw(options: argparse.Namespace) -> preparation.RawSet:
    """The meshes, or the pictures of both views, in a folder, an archive or a download.

    A name that several objects have gets their class and part in front. Raises BadInput where
    there is neither or both.
    """
    downloads = options.output.parent / ".download"
    source = options.source or fetch(HOMES, downloads / "ModelNet40.zip", lambda path: path)
    if is_archive(source):
        source = unpack(source, downloads / source.name.split(".")[0])
    split: dict[str, dict[str, str]] = {"train": {}, "test": {}}
    meshes: dict[str, list[Path]] = {}
    pictures: dict[str, list[Path]] = {}
    found: list[tuple[str, str, str, str | None, Path]] = []
    for path in raw_files(source):
        match, part = NAMES.fullmatch(path.name), path.parent.name
        if match and part in split:
            found.append((match[1], path.parent.parent.name, part, match[3], path))
    of_name = Counter(name for name, _, _ in {entry[:3] for entry in found})
    if several := [name for name, count in of_name.items() if count > 1]:
        print(
            f"NOTE: {len(several)} names are of several objects, such as {several[0]}: their ids "
            "have the class and the part in front"
        )
    for name, label, part, view, path in found:
        if of_name[name] > 1:
            name = f"{label}_{part}_{name}"
        if split[part].setdefault(name, label) != label:
            raise BadInput(f"{path}: {name} is also in {split[part][name]}; names must differ")
        if view is None:
            meshes.setdefault(name, []).append(path)
        elif int(view) in VIEWS.values():
            pictures.setdefault(name, []).append(path)
    if bool(meshes) == bool(pictures):
        raise BadInput(
            f"--source {source}: holds {'both' if meshes else 'neither'} <class>/<train or test>/"
            "<object>.off and <object>.obj.shaded_v001.png; name one of them"
        )
    raw = meshes or pictures
    files = {name: raw.get(name, []) for part in split.values() for name in part}
    classes = sorted({label for part in split.values() for label in part.values()})
    settings = {"from": "picture", "size": None}
    if meshes:
        settings = {"from": "mesh", "size": options.size}
    return preparation.RawSet(classes, split, files, settings, EXPECTED)


def from_raw(files: list[Path], name: str, output: Path, settings: dict) -> None:
    """Both pictures of an object, of its mesh or of its front and rear view."""
    targets = [output / modality / f"{name}.png" for modality in VIEWS]
    if all(target.is_file() for target in targets):
        return
    is_mesh = settings["from"] == "mesh"
    if len(files) != (1 if is_mesh else len(VIEWS)):
        needed = "one mesh" if is_mesh else "its views 1 and 7"
        raise BadInput(f"{files[0]}: of each object {needed} must be there")
    if is_mesh:
        mesh = read_mesh(files[0])
        for view, target in zip(VIEWS.values(), targets):
            with replacing(target) as temporary:
                picture = render(mesh, 30 * (view - 1), settings["size"])
                Image.fromarray(picture).save(temporary, format="PNG")
        return
    for file in files:
        opened_alone(file)  # as training will read it
    for file, target in zip(files, targets):
        with replacing(target) as temporary:
            shutil.copyfile(file, temporary)


def main(argv: list[str] | None = None) -> None:
    parser = preparation.command_line("modelnet40", __doc__, "instead of a download, see above")
    help_text = "of a rendering, as MVCNN's"
    parser.add_argument("--size", type=count, default=224, metavar="PIXELS", help=help_text)
    preparation.run(parser, find_raw, from_raw, argv=argv)


if __name__ == "__main__":
    run_command(main)
