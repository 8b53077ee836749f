"""GRID: which word of a clip is cut out, whose clips are for testing, and what is left out."""

import json
import shutil
import tarfile
import zipfile
from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from commands import run
from conftest import REAL_DATA, in_this_process, prepared, write_grid
from media import RATE_HZ, problems_of

import predict
from dataset.grid import Dataset
from dataset.prepare import _preparation as preparation
from dataset.prepare import grid
from utils.errors import BadInput

SETTINGS = {
    "label": "letter",
    "seconds": 0.5,
    "visual": "stack",
    "frames": 8,
    "box": [0, 288, 0, 360],
    "height": 24,
    "audio": "log_mel",
    "keep_mismatched": False,
}


@pytest.fixture(autouse=True)
def without_processes():
    with in_this_process():
        yield


def found(monkeypatch, *argv):
    """What `find_raw` gives for a command line."""
    taken = []
    monkeypatch.setattr(
        preparation, "run", lambda parser, find, *_: taken.append(find(parser.parse_args(argv)))
    )
    grid.main()
    return taken[0]


def made(source, files):
    """Empty files."""
    for file in files.split():
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        (source / file).write_text("")


def spoken(of_speakers):
    """Names of files of these speakers: two sentences of each of two colours and all but w."""
    said = [f"b{colour}a{letter}{n}n" for colour in "bg" for letter in "fz" for n in "1z"]
    return " ".join(f"{name}/{x}.mpg {name}/{x}.align" for name in of_speakers for x in said)


