"""predict.py: raw files through the preprocessing of the run; unusable files are named."""

import json

import pytest
import torch
from media import write_media

import predict
import train
from analysis.trained import load_run
from models.metrics import predict as predict_split
from utils.errors import BadInput

SMALL = ["--image_size", "32", "--num_workers", "0", "--epochs", "1", "--no-tensorboard"]


def train_on(name, root, where, *argv):
    flags = ["--dataset", name, "--data_root", str(root), "--ckpt_path", str(where)]
    train.main([*flags, *SMALL, "--run_name", "x", *argv])
    return where / "x"


@pytest.fixture(scope="module")
def folder(demo_root, tmp_path_factory):
    return train_on("demo", demo_root, tmp_path_factory.mktemp("runs"), "--batch_size", "27")


def test_raw_files_give_what_the_prepared_set_gives(folder, raw_demo, capsys):
    _, dataset, loaders, model = load_run(folder, "last", "cpu")
    logits, _, _ = predict_split(model, loaders["test"])
    samples = dataset.samples("test")[:5]
    files = [f"{raw_demo}/VideoFlash/{s.id}.flv,{raw_demo}/AudioWAV/{s.id}.wav" for s in samples]
    capsys.readouterr()
    predict.main([str(folder), *files, "--json", str(folder / "out.json")])
    found = json.loads((folder / "out.json").read_text())
    assert list(found) == files
    for position, name in enumerate(files):
        for branch in ("multimodal", "audio", "visual"):
            expected = logits[branch][position].double().softmax(0)
            shares = torch.tensor(list(found[name][branch].values())).double()
            torch.testing.assert_close(shares, expected, rtol=1e-4, atol=1e-6)
            assert list(found[name][branch]) == dataset.classes
    printed = capsys.readouterr().out
    assert printed.count("answer") == 5 and "probability, %" in printed


def test_unusable_files_get_a_line_each_and_the_others_an_answer(folder, tmp_path, capsys):
    good = write_media(tmp_path / "good.mp4", "libx264", "aac", seconds=2)
    mute = write_media(tmp_path / "mute.mp4", audio=None)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    files = [str(mute), str(good), str(tmp_path / "broken.mp4"), str(tmp_path / "none.mp4")]
    picture = tmp_path / "picture.png"
    with pytest.raises(SystemExit) as stop:
        predict.main([str(folder), *files, "--picture", str(picture)])
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert printed.out.count("answer") == 1 and printed.out.startswith(str(good))
    lines = printed.err.strip().splitlines()
    assert len(lines) == 3
    for line, word in zip(lines, ("mute.mp4: has no sound", "broken.mp4: ", "none.mp4: missing")):
        assert line.startswith("error: ") and word in line
    assert picture.stat().st_size > 5_000
    with pytest.raises(SystemExit):
        predict.main([str(folder), files[0], "--picture", str(tmp_path / "nothing.png")])
    assert not (tmp_path / "nothing.png").exists()


@pytest.mark.parametrize(
    "name, raw", [("kinetics_sounds", "raw_kinetics"), ("modelnet40", "raw_modelnet")]
)
def test_other_sets(name, raw, request, tmp_path, capsys):
    root, source = request.getfixturevalue(f"{name}_root"), request.getfixturevalue(raw)
    run = train_on(name, root, tmp_path, "--batch_size", "4")
    _, dataset, loaders, model = load_run(run, "last", "cpu")
    logits, _, _ = predict_split(model, loaders["test"])
    suffixes = {"kinetics_sounds": (".mp4", ".webm", ".flv"), "modelnet40": (".off",)}[name]
    files = {p.stem: p for p in source.rglob("*") if p.suffix in suffixes}
    predict.main([str(run), *map(str, files.values()), "--json", str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())
    for position, sample in enumerate(dataset.samples("test")):
        start = sample.id if name == "modelnet40" else sample.id[:11]
        (path,) = [p for stem, p in files.items() if stem.startswith(start)]
        shares = torch.tensor(list(found[str(path)]["multimodal"].values())).double()
        expected = logits["multimodal"][position].double().softmax(0)
        torch.testing.assert_close(shares, expected, rtol=1e-4, atol=1e-6)


def test_runs_that_cannot_predict_say_why(folder, tmp_path, avmnist_root):
    with pytest.raises(BadInput, match="no run folder"):
        predict.main([str(tmp_path), "x.mp4"])
    digits = train_on("avmnist", avmnist_root, tmp_path, "--batch_size", "30")
    with pytest.raises(BadInput, match="avmnist is not prepared from raw files, one for each"):
        predict.main([str(digits), "x.mp4"])
    stored = json.loads((digits / "options.json").read_text())
    (digits / "options.json").write_text(json.dumps(stored | {"data": None}))
    with pytest.raises(BadInput, match="does not say how its data were prepared; train it again"):
        predict.main([str(digits), "x.mp4"])
