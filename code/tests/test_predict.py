"""predict.py: raw files through the preprocessing of the run; unusable files are named."""

import json
import shutil

import numpy as np
import pytest
import torch
from commands import flags_for, run
from media import write_media

import predict
from analysis.trained import load_run
from models.metrics import predict as predict_split


def check_equal(answers, name, position, logits, branch, classes):
    """The probabilities of a file are those of its prepared sample."""
    expected = logits[branch][position].double().softmax(0)
    probabilities = torch.tensor(list(answers[name][branch].values())).double()
    torch.testing.assert_close(probabilities, expected, rtol=1e-4, atol=1e-6)
    assert list(answers[name][branch]) == classes


def test_raw_files_give_what_the_prepared_set_gives(trained, raw_demo, tmp_path, capsys):
    _, dataset, loaders, model = load_run(trained("mmpareto"), "last", "cpu")
    logits, _, _ = predict_split(model, loaders["test"])
    samples = dataset.samples("test")[:5]
    files = [f"{raw_demo}/VideoFlash/{s.id}.flv,{raw_demo}/AudioWAV/{s.id}.wav" for s in samples]
    capsys.readouterr()
    predict.main([str(trained("mmpareto")), *files, "--json", str(tmp_path / "out.json")])
    answers = json.loads((tmp_path / "out.json").read_text())
    assert len(files) == 5 and list(answers) == files
    for position, name in enumerate(files):
        for branch in ("multimodal", "audio", "visual"):
            check_equal(answers, name, position, logits, branch, dataset.classes)
    assert capsys.readouterr().out.count("answer") == 5


def test_unusable_files_get_a_line_each_and_the_others_an_answer(trained, tmp_path, capsys):
    folder = str(trained("mmpareto"))
    good = write_media(tmp_path / "good.mp4", "libx264", "aac", seconds=2)
    mute = write_media(tmp_path / "mute.mp4", audio=None)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    files = [str(mute), str(good), str(tmp_path / "broken.mp4"), str(tmp_path / "none.mp4")]
    picture = tmp_path / "picture.png"
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        predict.main([folder, *files, "--picture", str(picture)])
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert printed.out.count("answer") == 1 and printed.out.startswith(str(good))
    lines = printed.err.strip().splitlines()
    assert len(lines) == 3
    for line, words in zip(lines, ("mute.mp4: has no sound", "broken.mp4: ", "none.mp4: missing")):
        assert line.startswith("error: ") and words in line
    assert picture.stat().st_size > 5_000


@pytest.mark.parametrize(
    "name, raw, suffixes",
    [
        ("kinetics_sounds", "raw_kinetics", (".mp4", ".webm", ".flv")),
        ("modelnet40", "raw_modelnet", (".off",)),
    ],
)
def test_raw_files_of_other_sets_too(name, raw, suffixes, request, tmp_path):
    root, source = request.getfixturevalue(f"{name}_root"), request.getfixturevalue(raw)
    run(flags_for(root, tmp_path, name), "x", "--batch_size", "4")
    _, dataset, loaders, model = load_run(tmp_path / "x", "last", "cpu")
    logits, _, _ = predict_split(model, loaders["test"])
    files = {path.stem: path for path in source.rglob("*") if path.suffix in suffixes}
    output = tmp_path / "out.json"
    predict.main([str(tmp_path / "x"), *map(str, files.values()), "--json", str(output)])
    answers = json.loads(output.read_text())
    samples = dataset.samples("test")
    assert samples
    for position, sample in enumerate(samples):
        start = sample.id if name == "modelnet40" else sample.id[:11]
        (path,) = [path for stem, path in files.items() if stem.startswith(start)]
        check_equal(answers, str(path), position, logits, "multimodal", dataset.classes)


@pytest.fixture(scope="module")
def own_run(folder_root, tmp_path_factory):
    """A run on own data: a clip, sound, and a sequence in place of the array."""
    root = tmp_path_factory.mktemp("own") / "data"
    shutil.copytree(folder_root, root, ignore=shutil.ignore_patterns("cache", "photo"))
    for number, path in enumerate(sorted((root / "depth").iterdir())):
        np.save(path, np.random.default_rng(number).random((5 + number, 3)))
    flags = [*flags_for(root, root.parent, "folder"), "--audio_frames", "48", "--mel_bins", "32"]
    encoder = "clip=cnn,depth=gru,sound=cnn"
    run(flags, "x", "--batch_size", "4", "--sequences", "--encoder", encoder)
    return root, root.parent / "x"


def test_own_data_give_what_their_run_gives(own_run, tmp_path):
    root, folder = own_run
    _, dataset, loaders, model = load_run(folder, "last", "cpu")
    logits, _, _ = predict_split(model, loaders["test"])
    texts = []
    for number, sample in enumerate(dataset.samples("test")):
        (sound,) = (root / "sound").glob(f"{sample.id}.*")
        clip, depth = root / "clip" / sample.id, root / "depth" / f"{sample.id}.npy"
        named = f"sound={sound},clip={clip},depth={depth}"
        texts.append(named if number else f"{clip},{depth},{sound}")
    predict.main([str(folder), *texts, "--json", str(tmp_path / "out.json")])
    answers = json.loads((tmp_path / "out.json").read_text())
    assert list(answers) == texts and len(texts) == 4
    for position, name in enumerate(texts):
        for branch in logits:
            check_equal(answers, name, position, logits, branch, dataset.classes)


def test_own_files_that_do_not_fit_get_a_line_each(own_run, tmp_path, capsys):
    root, folder = own_run
    np.save(tmp_path / "long.npy", np.ones((99, 3)))
    clip, sound = root / "clip" / "test1", root / "sound" / "test1.wav"
    table = {
        f"{clip},{tmp_path / 'long.npy'},{sound}": f"{tmp_path / 'long.npy'}: 99 times of 3",
        f"{clip},{sound}": f"{clip},{sound}: needs a file for each of clip, depth, sound, in this",
        f"clip={clip},clip={clip},sound={sound}": f"{clip},{clip},{sound}: needs a file for each",
        f"{clip},{tmp_path / 'no.npy'},{sound}": f"{tmp_path / 'no.npy'}: missing",
        f"{clip},{sound},{sound}": f"{sound}: depth is read from .npy",
        f"{sound},{sound},{sound}": f"{sound}: clip is read from a folder of pictures",
    }
    with pytest.raises(SystemExit):
        predict.main([str(folder), *table])
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == len(table)
    for line, start in zip(lines, table.values()):
        assert line.removeprefix("error: ").startswith(start)
