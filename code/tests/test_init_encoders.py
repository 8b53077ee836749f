"""--init_encoders: the encoders of runs of one modality each, in a run of several."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import flags_for, run

import report
from analysis.trained import load_run
from models.of_runs import name_runs, runs_of
from utils.errors import BadInput
from utils.run_folder import load, read_jsonl


@pytest.fixture(scope="module")
def runs(demo_root, tmp_path_factory):
    """(flags of a run, its folder) with a run of each modality alone beside it, and one of both."""
    folder = tmp_path_factory.mktemp("runs")
    flags = flags_for(demo_root, folder)
    of_sound = [word for word in flags if word not in ("--image_size", "32")]
    for modality, given in (("audio", of_sound), ("visual", flags)):
        run(given, f"{modality}-seed0", "--method", "joint", "--modalities", modality)
    run(flags, "both", "--method", "joint")
    return flags, folder


def weights(folder, part):
    state = load(folder / "last.pt")["model"]
    return {name: value for name, value in state.items() if name.startswith(part)}


def test_a_run_begins_with_the_weights_of_the_runs_and_is_resumed_without_them(
    runs, tmp_path, capsys
):
    flags, folder = runs
    for modality in ("audio", "visual"):
        shutil.copytree(folder / f"{modality}-seed0", tmp_path / modality / "seed0")
    flags = [*flags, "--init_encoders", f"{tmp_path}/{{modality}}/seed{{seed}}"]
    still = ["--learning_rate", "1e-30", "--weight_decay", "0"]  # nothing is trained
    run(flags, "begun", "--method", "joint", *still)
    for modality in ("audio", "visual"):
        name = f"encoders.{modality}"
        ours, theirs = (weights(f, name) for f in (folder / "begun", folder / f"{modality}-seed0"))
        trained = [key for key in theirs if not ("running" in key or "num_batches" in key)]
        assert trained and all(torch.equal(ours[key], theirs[key]) for key in trained)
    run(runs[0], "other", "--method", "joint", *still)
    for part in ("fusion", "heads"):  # as without
        for key, value in weights(folder / "begun", part).items():
            assert torch.equal(value, weights(folder / "other", part)[key])
    shutil.rmtree(tmp_path / "audio")
    run(flags, "begun", "--method", "joint", *still, "--epochs", "2", "--resume")
    assert len(read_jsonl(folder / "begun" / "metrics.jsonl")) == 2
    load_run(folder / "begun", "last", "cpu")
    with pytest.raises(BadInput, match="was begun with --init_encoders .*, not None"):
        run(runs[0], "begun", "--method", "joint", *still, "--epochs", "2", "--resume")
    run(runs[0], "plain", "--method", "joint", *still, "--epochs", "2")
    report.main([str(folder / name) for name in ("plain", "begun")])
    printed = capsys.readouterr().out
    assert "| joint --init_encoders RUNS | 1 (few) |" in printed
    report.main([str(folder / n) for n in ("plain", "begun")] + ["--records", str(tmp_path / "r")])
    report.main([str(tmp_path / "r")])
    assert "| joint --init_encoders RUNS | 1 (few) |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text, message",
    [
        ("audio={0}/visual-seed0", "audio=.*: trained on visual; needs a run of audio alone"),
        ("audio={0}/both", "audio=.*both: trained on audio, visual; needs a run of audio alone"),
        ("audio={0}/nothing", "no run folder, it has no options.json; needs a run of audio alone"),
        ("audio={0}", "no run folder, it has no options.json; needs a run of audio alone"),
        ("{0}/{{modality}}-seed7", "seed7: no run folder, it has no options.json"),
        ("flow={0}/audio-seed0", "--init_encoders flow=...: not a modality of this run"),
        ("audio={0}/audio-seed0,audio={0}/audio-seed0", "name a run for each modality, once"),
        ("audio=", "name a run for each modality, once, such as audio=runs/A"),
        ("audio={0}/classes", "trained on the classes a, b; needs a run of audio alone"),
        ("audio={0}/gone", "gone/last.pt: no such checkpoint"),
    ],
)
def test_what_is_no_run_of_that_modality_is_refused(text, message, runs):
    flags, folder = runs
    if not (folder / "gone").exists():
        for name in ("gone", "classes"):
            shutil.copytree(folder / "audio-seed0", folder / name)
        (folder / "gone" / "last.pt").unlink()
        stored = json.loads((folder / "classes" / "options.json").read_text())
        stored["data"]["classes"] = ["a", "b"]
        del stored["checksum"]
        (folder / "classes" / "options.json").write_text(json.dumps(stored))
    with pytest.raises(BadInput, match=message):
        run(flags, "refused", "--method", "joint", "--init_encoders", text.format(folder))
    assert not (folder / "refused").exists()


@pytest.mark.parametrize("other", [["--encoder", "resnet18"], ["--image_size", "48"]])
def test_another_architecture_is_refused_and_another_size_of_pictures_is_not(other, runs):
    flags, folder = runs
    flags = [*flags, "--init_encoders", f"visual={folder}/visual-seed0", *other]
    if other[0] == "--encoder":
        message = "visual=.*: has another encoder, cnn, than this run, resnet18, or one for items"
        with pytest.raises(BadInput, match=message):
            run(flags, "refused", "--method", "joint")
    else:  # which a convolution takes
        run(flags, "larger", "--method", "joint")


def test_a_pattern_names_a_run_for_every_modality():
    pattern = "runs/{modality}-seed{seed}"
    named = name_runs("--x", pattern, ["a", "b"], 3)
    assert runs_of(named) == {"a": Path("runs/a-seed3"), "b": Path("runs/b-seed3")}
    listed = name_runs("--x", "b=runs/y-seed{seed},a=runs/x", ["a", "b"], 3)
    assert runs_of(listed) == {"b": Path("runs/y-seed3"), "a": Path("runs/x")}
