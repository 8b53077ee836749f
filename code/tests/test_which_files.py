"""Which files a data set is made of, and in which order: the same in every process."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from commands import CODE

from dataset._files import id_of
from dataset._samples import natural
from dataset.prepare import _preparation as preparation
from dataset.prepare import derive
from training import options
from utils.errors import BadInput

ORDERS = """
import json, sys
from pathlib import Path
from dataset.folder import Dataset
from dataset.modalities.frames import Modality
root = Path(sys.argv[1])
dataset = Dataset(root)
frames = Modality(root / "clip", False)
print(json.dumps([
    dataset.classes,
    dataset.samples("train"),
    [path.name for path in frames._files("train0")],
    list(dataset.modalities),
]))
"""


def test_no_order_depends_on_the_hashes_of_names(own_data):
    labels = ["s1", "s01", "s001", "s10", "S1", "s1 "]
    rows = [f"train{i},{labels[i % 6]}" for i in range(8)]
    (own_data / "train.csv").write_text("\n".join(rows))
    (own_data / "test.csv").write_text("test0,s01\n")
    frame = (own_data / "clip" / "train0" / "8.png").read_bytes()
    for name in ("08.png", "008.png", "8.PNG"):
        (own_data / "clip" / "train0" / name).write_bytes(frame)
    printed = set()
    for seed in range(3):
        command = [sys.executable, "-c", ORDERS, str(own_data)]
        env = os.environ | {"PYTHONHASHSEED": str(seed), "PYTHONPATH": str(CODE)}
        printed.add(subprocess.run(command, env=env, capture_output=True, check=True).stdout)
    (orders,) = printed
    classes, _, frames, _ = json.loads(orders)
    assert classes == ["S1", "s001", "s01", "s1", "s10"]
    assert frames == ["8.PNG", "008.png", "08.png", "8.png", "9.png", "10.png"]


def test_names_of_one_number_have_an_order_of_their_own():
    names = ["s01", "s1", "s" + "9" * 5000, "s2", "s٣", "²", ""]
    assert sorted(names, key=natural) == sorted(names[::-1], key=natural)


@pytest.mark.parametrize(
    "name, fault",
    [
        *((word, "has a meaning") for word in ("multimodal", "shared", "none", "type", "values")),
        *((word, "has a meaning") for word in ("keys", "pop", "train", "forward", "__class__")),
        *((word, f"holds {word[1]!r}") for word in ("v.1", "a,b", "a=b", "a b", "a'b", 'a"b')),
        ("-a", "begins with '-'"),
        ("a ", "begins or ends with a blank"),
        ("a\nb", "line end"),
        (os.fsdecode(b"a\xffb"), "is no UTF-8"),
    ],
)
def test_a_modality_of_a_name_that_cannot_be_used_is_named_at_the_start(own_data, name, fault):
    (own_data / "photo").rename(own_data / name)
    argv = ["--dataset", "folder", "--data_root", str(own_data)]
    with pytest.raises(BadInput) as refused:
        options.parse(argv)
    assert f"modality {name!r}: " in str(refused.value) and fault in str(refused.value)
    assert "rename its folder" in str(refused.value) and "\n" not in str(refused.value)
    assert options.parse([*argv, "--modalities", "clip,depth"]).modalities == ["clip", "depth"]
    with pytest.raises((BadInput, SystemExit)):
        flags = ["--data_root", str(own_data), "--source", "clip", "--jobs", "1", "--name", name]
        derive.main(["edge", *flags])


@pytest.mark.parametrize("name", ["present", "test", "声音", "left-eye", "2", "Weights", "test_x"])
def test_other_names_of_modalities_are_free(own_data, name):
    (own_data / "photo").rename(own_data / name)
    argv = ["--dataset", "folder", "--data_root", str(own_data)]
    assert name in options.parse(argv).modalities


def test_derived_pictures_do_not_overwrite_each_other(own_data):
    flags = ["--data_root", str(own_data), "--jobs", "1"]
    names = ["rec.1", "rec.2", "Rec.1", "rec.1.png"]
    for name in names:
        shutil.copy(own_data / "photo" / "test0.jpg", own_data / "photo" / f"{name}.jpg")
        shutil.copytree(own_data / "clip" / "test0", own_data / "clip" / name)
    for kind, source in (("edge", "photo"), ("flow", "clip")):
        derive.main([kind, *flags, "--source", source])
        assert names_in(own_data / kind) == names_in(own_data / source) >= set(names)
    shutil.copy(own_data / "clip" / "rec.1" / "8.png", own_data / "clip" / "rec.1" / "8.jpg")
    with pytest.raises(BadInput, match="8.jpg and 8.png would be one picture"):
        derive.main(["grey", *flags, "--source", "clip"])
    shutil.copy(own_data / "photo" / "rec.1.jpg", own_data / "photo" / "rec.1.png")
    with pytest.raises(BadInput, match="rec.1.jpg and rec.1.png would be one picture"):
        derive.main(["grey", *flags, "--source", "photo", "--name", "g"])


def names_in(folder):
    return {id_of(entry) for entry in folder.iterdir()}


def test_what_was_written_is_counted(own_data):
    ids = names_in(own_data / "photo")
    preparation.check_written(own_data / "photo", ids)
    (own_data / "photo" / "test0.jpg").rename(own_data / "photo" / "Test0.jpg")
    with pytest.raises(BadInput, match="photo: 1 of 12 samples were not written, such as 'test0'"):
        preparation.check_written(own_data / "photo", ids)
