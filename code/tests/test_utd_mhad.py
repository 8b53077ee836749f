"""UTD-MHAD: what a sequence becomes, whose actions are for testing, and what is left out."""

import json
import shutil
import zipfile

import numpy as np
import pytest
from commands import run
from conftest import REAL_DATA, in_this_process, write_utd_mhad
from media import problems_of
from scipy.io import loadmat

import predict
from analysis.trained import load_run
from dataset.prepare import utd_mhad
from models.metrics import predict as predict_split
from utils.errors import BadInput

SENSORS = ("inertial", "skeleton")


@pytest.fixture(autouse=True)
def without_processes():
    with in_this_process():
        yield


def prepare(source, output, *flags):
    utd_mhad.main(["--source", str(source), "--output", str(output), "--jobs", "1", *flags])


def arrays_of(root, part):
    """{sensor: (N, T, D)} of a split."""
    ids = [line.split(",")[0] for line in (root / f"{part}.csv").read_text().splitlines()]
    return {m: np.stack([np.load(root / m / f"{name}.npy") for name in ids]) for m in SENSORS}


# What a sequence becomes


def test_sequences_are_resampled_and_joints_relative_to_the_hip(tmp_path):
    write_utd_mhad(tmp_path, "a2_s1_t1", steps=41)
    files = sorted(tmp_path.rglob("*.mat"), reverse=True)  # in any order
    sequences = utd_mhad.sequences_of(files, 6)
    times = np.arange(0, 41, 8.0)
    np.testing.assert_allclose(sequences["inertial"], 2 * times[:, None] + np.arange(6))
    joints = 2 * np.repeat(np.arange(20) - 3, 3) * times[:, None]
    np.testing.assert_allclose(sequences["skeleton"], joints, atol=1e-12)


def test_means_and_deviations_are_those_of_the_training_subjects(utd_mhad_root):
    train, test = (arrays_of(utd_mhad_root, part) for part in ("train", "test"))
    for of_part in (train, test):
        assert of_part["inertial"].shape == (24, 16, 6) and of_part["inertial"].dtype == np.float32
        assert of_part["skeleton"].shape == (24, 16, 60)
        assert not of_part["skeleton"][..., 9:12].any()  # the hip
    for sensor in SENSORS:
        assert np.abs(train[sensor].mean((0, 1))).max() < 1e-5
        assert np.abs(test[sensor].mean((0, 1))).max() > 0.02
    np.testing.assert_allclose(train["inertial"].std((0, 1)), 1, rtol=1e-5)
    deviations = train["skeleton"].std((0, 1))
    assert train["skeleton"].std() == pytest.approx(1, rel=1e-5)
    assert deviations[-1] == pytest.approx(
        16 * deviations[6 + 6], rel=1e-4
    )  # 16 and 1 from the hip


# Which actions there are, and which are for testing


def test_files_lie_anywhere_also_in_archives(raw_utd_mhad, tmp_path, capsys):
    source = tmp_path / "utd"
    shutil.copytree(raw_utd_mhad / "Skeleton", source / "deep" / "er")
    with zipfile.ZipFile(source / "Inertial.zip", "w") as archive:
        for path in (raw_utd_mhad / "Inertial").iterdir():
            archive.write(path, f"Inertial/{path.name.upper()}")
    for name in ("a28_s1_t1", "a1_s9_t1", "a8_s1_t4", "a01_s1_t1"):
        (source / f"{name}_inertial.mat").touch()
    (source / "a1_s1_t1_skeleton.mat").write_bytes(b"")  # the least deep one is taken
    files = utd_mhad.raw_sequences(source, tmp_path / "downloads")
    assert len(files) == 48 and all(len(of_action) == 2 for of_action in files.values())
    assert list(files)[:2] == ["a1_s1_t1", "a1_s1_t2"]
    assert files["a1_s1_t1"][1] == source / "a1_s1_t1_skeleton.mat"
    printed = capsys.readouterr().out
    assert "NOTE: 813 of 861 actions are not there, such as a1_s1_t4" in printed
    assert printed.count("of none of the set's 861 actions") == 4
    assert "a1_s1_t1_skeleton.mat is of the same sample" in printed


@pytest.mark.parametrize("tested, counts", [("2,4,6,8", (431, 430)), ("1", (754, 107))])
def test_subjects_for_testing_are_unknown_in_training(tested, counts, tmp_path):
    source = tmp_path / "utd"
    for subject in range(1, 9):
        write_utd_mhad(source, f"a24_s{subject}_t1")
    prepare(source, tmp_path / "out", "--test_subjects", tested)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert tuple(report["expected"].values()) == counts
    rows = (tmp_path / "out" / "test.csv").read_text().splitlines()
    assert rows == [f"a24_s{subject}_t1,sit to stand" for subject in tested.split(",")]


def test_an_id_tells_subject_and_action():
    assert utd_mhad.subject_of("a27_s8_t2") == 8 and utd_mhad.action_of("a27_s8_t2") == "squat"
    assert len(set(utd_mhad.ACTIONS)) == 27 and len(utd_mhad.KNOWN) == 861


