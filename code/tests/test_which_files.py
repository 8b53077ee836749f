"""Which files a data set is made of, and in which order: the same in every process."""

import json
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from commands import CODE
from conftest import write_alignment
from media import problems_of, write_media
from PIL import Image

from dataset._files import id_of
from dataset._loader import build_loaders, check_classes
from dataset._samples import natural, read_csv, read_split, write_csv
from dataset.folder import Dataset
from dataset.media.audio import read_sound_track
from dataset.modalities import image
from dataset.prepare import _preparation as preparation
from dataset.prepare import cremad, modelnet40
from training import options
from utils import registry
from utils.errors import BadInput

PARTS = ("train", "test")
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


def test_any_class_name_that_is_prepared_is_read(tmp_path):
    classes = ["a, b", 'c "d"', "e;f", "'g'", "é", "#h", "i"]
    split = {part: {f"{part} {i}, x": name for i, name in enumerate(classes)} for part in PARTS}
    preparation.finish(tmp_path, classes, split)
    preparation.check(tmp_path)
    for part in PARTS:
        samples = read_split(tmp_path / f"{part}.csv", classes)
        assert [(s.id, classes[s.target]) for s in samples] == list(split[part].items())
    assert [row[0] for row in read_csv(tmp_path / "stat.csv")] == classes


def test_a_class_without_training_samples_is_an_error(own_data, raw_modelnet, tmp_path):
    (own_data / "stat.csv").write_text("cat\ncow\ndog\n")
    dataset = Dataset(own_data)
    dataset.classes.append("cow")
    with pytest.raises(BadInput, match="no training sample of 1 of 3 classes, 'cow'; add"):
        check_classes(dataset, dataset.samples("train"))
    source = tmp_path / "raw"
    shutil.copytree(raw_modelnet, source)
    for file in (source / "lamp" / "train").iterdir():
        file.write_text("OFF")
    argv = ["--source", str(source), "--output", str(tmp_path / "out"), "--jobs", "1"]
    with pytest.raises(BadInput, match="no usable training sample of 1 classes, lamp"):
        modelnet40.main([*argv, "--size", "16"])
    shutil.rmtree(source / "bottle" / "test")
    shutil.rmtree(source / "lamp" / "test")
    with pytest.raises(BadInput, match="the source has no sample for test.csv"):
        modelnet40.main([*argv, "--size", "16"])


JUNK = ["._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", "x.png~", "a.lock", "b.png.part"]
LABELS = ["lamp", "a, b", 'c "d"', "é", "s1", "s01"]


def made_tree(draw: random.Random, root, elsewhere) -> tuple[dict[str, str], set[str]]:
    """Views of objects as people keep them. Returns ({good object: its class}, names of others)."""
    good, bad = {}, set()
    for number, label in enumerate(draw.sample(LABELS, draw.randint(2, 4))):
        home = draw.choice((root, elsewhere)) / label
        for part in PARTS:
            folder = home / part
            folder.mkdir(parents=True)
            for i in range(draw.randint(1, 3)):
                name, fault = f"{number}{part[:2]}_{i}", draw.random()
                depth = np.uint8
                if fault < 0.1 and i:
                    bad.add(name)
                    depth = np.uint16
                elif fault < 0.2:
                    name = draw.choice((f"{name}, 1", f'"{name}"', f"{name}.5", f"Ö{name} b"))
                elif fault < 0.3 and i:
                    name = draw.choice(
                        (f"{name} ", f"{name}\n2", os.fsdecode(f"{name}".encode() + b"\xff"))
                    )
                    bad.add(name)
                if name not in bad:
                    good[name] = label
                levels = np.full((6, 6), 50 + i, depth)
                for view in (1, 7):
                    suffix = draw.choice(("png", "PNG"))
                    path = folder / f"{name}.obj.shaded_v{view:03d}.{suffix}"
                    Image.fromarray(levels).save(path, format="PNG")
        for name in draw.sample(JUNK, 3):
            (folder / name).write_bytes(b"junk")
        (home / "__MACOSX").mkdir()
        if draw.random() < 0.5:
            (folder / "loop").symlink_to(root)
            (folder / "again").symlink_to(folder, target_is_directory=True)
            (folder / "gone.png").symlink_to("nowhere")
            os.mkfifo(folder / "pipe.off")
        if home.parent != root:
            (root / label).symlink_to(home, target_is_directory=True)
    return good, bad


