"""Meshes and MVCNN's pictures to ModelNet40: rendering, broken headers, damage, archives."""

import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import trimesh
from media import problems_of
from PIL import Image

from dataset.media.render import BACKGROUND, read_mesh, render
from dataset.prepare import modelnet40
from dataset.prepare._archive import unpack
from utils.errors import BadInput


def prepare(source, output):
    """The command; what it reports as unusable."""
    flags = ["--source", str(source), "--output", str(output)]
    modelnet40.main([*flags, "--size", "8", "--jobs", "1"])
    return problems_of(output)


TRIANGLE = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 0 1\n3 0 1 2\n"


def mesh_of(solid, path):
    solid.export(path)
    return read_mesh(path)


def test_a_ball_is_round_brightest_in_the_middle_and_fits(tmp_path):
    ball = mesh_of(trimesh.creation.icosphere(subdivisions=4, radius=7), tmp_path / "a.off")
    picture = render(ball, 30, 64)
    assert picture.shape == (64, 64) and picture.dtype == np.uint8
    there = picture < 255 * BACKGROUND
    rows, columns = np.nonzero(there)
    for line in (rows, columns):  # it just fits into the picture
        assert line.min() in (0, 1) and line.max() in (62, 63)
    assert abs(there.sum() - np.pi * 32**2) < 0.03 * np.pi * 32**2
    assert picture[30:34, 30:34].mean() > 250 > picture[32, 4] > 0.25 * 255
    assert np.abs(picture.astype(float) - picture[:, ::-1]).mean() < 2


def test_front_and_rear_are_opposite_and_z_is_up(tmp_path):
    """A flag on a pole: in front it flies to one side, from behind to the other."""
    pole = trimesh.creation.box((0.05, 0.05, 2))
    flag = trimesh.creation.box((0.02, 0.6, 0.4))
    flag.apply_translation((0, 0.3, 0.8))
    mesh = mesh_of(trimesh.util.concatenate([pole, flag]), tmp_path / "a.off")
    front, rear = (render(mesh, azimuth, 64) < 255 for azimuth in (0, 180))
    assert front.sum() > 100
    np.testing.assert_allclose(front.sum(), rear.sum(), rtol=0.1)
    assert front[:32].sum() > 2 * front[32:].sum()  # the flag is above
    for view, side in ((front, 1), (rear, -1)):
        rows, columns = np.nonzero(view)
        # +y is on the right, seen from +x
        assert side * (columns[rows < 24].mean() - columns[rows > 40].mean()) > 2


def test_size_place_and_winding_of_a_mesh_do_not_matter(tmp_path):
    solid = trimesh.creation.annulus(1, 2, 1)
    first = render(mesh_of(solid, tmp_path / "a.off"), 0, 48)
    solid.apply_scale(1000)
    solid.apply_translation((5e4, -3e4, 1e5))
    solid.invert()
    second = render(mesh_of(solid, tmp_path / "b.off"), 0, 48)
    assert np.abs(first.astype(int) - second).mean() < 0.5


def test_real_meshes_are_read_whole_and_fill_their_views(real_digits, tmp_path):
    """Five of Princeton's, two with a header in one line."""
    files = sorted((real_digits / "modelnet").glob("*.off"))
    broken = [f for f in files if not f.read_bytes().split(b"\n")[0].strip() == b"OFF"]
    assert (len(files), len(broken)) == (5, 2)
    for file in files:
        mesh, header = read_mesh(file), file.read_bytes()[3:40].split()
        assert (len(mesh.vertices), len(mesh.faces)) == tuple(map(int, header[:2]))
        views = [render(mesh, azimuth, 112) for azimuth in (0, 180)]
        assert all(0.05 < (view < 255).mean() < 0.9 for view in views)
        assert len(np.unique(views[0])) > 20


@pytest.mark.parametrize(
    "content, fault",
    [
        (TRIANGLE.replace("0 0 1", "2 0 0"), "no area"),
        (TRIANGLE.replace("3 0 1 2", "3 0 1 7"), ""),
        (TRIANGLE[:-10], ""),
    ],
)
def test_damaged_meshes_are_named(content, fault, tmp_path):
    (tmp_path / "a.off").write_text(content)
    settings = {"from": "mesh", "size": 8}
    with pytest.raises(BadInput, match=f"a.off: .*{fault}"):
        modelnet40.from_raw([tmp_path / "a.off"], "a", tmp_path / "out", settings)
    assert not list(tmp_path.glob("out/*/*"))


def test_views_1_and_7_of_mvcnn_are_taken_as_they_are(tmp_path):
    """A grey level per view, none of them black."""
    for split in ("train", "test"):
        folder = tmp_path / "raw" / "sofa" / split
        folder.mkdir(parents=True)
        for view in range(1, 13):
            picture = Image.new("RGB", (20, 20), (20 * view,) * 3)
            picture.save(folder / f"sofa_{split}.obj.shaded_v{view:03d}.png")
    assert not prepare(tmp_path / "raw", tmp_path / "out")
    for modality, view in (("front", 1), ("rear", 7)):
        original = folder / f"sofa_test.obj.shaded_v{view:03d}.png"
        assert (tmp_path / "out" / modality / "sofa_test.png").read_bytes() == original.read_bytes()


def test_archives_are_taken_whole(raw_modelnet, tmp_path):
    shutil.make_archive(str(tmp_path / "ModelNet40"), "zip", raw_modelnet.parent, raw_modelnet.name)
    assert not prepare(tmp_path / "ModelNet40.zip", tmp_path / "out")
    assert (tmp_path / ".download" / "ModelNet40" / "ModelNet40").is_dir()
    content = bytearray((tmp_path / "ModelNet40.zip").read_bytes())
    content[200:260] = bytes(60)
    (tmp_path / "Damaged.zip").write_bytes(content)
    with pytest.raises(BadInput, match="Damaged.zip: cannot be unpacked"):
        prepare(tmp_path / "Damaged.zip", tmp_path / "other")
    assert not (tmp_path / ".download" / "Damaged").exists()


def test_archives_cannot_write_or_point_elsewhere(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a/../../out.off", "x")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.writestr("/tmp/out.off", "x")
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as file:
        member = tarfile.TarInfo("a")
        member.type, member.linkname = tarfile.SYMTYPE, "../../out"
        file.addfile(member)
    for archive in ("a.zip", "b.zip", "c.tar.gz"):
        with pytest.raises(BadInput, match="leads out of the archive|outside the destination"):
            unpack(tmp_path / archive, tmp_path / "in" / "a")
        assert not list((tmp_path / "in").iterdir())