# What is left out or refused


NAN = np.where(np.arange(240).reshape(40, 6) == 7, np.nan, np.arange(240).reshape(40, 6))
RISING = np.arange(240.0).reshape(40, 6)


@pytest.mark.parametrize(
    "sensor, held, fault",
    [
        ("inertial", {"d_iner": NAN}, "holds the value nan"),
        ("inertial", {"d_iner": RISING.T}, r"float64 \(6, 40\), expected numbers \(T, 6\)"),
        ("inertial", {"d_iner": RISING[..., None] + [1, 2]}, r"\(40, 6, 2\), expected numbers"),
        ("inertial", {"d_iner": RISING * 1j}, r"complex128 \(40, 6\), expected numbers"),
        ("inertial", {"d_iner": "text"}, "expected numbers"),
        ("inertial", {"d_iner": RISING[:24]}, "too short, 0.48 s; at least 0.5 s"),
        ("inertial", {"d_iner": np.zeros((0, 6))}, "too short, 0.00 s"),
        ("inertial", {"d_iner": np.ones((40, 6))}, "nothing moves"),
        ("inertial", {"d_iner": RISING * 1e9}, "holds the value"),
        ("inertial", {"x": RISING}, "expected d_iner or d_skel, got x"),
        ("inertial", {}, "expected d_iner or d_skel, got nothing"),
        ("skeleton", {"d_iner": RISING, "d_skel": RISING}, "or d_skel, got d_iner, d_skel"),
        ("skeleton", {"d_skel": np.zeros((20, 3))}, r"\(20, 3\), expected numbers \(20, 3, T\)"),
        ("skeleton", {"d_skel": np.zeros((25, 3, 40))}, r"\(25, 3, 40\), expected numbers"),
        ("skeleton", {"d_skel": np.arange(840.0).reshape(20, 3, 14)}, "too short, 0.47 s"),
        ("skeleton", {"d_skel": np.ones((20, 3, 1)) * range(40)}, "nothing moves"),  # but as one
        ("skeleton", {"d_iner": RISING}, "an inertial and a skeleton file of the same action are"),
    ],
)
def test_files_that_are_no_sequence_of_the_set_are_named(sensor, held, fault, tmp_path):
    write_utd_mhad(tmp_path, "a1_s1_t1", **{sensor: held})
    files = [tmp_path / m.capitalize() / f"a1_s1_t1_{m}.mat" for m in SENSORS]
    utd_mhad.read_sequence(files[sensor == "inertial"])  # the other is right
    with pytest.raises(BadInput, match=f"a1_s1_t1_{sensor}.mat: .*{fault}") as error:
        utd_mhad.sequences_of(files, 8)
    assert "\n" not in str(error.value)


def test_what_cannot_be_used_is_left_out_by_name_and_has_no_part_in_the_means(tmp_path, capsys):
    source = tmp_path / "utd"
    for name in ("a1_s1_t1", "a1_s2_t1", "a1_s1_t2", "a1_s3_t1", "a1_s4_t1"):
        write_utd_mhad(source, name, steps=60 if name in ("a1_s1_t2", "a1_s3_t1") else 40)
    for name in ("a1_s1_t1", "a1_s2_t1"):
        write_utd_mhad(tmp_path / "alone", name)
    prepare(tmp_path / "alone", tmp_path / "expected")
    whole = (source / "Skeleton" / "a1_s1_t2_skeleton.mat").read_bytes()
    (source / "Skeleton" / "a1_s1_t2_skeleton.mat").write_bytes(whole[: len(whole) // 2])
    (source / "Inertial" / "a1_s3_t1_inertial.mat").write_bytes(b"")
    (source / "Inertial" / "a1_s4_t1_inertial.mat").unlink()
    prepare(source, tmp_path / "out")
    problems = problems_of(tmp_path / "out")
    assert problems.keys() == {"a1_s1_t2", "a1_s3_t1", "a1_s4_t1"}
    assert "a1_s1_t2_skeleton.mat: unreadable" in problems["a1_s1_t2"]
    assert "a1_s3_t1_inertial.mat: unreadable" in problems["a1_s3_t1"]
    assert "a1_s4_t1_skeleton.mat: an inertial and a skeleton" in problems["a1_s4_t1"]
    settings = [(tmp_path / f / "settings.json").read_text() for f in ("out", "expected")]
    assert settings[0] == settings[1]
    assert "out: 1 of 431 train, 1 of 430 test samples usable" in capsys.readouterr().out
    write_utd_mhad(source, "a1_s5_t1", steps=90)
    with pytest.raises(BadInput, match="out: was begun with other training files.*; delete it"):
        prepare(source, tmp_path / "out")
    message = 'out: was begun with {"steps": 32.*; use the same flags'
    with pytest.raises(BadInput, match=message) as error:
        prepare(source, tmp_path / "out", "--steps", "64")
    assert len(str(error.value)) < 400 + len(str(tmp_path))  # without all of the means


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--test_subjects 9", "--test_subjects 9: subjects are 1 to 8"),
        ("--test_subjects 0", "--test_subjects 0: must be at least 1"),
        ("--test_subjects 1,2,3,4,5,6,7,8", "leaves no subject for train.csv; the source has 1, 2"),
        ("--test_subjects 5", "--test_subjects 5: leaves no subject for test.csv"),
        ("--steps 1", "--steps 1: must be 2 to 1000"),
        ("--steps 1001", "--steps 1001: must be 2 to 1000"),
    ],
)
def test_wrong_flags_get_one_line(flags, message, tmp_path):
    for name in ("a1_s1_t1", "a1_s2_t1"):
        write_utd_mhad(tmp_path / "utd", name)
    with pytest.raises(BadInput) as error:
        prepare(tmp_path / "utd", tmp_path / "out", *flags.split())
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_source_without_a_file_or_a_usable_one_is_refused(tmp_path):
    (tmp_path / "utd").mkdir()
    with pytest.raises(BadInput, match="utd: holds no file of UTD-MHAD, such as a1_s1_t1_iner"):
        prepare(tmp_path / "utd", tmp_path / "out")
    for name in ("a1_s1_t1", "a1_s2_t1"):
        write_utd_mhad(tmp_path / "utd", name, inertial={"x": 1})
    with pytest.raises(BadInput, match="no training action is usable; the first: .*got x"):
        prepare(tmp_path / "utd", tmp_path / "out")