def check_made_tree(seed: int, tmp_path, printed) -> None:
    """Every object is prepared, with its class, and read by training; or it is named."""
    root, elsewhere, out = (tmp_path / f"{seed}" / name for name in ("raw", "else", "out"))
    root.mkdir(parents=True)
    good, bad = made_tree(random.Random(seed), root, elsewhere)
    argv = ["--source", str(root), "--output", str(out), "--jobs", "1"]
    modelnet40.main(argv)
    said = printed().out
    dataset = registry.load_class("dataset", "modelnet40", "")(out)
    problems = problems_of(out)
    listed = {s.id: dataset.classes[s.target] for part in PARTS for s in dataset.samples(part)}
    assert {name: label for name, label in listed.items() if name not in problems} == good
    for name in bad:
        shown = name.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")
        assert name in problems or shown in said, (seed, name)
    for view in ("front", "rear"):
        reader = image.Modality(out / view, False, image_size=6)
        assert reader.ids() == set(good)
        for name in good:
            level = 50 + int(name.strip('"').split("_")[1][0])
            assert reader.pack(name).unique().tolist() == [level]
    assert dataset.classes == sorted(set(good.values()))
    with pytest.raises(BadInput, match="9843 train samples"):
        preparation.check(out)  # complete but for the size of the public set
    assert "files are as they were prepared" in printed().out


def test_files_of_any_name_are_prepared_exactly_or_named(fuzz, tmp_path, capsys):
    for seed in list(fuzz)[:10]:
        check_made_tree(seed, tmp_path, capsys.readouterr)


@pytest.mark.slow
def test_many_files_of_any_name_are_prepared_exactly_or_named(fuzz, tmp_path, capsys):
    for seed in list(fuzz)[10:]:
        check_made_tree(seed, tmp_path, capsys.readouterr)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """{suffix: a clip of 3 s with sound}, and its sound alone."""
    folder = tmp_path_factory.mktemp("clips")
    codecs = {"flv": ("flv", "mp3"), "mp4": ("libx264", "aac"), "avi": ("mpeg4", "mp3")}
    files = {s: write_media(folder / f"a.{s}", *codecs[s], moves=2) for s in codecs}
    samples, rate_hz = read_sound_track(files["mp4"])
    soundfile.write(folder / "a.wav", samples, rate_hz)
    return {s: path.read_bytes() for s, path in files.items()} | {
        "wav": (folder / "a.wav").read_bytes()
    }