# What is cut out


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A clip that gets brighter and louder at 1 s, in the middle of its letter."""
    time = np.arange(3 * RATE_HZ) / RATE_HZ
    loud = np.where(time < 1, 0.005, 0.5)
    return write_grid(tmp_path_factory.mktemp("clip"), "s1", "bgaf2n", loud=loud)


def cut(clip, output, **settings):
    grid.from_raw(list(clip), "x", output, SETTINGS | settings)
    visual, sound = output / "visual" / "x.npy", torch.load(output / "audio" / "x.pt")
    return (np.load(visual) if visual.is_file() else None), sound


@pytest.mark.parametrize("audio, shape", [("log_mel", (51, 64)), ("filter_bank", (48, 64))])
def test_pictures_and_sound_are_those_around_the_word(audio, shape, clip, tmp_path):
    stack, sound = cut(clip, tmp_path, audio=audio)
    assert stack.dtype == np.float32 and stack.shape == (8, 24, 30)
    levels = (stack[:, 18, 20] + 1) * 127.5
    assert np.abs(levels - np.array([80] * 4 + [120] * 4)).max() < 4
    assert sound.dtype == torch.float32 and sound.shape == shape and sound.abs().max() < 4
    loudness = sound.numpy().max(1)  # of each 10 ms
    middle = shape[0] // 2
    rise = loudness[middle + 3 :].min() - loudness[: middle - 3].max()
    assert rise > 0.5, loudness
    before, after = loudness[: middle - 3], loudness[middle + 3 :]
    assert np.ptp(before[2:]) < rise / 3 and np.ptp(after[:-2]) < rise / 3


def test_the_box_is_cut_out_of_pictures_of_any_size(clip, tmp_path):
    dark, _ = cut(clip, tmp_path / "a", box=[0, 140, 0, 170])  # made clips have 64 x 48 pixels
    assert dark.shape == (8, 24, 29) and np.abs((dark + 1) * 127.5 - 20).max() < 12
    cut(clip, tmp_path / "b", visual="frames", box=[144, 288, 0, 360], height=None)
    files = sorted((tmp_path / "b" / "visual" / "x").iterdir())
    pictures = [cv2.imread(str(file)) for file in files]
    assert [p.shape for p in pictures] == [(24, 64, 3)] * 8
    assert [round(p[4:].mean() / 40) for p in pictures] == [2] * 4 + [3] * 4


@pytest.mark.parametrize(
    "label, seconds, clip_seconds, begin",
    [
        ("letter", 0.5, 3, 0.75),
        ("colour", 0.5, 3, 0.45),
        ("digit", 0.5, 3, 1.1),
        ("digit", 1.0, 1.7, 0.7),  # as late as the clip reaches
        ("letter", 2.5, 3, 0.0),
    ],
)
def test_the_word_is_in_the_middle_as_far_as_the_clip_reaches(
    label, seconds, clip_seconds, begin, clip
):
    settings = SETTINGS | {"label": label, "seconds": seconds}
    assert grid.start_of_cut(*clip, clip_seconds, settings) == pytest.approx(begin)


@pytest.mark.parametrize(
    "change, message",
    [
        ((" f\n", " g\n"), "says 'g' where 'f' is in the name"),
        (("27500 40000 two\n", ""), "has 5 words, a sentence of GRID 6"),
        ((" sil\n", " so\n"), "has 7 words"),
        (("22500 27500 f", "22500 f"), "line 6: expected `start end word`, got '22500 f'"),
        (("22500 27500 f", "22500 2.75 f"), "line 6: expected `start end word`"),
        (("22500 27500 f", "27500 22500 f"), "line 6: from 1.1 to 0.9 s, after the others"),
        (("22500 27500 f", "15500 27500 f"), "line 6: from 0.62 to 1.1 s, after the others"),
        (("27500 f", "127500 f"), "line 7: from 1.1 to 1.6 s, after the others"),
        (("", ""), r"too short, 1.05 s; 'f' ends at 1.10 s and 0.5 s are cut"),
    ],
)
def test_an_alignment_that_does_not_fit_is_named(change, message, clip, tmp_path):
    alignment = tmp_path / "bgaf2n.align"
    alignment.write_text(clip[1].read_text().replace(*change, 1))
    file = clip[0] if "too short" in message else alignment
    with pytest.raises(BadInput, match=f"{file}:? {message}"):
        grid.start_of_cut(clip[0], alignment, 1.05, SETTINGS)


def test_alignments_as_others_write_them_are_read(clip, tmp_path):
    text = "\ufeff" + clip[1].read_text().upper().replace("\n", "\r\n") + "\r\n\r\n"
    text = text.replace("SIL", "sil").replace("SP", "sp")
    (tmp_path / "a.align").write_text(text, encoding="utf-8")
    assert grid.words_of(tmp_path / "a.align") == grid.words_of(clip[1])


# Which clips there are, and which are for testing


def test_files_are_those_of_a_speaker_and_a_sentence_wherever_they_lie(tmp_path, capsys):
    source = tmp_path / "s9"  # files without a nearer speaker are its
    made(source, "s1/video/bbaf2n.mpg align/s1/bbaf2n.align S2/BBAF2N.MPG s2/a/bbaf2n.Align")
    made(source, "x/lgaz5n.mp4 y/lgaz5n.align s1/bwap2a.mp4 s3/bbaf2n.align s1/notes.txt")
    made(source, "s1/s4/bbaf2n.mpg s1/bbaw2n.mpg s1/clip.mp4 s1/video/bbaf2n.avi")
    with zipfile.ZipFile(source / "s5.zip", "w") as archive:
        archive.writestr("video/swwv9a.mpg", "old")
        archive.writestr("s6.tar", "")
    (source / "packed").mkdir()
    with tarfile.open(source / "packed" / "align.tar.gz", "w:gz") as archive:
        archive.add(source / "y" / "lgaz5n.align", "s5/swwv9a.align")
    clips = grid.raw_clips(source, tmp_path / "downloads")
    assert {name: [file.suffix for file in files] for name, files in clips.items()} == {
        "s1_bbaf2n": [".avi", ".align"],
        "s1_bwap2a": [".mp4"],
        "s2_bbaf2n": [".MPG", ".Align"],
        "s4_bbaf2n": [".mpg"],
        "s5_swwv9a": [".mpg", ".align"],
        "s9_lgaz5n": [".mp4", ".align"],
    }
    printed = capsys.readouterr().out
    assert "NOTE: 1 alignments are of no video, such as s3_bbaf2n" in printed
    for left_out in ("bbaw2n.mpg: not named", "clip.mp4: not named", "bbaf2n.mpg: ", "s6.tar: an"):
        assert left_out in printed
    with zipfile.ZipFile(source / "s5.zip", "w") as archive:  # unpacked anew
        archive.writestr("video/swwv9a.mpg", "newer")
    clips = grid.raw_clips(source / "s5.zip", tmp_path / "downloads")
    assert [file.read_text() for file in clips["s5_swwv9a"]] == ["newer"]


@pytest.mark.parametrize(
    "label, of_class",
    [
        ("colour", {"blue": 4, "green": 4}),
        ("letter", {"f": 4, "z": 4}),
        ("digit", {"one": 4, "zero": 4}),
    ],
)
def test_the_label_is_a_word_of_the_name(label, of_class, tmp_path, monkeypatch, capsys):
    made(tmp_path / "grid", spoken([""]).replace(" /", " ").removeprefix("/"))
    raw = found(monkeypatch, "--source", str(tmp_path / "grid"), "--label", label)
    labels = raw.split["train"] | raw.split["test"]
    assert Counter(labels.values()) == of_class and raw.classes == sorted(of_class)
    assert labels["s0_bgaf1n"] == {"colour": "green", "letter": "f", "digit": "one"}[label]
    missing = {"colour": 2, "letter": 23, "digit": 8}[label]
    assert f"NOTE: no clip of {missing} classes: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "there, flags, tested",
    [
        ("s1 s2", "", "s2"),
        ("s1 s2 s3 s4 s10", "", "s4"),
        ("s2 s4 s6 s8 s10 s12 s14 s16 s18", "", "s8 s16"),
        ("s1 s2 s3 s4 s10", "--test_speakers s1,s10", "s1 s10"),
        ("s1 s2 s3 s4", "--speakers s1,s3", "s3"),
    ],
)
def test_of_several_speakers_some_are_unheard(there, flags, tested, tmp_path, monkeypatch, capsys):
    made(tmp_path / "grid", spoken(there.split()))
    raw = found(monkeypatch, "--source", str(tmp_path / "grid"), *flags.split())
    speakers = {p: {name.split("_")[0] for name in raw.split[p]} for p in ("train", "test")}
    assert speakers["test"] == set(tested.split())
    wanted = {"s1", "s3"} if "--speakers" in flags else set(there.split())
    assert speakers["train"] == wanted - speakers["test"]
    assert f"not heard in training: {tested.replace(' ', ', ')}\n" in capsys.readouterr().out


def test_of_one_speaker_a_random_share_of_each_class_is_for_testing(tmp_path, monkeypatch, capsys):
    made(tmp_path / "grid", spoken(["s1", "s2"]))
    argv = ["--source", str(tmp_path / "grid"), "--speakers", "s1", "--test_share"]
    tests = []
    for share, seed in (("0.25", "0"), ("0.25", "0"), ("0.25", "1"), ("0.5", "0")):
        raw = found(monkeypatch, *argv, share, "--split_seed", seed)
        assert not raw.split["train"].keys() & raw.split["test"].keys()
        assert len(raw.split["train"] | raw.split["test"]) == 8
        of_class = round(4 * float(share))
        assert Counter(raw.split["test"].values()) == {"f": of_class, "z": of_class}
        tests.append(set(raw.split["test"]))
        said = f"heard in training. A random split, --split_seed {seed}: {share} of every class"
        assert (
            f"NOTE: one speaker, s1: the speaker of the test clips is {said}"
            in capsys.readouterr().out
        )
    assert tests[0] == tests[1] != tests[2] and tests[0] < tests[3]


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--label adverb", "--label invalid choice: 'adverb'"),
        ("--seconds 0", "--seconds 0.0: must be a positive number"),
        ("--frames 13", "--frames 13: 0.5 s, --seconds, are 12 pictures"),
        ("--seconds 0.2", "--frames 8: 0.2 s, --seconds, are 5 pictures"),
        ("--mouth_box 1,2,3", "--mouth_box 1,2,3: must be top,bottom,left,right within 288 rows"),
        ("--mouth_box 0,289,0,9", "--mouth_box 0,289,0,9: must be"),
        ("--mouth_box 9,9,0,9", "--mouth_box 9,9,0,9: must be"),
        ("--mouth_box 0,9,20,9", "--mouth_box 0,9,20,9: must be"),
        ("--mouth_box 0,9,0,9 --region whole", "--mouth_box: is of --region mouth"),
        ("--height 9 --visual frames", "--height: is of --visual stack"),
        ("--speakers s1,s7,s8", "--speakers s7,s8: the source has s1, s2"),
        ("--test_speakers s3", "--test_speakers s3: the source has s1, s2"),
        ("--test_speakers s1,s2", "--test_speakers s1,s2: leaves no speaker for training"),
        ("--speakers s1 --test_speakers s1", "--test_speakers s1: leaves no speaker"),
        ("--split_seed 0", "--split_seed: is of a set of one speaker; see --test_speakers"),
        ("--test_share 0.1", "--test_share: is of a set of one speaker"),
        ("--speakers s1 --test_share 0", "the source has no sample for test.csv"),
    ],
)
def test_wrong_flags_get_one_line(flags, message, tmp_path):
    made(tmp_path / "grid", spoken(["s1", "s2"]))
    argv = ["--source", str(tmp_path / "grid"), "--output", str(tmp_path / "out"), *flags.split()]
    with pytest.raises(BadInput) as error:
        grid.main(argv)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_source_without_a_video_is_refused(tmp_path):
    made(tmp_path / "grid", "s1/bbaf2n.align s1/clip.mpg")
    with pytest.raises(BadInput, match="grid: holds no video of GRID, such as bbaf2n.mpg"):
        grid.main(["--source", str(tmp_path / "grid"), "--output", str(tmp_path / "out")])


def test_clips_that_cannot_be_used_are_left_out_by_name(raw_grid, tmp_path):
    source = tmp_path / "grid"
    shutil.copytree(raw_grid, source)
    video, align = source / "s1" / "video", source / "align" / "s1"
    silent = np.where(np.arange(3 * RATE_HZ) < 2 * RATE_HZ, 0, 0.5)
    write_grid(source, "s1", "bbab2n", loud=silent)
    write_grid(source, "s1", "bbac2n", audio=None)
    write_grid(source, "s1", "bbad2n", seconds=0.7, times=np.arange(0, 0.7, 0.04), moves=2)
    content = (video / "bbaf2n.mp4").read_bytes()
    (video / "bbaf2n.mp4").write_bytes(content[: len(content) // 2])
    (video / "bgaf2n.mp4").write_text("no video")
    (align / "bbag2n.align").unlink()
    (align / "bgag2n.align").write_text("0 10000 sil\n")
    argv = ["--source", str(source), "--label", "colour", "--output", str(tmp_path / "out")]
    grid.main([*argv, "--jobs", "1"])
    problems = problems_of(tmp_path / "out")
    for name, message in {
        "bbab2n": "silent",
        "bbac2n": "has no sound",
        "bbad2n": "too short, 0.74 s; 'blue' ends at 0.80 s",
        "bbaf2n": "bbaf2n.mp4: truncated",
        "bgaf2n": "bgaf2n.mp4: unreadable",
        "bbag2n": "a video and its alignment, bbag2n.align of the same speaker, are needed",
        "bgag2n": "bgag2n.align: has 0 words",
    }.items():
        assert message in problems.pop(f"s1_{name}")
    assert not problems
    there = {path.stem for path in (tmp_path / "out" / "visual").iterdir()}
    assert there == {"s1_bbah2n", "s1_bgah2n"} | {f"s2_b{x}2n" for x in "baf bag gaf gag".split()}


# Training


@pytest.fixture(scope="module")
def stack_root(tmp_path_factory, raw_grid):
    with in_this_process():
        return prepared(tmp_path_factory, "grid", raw_grid, "--label", "colour")


def trained(root, runs, *more):
    """The options of a run of an epoch."""
    where = ["--dataset", "grid", "--data_root", str(root), "--ckpt_path", str(runs)]
    run([*where, "--num_workers", "0", "--no-tensorboard", "--batch_size", "3"], "x", *more)
    return json.loads((runs / "x" / "options.json").read_text())["options"]


def test_a_stack_is_trained_on_by_default_and_predicted(stack_root, raw_grid, tmp_path):
    assert {s.id.split("_")[0] for s in Dataset(stack_root).samples("test")} == {"s2"}
    stored = trained(stack_root, tmp_path)
    defaults = dict(encoder="cnn", learning_rate=0.03, modalities=["audio", "visual"])
    assert stored.items() >= defaults.items() and "image_size" not in stored
    name = "bbaf2n"
    files = raw_grid / "s2" / "video" / f"{name}.mp4", raw_grid / "align" / "s2" / f"{name}.align"
    shutil.copy(files[0], tmp_path / "mine.mp4")  # its name need not be a sentence
    texts = [f"{files[1]},{files[0]}", f"{tmp_path / 'mine.mp4'},{files[1]}"]
    predict.main([str(tmp_path / "x"), *texts, "--json", str(tmp_path / "out.json")])
    answers = json.loads((tmp_path / "out.json").read_text())
    assert list(answers) == texts and answers[texts[0]] == answers[texts[1]]


def test_resnet18_is_trained_on_a_stack(stack_root, tmp_path):
    trained(stack_root, tmp_path, "--encoder", "resnet18", "--modalities", "visual")


def test_frames_are_read_where_the_set_was_prepared_so(grid_root, tmp_path, monkeypatch):
    stored = trained(grid_root, tmp_path, "--frames_per_clip", "4")
    assert stored["image_size"] == 64 and stored["frames_per_clip"] == 4
    for root, reader in ((tmp_path, "array"), (grid_root, "frames")):
        monkeypatch.setattr("dataset.grid.DEFAULT_ROOT", root)
        assert Dataset.modalities_at(None) == {"audio": "spectrogram", "visual": reader}
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(BadInput, match="settings.json: damaged, prepare it again"):
        Dataset.modalities_at(tmp_path)


# Real clips


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Real clips: (archives of 6 recoded ones, their originals with the alignment of one)."""
    if not (REAL_DATA / "grid_s1").is_dir() or not (REAL_DATA / "grid").is_dir():
        pytest.skip(f"REAL DATA MISSING: {REAL_DATA} has no grid_s1/ and grid/")
    names = "bbaf2n bbaf3s bgaa6n bgaa7s lwae8n lwae9s".split()
    recoded, originals = (tmp_path_factory.mktemp("real") / name for name in ("recoded", "mpg"))
    recoded.mkdir()
    shutil.copytree(REAL_DATA / "grid", originals)
    originals.chmod(0o755)
    for archive, suffix, mode in (("clips.tar", "mp4", "w"), ("align.tar.gz", "align", "w:gz")):
        whole = tarfile.open(REAL_DATA / "grid_s1" / archive)
        with whole, tarfile.open(recoded / archive, mode) as some:
            for name in names:
                member = whole.getmember(f"./{name}.{suffix}")
                some.addfile(member, whole.extractfile(member))
            if suffix == "align":
                whole.extract("./bbaf2n.align", originals, filter="data")
    return recoded, originals