# Training


def test_it_is_trained_by_default_and_predicted_from_raw_files(
    utd_mhad_root, raw_utd_mhad, tmp_path
):
    where = ["--dataset", "utd_mhad", "--data_root", str(utd_mhad_root)]
    run([*where, "--ckpt_path", str(tmp_path), "--no-tensorboard"], "x", "--batch_size", "8")
    stored = json.loads((tmp_path / "x" / "options.json").read_text())["options"]
    assert stored["encoder"] == "conv1d" and stored["schedule"] == "cosine"
    _, dataset, loaders, model = load_run(tmp_path / "x", "last", "cpu")
    logits, _, _ = predict_split(model, loaders["test"])
    sample = dataset.samples("test")[5].id
    files = [raw_utd_mhad / m.capitalize() / f"{sample}_{m}.mat" for m in SENSORS]
    shutil.copy(files[1], tmp_path / "mine.mat")  # what a file holds tells what it is
    texts = [f"{files[0]},{files[1]}", f"{tmp_path / 'mine.mat'},{files[0]}"]
    predict.main([str(tmp_path / "x"), *texts, "--json", str(tmp_path / "out.json")])
    answers = json.loads((tmp_path / "out.json").read_text())
    for text in texts:
        for branch, of_class in answers[text].items():
            expected = logits[branch][5].double().softmax(0).numpy()
            np.testing.assert_allclose(list(of_class.values()), expected, atol=1e-5)


# Real sensors


@pytest.fixture(scope="module")
def real():
    if not (REAL_DATA / "utd_mhad").is_dir():
        pytest.skip(f"REAL DATA MISSING: {REAL_DATA} has no utd_mhad/")
    return REAL_DATA / "utd_mhad"


@pytest.mark.slow
def test_the_real_actions_are_all_there_and_are_learnt_in_seconds(real, tmp_path, capsys):
    prepare(real, tmp_path / "out")
    printed = capsys.readouterr().out
    assert "431 of 431 train, 430 of 430 test samples usable" in printed and "NOTE" not in printed
    for part in ("train", "test"):
        for values in arrays_of(tmp_path / "out", part).values():
            assert values.shape[1] == 32 and np.abs(values).max() < 20
            assert np.abs(values.mean()) < 0.05 and 0.7 < values.std() < 1.3
    where = ["--dataset", "utd_mhad", "--data_root", str(tmp_path / "out")]
    run([*where, "--ckpt_path", str(tmp_path), "--no-tensorboard"], "x", "--epochs", "20")
    last = json.loads((tmp_path / "x" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["test/accuracy/multimodal"] > 0.8
    assert min(last[f"test/accuracy/{sensor}"] for sensor in SENSORS) > 0.5


def test_names_of_actions_are_those_that_the_real_joints_show(real, tmp_path):
    """The hip rises from sit to stand, sinks from stand to sit, and does both in a squat."""
    archive = real / "Skeleton.tar.gz"
    files = utd_mhad.raw_sequences(archive, tmp_path)
    assert len(files) == 861
    heights = {}
    for name in ("sit to stand", "stand to sit", "squat", "wave"):
        (path,) = files[f"a{utd_mhad.ACTIONS.index(name) + 1}_s3_t1"]
        hip = loadmat(path)["d_skel"][utd_mhad.HIP, 1]
        heights[name] = hip[-5:].mean() - hip[:5].mean(), np.ptp(hip)
        sensor, values = utd_mhad.read_sequence(path)
        assert sensor == "skeleton" and len(values) == len(hip) and values.shape[1] == 60
    assert heights["sit to stand"][0] > 0.2 and heights["stand to sit"][0] < -0.2
    assert heights["squat"][1] > 0.2 > 5 * abs(heights["squat"][0])
    assert heights["wave"][1] < 0.1