class Raw:
    """A folder of raw files as people keep them, with what should become of them."""

    def __init__(self, draw, root, elsewhere, clips):
        self.draw, self.root, self.elsewhere, self.clips = draw, root, elsewhere, clips
        self.good, self.bad = {}, set()  # {sample: its class}, samples and files to be named
        root.mkdir(parents=True)

    def folder(self, name):
        """A folder, or a link to one, with what belongs to no data set."""
        place = self.draw.choice((self.root, self.elsewhere)) / name
        place.mkdir(parents=True, exist_ok=True)
        if not (self.root / name).exists():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).symlink_to(place, target_is_directory=True)
        for junk in self.draw.sample(JUNK, 3):
            (place / junk).write_bytes(b"junk")
        if self.draw.random() < 0.3:
            (place / "loop").symlink_to(self.root)
            (place / "gone.mp4").symlink_to("nowhere")
            os.mkfifo(place / "pipe.wav")
        return place

    def write(self, folder, sample, suffix, label, may_fail=True, stem=None):
        """A clip of a class, now and then one that is bad, missing, or there twice."""
        fault, content = self.draw.random() if may_fail else 1, self.clips[suffix]
        stem = stem or sample
        if fault < 0.05:
            content = b""
        elif fault < 0.1:
            content = content[: len(content) // 2]
        elif fault < 0.15:
            content = b"version https://git-lfs"
        elif fault < 0.2:
            (folder / "below").mkdir(exist_ok=True)
            (folder / "below" / f"{stem}.{suffix}").write_bytes(b"deeper")
            self.bad.add(f"{stem}.{suffix}: ")
        if fault < 0.15:
            self.bad.add(sample)
            self.good.pop(sample, None)
        elif sample not in self.bad:
            self.good[sample] = label
        name = f"{stem}.{self.draw.choice((suffix, suffix.upper()))}"
        (folder / name).write_bytes(content)

    def stray(self, folder, name, suffix):
        (folder / f"{name}.{suffix}").write_bytes(self.clips[suffix])
        self.bad.add(name)


def raw_cremad(raw):
    videos, sounds = raw.folder("VideoFlash"), raw.folder("AudioWAV")
    for actor in (1001, 1002, 1003):
        for code in cremad.CODES[:3] if actor == 1003 else cremad.CODES:
            clip = f"{actor}_DFA_{code}_XX"
            raw.write(videos, clip, "flv", code, actor == 1003)
            raw.write(sounds, clip, "wav", code, actor == 1003)
    raw.stray(videos, raw.draw.choice(("1040_ITH_SAD_X2_", "notes", "1001_DFA_JOY_XX")), "flv")
    return ["--split", "speaker", "--seed", str(raw.draw.randrange(9))]


def raw_kinetics_sounds(raw):
    for part in PARTS:
        for label in ("playing drums", "singing"):
            folder = raw.folder(f"{part}/{label.replace(' ', raw.draw.choice(' _'))}")
            for i in range(3):
                start = 7 * i
                video, suffix = f"{label[-4:]}-{part:_<5}{i}", raw.draw.choice(("mp4", "flv"))
                stem = f"{video}_{start:06d}_{start + 3:06d}"
                raw.write(folder, f"{video}_{start}", suffix, label, i > 0, stem)
    raw.stray(folder, raw.draw.choice(("my clip", "short_000001", "x" * 40)), "mp4")
    return ["--split", "kinetics"]


def raw_ucf101(raw):
    lists = {part: [] for part in PARTS}
    for number, label in ((1, "Archery"), (2, "Bowling")):
        folder = raw.folder(f"UCF-101/{label}")
        for i in range(4):
            name = f"v_{label}_g{i + 1:02d}_c01"
            raw.write(folder, name, "avi", label, i > 1)
            part = "test" if i % 2 else "train"
            lists[part].append(f"{label}/{name}.avi" + (f" {number}" if part == "train" else ""))
        lists["train"].append(f"{label}/v_{label}_gone.avi {number}")
        raw.bad.add(f"v_{label}_gone")
    end, start = raw.draw.choice(("\n", "\r\n")), raw.draw.choice(("", "\ufeff"))
    for part in PARTS:
        (raw.root / f"{part}list01.txt").write_text(start + end.join(lists[part]) + end)
    (raw.root / "classInd.txt").write_text(f"{start}1 Archery{end}2 Bowling{end}{end}")
    return ["--frames_per_second", "1", "--video_rate", "2"]


def raw_grid(raw):
    for speaker in ("s1", "s2"):
        videos, alignments = raw.folder(f"{speaker}/video"), raw.folder(f"align/{speaker}")
        for number, (colour, label) in enumerate((("b", "blue"), ("g", "green")) * 2):
            sentence = f"b{colour}a{'fg'[number // 2]}2n"
            raw.write(videos, f"{speaker}_{sentence}", "mp4", label, number > 1, sentence)
            write_alignment(alignments / f"{sentence}.{raw.draw.choice(('align', 'ALIGN'))}")
    raw.stray(videos, raw.draw.choice(("bbaw2n", "notes", "bbaf0n")), "mp4")
    return ["--label", "colour", "--audio", raw.draw.choice(("log_mel", "filter_bank"))]


SETS = {"cremad": raw_cremad, "kinetics_sounds": raw_kinetics_sounds, "ucf101": raw_ucf101}
SETS["grid"] = raw_grid
TREES = dict.fromkeys(SETS, "audio visual") | {"ucf101": "visual flow"}


def check_raw_set(seed, tmp_path, clips, printed) -> None:
    """Every clip is prepared, with its class, and read by training; or it is named."""
    draw = random.Random(seed)
    name = draw.choice(sorted(SETS))
    root, elsewhere, out = (tmp_path / f"{seed}" / place for place in ("raw", "else", "out"))
    raw = Raw(draw, root, elsewhere, clips)
    argv = [*SETS[name](raw), "--source", str(root), "--output", str(out), "--jobs", "1"]
    if name in ("cremad", "kinetics_sounds"):
        argv += ["--audio_frames", "20", "--mel_bins", "8"]
    printed()
    registry.load("dataset/prepare", name, "").main(argv)
    said = printed().out
    dataset = registry.load_class("dataset", name, "")(out)
    problems = problems_of(out)
    listed = {s.id: dataset.classes[s.target] for part in PARTS for s in dataset.samples(part)}
    usable = {sample: label for sample, label in listed.items() if sample not in problems}
    assert usable == raw.good, (seed, name)
    for sample in raw.bad:
        assert sample in problems or sample in said, (seed, name, sample)
    for modality in TREES[name].split():
        there = {id_of(path) for path in (out / modality).iterdir()}
        assert there >= raw.good.keys(), (seed, name, modality)


def own_tree(draw, root) -> tuple[dict[str, tuple[str, int]], str]:
    """Somebody's own data. Returns ({id: (its label, the level of its picture)}, what must be
    named, if something must)."""
    labels, samples, fault = draw.sample(LABELS, 2), {}, ""
    photos, depths = root / "photo", root / draw.choice(("depth", "tiefe", "深度", "a&b"))
    for folder in (photos, depths):
        folder.mkdir(parents=True)
        for junk in draw.sample(JUNK, 3):
            (folder / junk).write_bytes(b"junk")
    for part in PARTS:
        rows = draw.choice(([], [["id", "label"]], [["filename", "class"]]))
        for i in range(4):
            name = draw.choice(("{}", "{}.5", "{}, 1", 'a "{}"', "Ö{}", "{} b", "#{}"))
            name = name.format(f"{part}{i}")
            samples[name] = labels[i % 2], 50 + 10 * i
            rows = [*rows, [name, labels[i % 2]]]
            picture = Image.fromarray(np.full((6, 6), 50 + 10 * i, np.uint8))
            suffix = draw.choice(("png", "PNG", "bmp"))
            picture.save(photos / f"{name}.{suffix}", "BMP" if suffix == "bmp" else "PNG")
            np.save(depths / f"{name}.npy", np.full((6, 6), 50.0 + 10 * i))
        write_csv(root / f"{part}.csv", rows, draw.choice(("", "\ufeff")))
    victim = draw.choice(sorted(samples))
    faults = ["gone", "twice", "other", "shape", "label", "dots", "bad", "nan"]
    kind = draw.choice([*faults, *[""] * 4])
    if kind == "gone":
        (depths / f"{victim}.npy").unlink()
        fault = victim
    elif kind == "twice":
        (photos / f"{victim}.jpg").write_bytes(b"")
        fault = f"{victim}.jpg"
    elif kind == "other":
        (photos / "notes.docx").write_bytes(b"")
        fault = "notes.docx"
    elif kind in ("shape", "nan"):
        values = np.full((6, 7) if kind == "shape" else (6, 6), np.nan if kind == "nan" else 1.0)
        np.save(depths / f"{victim}.npy", values)
        fault = depths.name
    elif kind == "label":
        with open(root / "test.csv", "a") as file:
            file.write("new,label\n")
        fault = "test.csv"
    elif kind == "dots":
        with open(root / "test.csv", "a") as file:
            file.write("../x,lamp\n")
        fault = "test.csv"
    elif kind == "bad":
        next(path for path in photos.iterdir() if path.stem == victim).write_bytes(b"\x89PNG")
        fault = victim
    return samples, fault


def check_own_tree(seed, tmp_path) -> None:
    """Every value is read, or what is wrong is named."""
    root = tmp_path / f"own{seed}"
    samples, fault = own_tree(random.Random(seed), root)
    argv = ["--dataset", "folder", "--data_root", str(root), "--num_workers", "0"]
    argv += ["--batch_size", "4", "--image_size", "6"]
    argv += ["--cache", "off"] if seed % 2 else []
    try:
        dataset = Dataset(root)
        loaders = build_loaders(dataset, vars(options.parse(argv)))
        batches = [batch for loader in loaders.values() for batch in loader]
    except BadInput as problem:
        assert fault and fault in str(problem), (seed, fault)
        return
    assert not fault, seed
    assert len(batches) == 3
    for part, (inputs, target) in zip(("train_plain", "test"), batches[1:]):
        listed = dataset.samples(part.split("_")[0])
        assert [dataset.classes[t] for t in target] == [samples[s.id][0] for s in listed]
        photo, depth = inputs.pop("photo"), inputs.popitem()[1]
        levels = torch.tensor([samples[s.id][1] for s in listed])
        assert torch.equal(depth.mean((1, 2, 3)), levels.float())
        assert torch.equal((127.5 + 127.5 * photo.mean((1, 2, 3))).round(), levels.float())


def test_raw_sets_and_own_data_of_any_kind_are_exact_or_named(fuzz, tmp_path, clips, capsys):
    for seed in range(3):
        check_raw_set(seed, tmp_path, clips, capsys.readouterr)
    for seed in range(20):
        check_own_tree(seed, tmp_path)


@pytest.mark.slow
def test_many_raw_sets_and_own_data_are_exact_or_named(fuzz, tmp_path, clips, capsys):
    for seed in fuzz:
        check_raw_set(seed, tmp_path, clips, capsys.readouterr)
        check_own_tree(seed, tmp_path)


def test_leftovers_and_links_change_nothing_that_is_trained_on(own_data, tmp_path, capsys):
    argv = ["--dataset", "folder", "--data_root", str(own_data), "--num_workers", "0"]
    argv += ["--batch_size", "12", "--image_size", "16", "--audio_frames", "40", "--mel_bins", "16"]

    def batch():
        loaders = build_loaders(Dataset(own_data), vars(options.parse(argv)))
        return next(iter(loaders["train_plain"]))

    before = batch()
    assert capsys.readouterr().out.count("cache: ") == 4
    (own_data / "clip").rename(tmp_path / "elsewhere")
    (own_data / "clip").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (own_data / "__MACOSX").mkdir()
    for folder in ("photo", "sound", "depth", "clip", "clip/train0"):
        for name in (*JUNK, "._train0.png"):
            (own_data / folder / name).write_bytes(b"junk")
    after = batch()
    printed = capsys.readouterr().out
    assert "NOTE: 8 left out of" in printed and "._train0.png: belongs to no data set" in printed
    assert "cache: " not in printed  # it holds what is there
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    np.save(own_data / "depth" / "train0.npy", np.ones((2, 24, 24)))
    assert (
        batch()[0]["depth"][0].unique().tolist() == [1]
        and "cache: depth" in capsys.readouterr().out
    )


def test_strange_names_in_a_clone_of_crema_d_are_left_out_and_named(tmp_path, capsys, monkeypatch):
    sounds, videos = tmp_path / "AudioWAV", tmp_path / "flash"
    for folder in (sounds, videos):
        folder.mkdir()
    (tmp_path / "VideoFlash").symlink_to(videos, target_is_directory=True)
    clips = ["1001_DFA_ANG_XX", "1002_DFA_SAD_XX"]
    for name in ("1001_DFA_ANG_XX.wav", "1002_DFA_SAD_XX.WAV", "1040_ITH_SAD_X.wav", "notes.wav"):
        (sounds / name).write_bytes(b"sound")
    for name in ("1001_DFA_ANG_XX.flv", "1001_DFA_ANG_XX.mp4", "1002_DFA_SAD_XX.FLV", "._x.flv"):
        (videos / name).write_bytes(b"picture")
    (videos / "loop").symlink_to(tmp_path, target_is_directory=True)
    found = cremad.raw_clips(tmp_path)
    assert [file.name for clip in clips for file in found[clip]] == [
        "1001_DFA_ANG_XX.flv",
        "1001_DFA_ANG_XX.wav",
        "1002_DFA_SAD_XX.FLV",
        "1002_DFA_SAD_XX.WAV",
    ]
    for part, clip in zip(PARTS, clips):
        (tmp_path / f"{part}.csv").write_text(f"{clip},{clip[9:12]}\n")
    monkeypatch.setattr(cremad, "SPLIT_SHA256", {})
    counts = {"train": [1, 0, 0, 0, 0, 0], "test": [0, 0, 0, 0, 0, 1]}
    monkeypatch.setattr(cremad, "SPLIT_COUNTS", counts)
    split = cremad.published_split(found, tmp_path, tmp_path)
    assert [list(split[part]) for part in PARTS] == [[clip] for clip in clips]
    printed = capsys.readouterr().out
    for name in ("notes.wav: not named", "._x.flv: ", "loop: a link", "such as 1040_ITH_SAD_X"):
        assert name in printed
    assert "1001_DFA_ANG_XX.mp4: " in printed and "is of the same sample" in printed