def test_real_clips_are_prepared_from_originals_and_from_recoded_ones(real, tmp_path, capsys):
    trees = {}
    for source in real:
        trees[source.name] = out = tmp_path / source.name
        flags = ["--label", "colour", "--test_share", "0.5", "--jobs", "1"]
        if source.name == "mpg":
            with pytest.raises(BadInput, match="no usable training sample of .* classes"):
                grid.main(["--source", str(source), "--output", str(out), *flags])
        else:
            grid.main(["--source", str(source), "--output", str(out), *flags])
    out = capsys.readouterr().out
    assert "recoded: 3 of 3 train, 3 of 3 test samples usable" in out
    assert len(problems_of(trees["mpg"])) == 5  # without alignment
    sounds = [torch.load(tree / "audio" / "s0_bbaf2n.pt").flatten() for tree in trees.values()]
    stacks = [np.load(tree / "visual" / "s0_bbaf2n.npy") for tree in trees.values()]
    assert np.corrcoef(*sounds)[0, 1] > 0.98
    assert all(abs(x.mean()) < 0.5 and 0.6 < x.std() < 1.4 for x in sounds)  # normalised
    assert stacks[0].shape == (8, 32, 52) and stacks[0].std() > 0.1
    for mine, original in zip(*stacks):
        assert np.corrcoef(mine.ravel(), original.ravel())[0, 1] > 0.98


def test_the_real_sentences_have_the_counts_that_are_published(real, tmp_path, monkeypatch):
    with tarfile.open(REAL_DATA / "grid_s1" / "clips.tar") as archive:
        made(tmp_path / "s1", " ".join(archive.getnames()[1:]))
    for label, count, classes in (("letter", 40, 25), ("digit", 100, 10), ("colour", 250, 4)):
        raw = found(monkeypatch, "--source", str(tmp_path / "s1"), "--label", label)
        of_class = Counter((raw.split["train"] | raw.split["test"]).values())
        assert set(of_class.values()) == {count} and len(of_class) == classes
        assert set(Counter(raw.split["test"].values()).values()) == {count // 5}
