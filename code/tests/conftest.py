"""Small prepared data sets, made once for the whole suite by the real preparation code."""

import os
import shutil
import signal
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import soundfile
from media import problems_of, write_media
from PIL import Image
from scipy.io import savemat

from utils import errors

os.environ["MPLBACKEND"] = "Agg"  # also of libraries that import matplotlib before our figures
os.environ.setdefault("OMP_NUM_THREADS", "1")  # script/test.sh has a process for each core
os.fsync = lambda file: None  # no test cuts the power, and hundreds of checkpoints are written
BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"
REAL_DATA = Path(os.environ.get("MMPARETO_TEST_DATA", BESIDE))  # docs/extending.md says what it is


def pytest_addoption(parser):
    parser.addoption(
        "--fuzz", type=int, default=100, metavar="N", help="random cases of each test that draws"
    )


@pytest.fixture(autouse=True)
def as_before():
    """Commands run in this process leave handlers of signals, and what they have said."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    errors.told.clear()


@pytest.fixture
def fuzz(request) -> range:
    """Seeds of the random cases of a test: always 0 to 99, more with --fuzz 2000."""
    return range(request.config.getoption("--fuzz"))


@pytest.fixture(scope="session")
def raw_demo(tmp_path_factory):
    """VideoFlash/ and AudioWAV/ of one actor: 72 clips named and formatted like CREMA-D."""
    from dataset.prepare import demo

    folder = tmp_path_factory.mktemp("raw") / "cremad"
    demo.generate(folder, seed=0, actors=1)
    return folder


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory):
    """The demo set with one actor, prepared: 54 training and 18 test clips."""
    from dataset.prepare import demo

    root = tmp_path_factory.mktemp("data") / "demo"
    demo.prepare(root, actors=1, jobs=1)
    return root


@pytest.fixture(scope="session")
def real_digits():
    """The folder of the real archives; without them the test is skipped, loudly."""
    if not (REAL_DATA / "mnist").is_dir():
        pytest.skip(
            f"REAL DATA MISSING: {REAL_DATA} has no mnist/; name the folder that has mnist/ and "
            "fsdd/ in the environment variable MMPARETO_TEST_DATA"
        )
    return REAL_DATA


def prepared(tmp_path_factory, name, source, *flags):
    """The set that its own preparation makes of raw files."""
    root = tmp_path_factory.mktemp("data") / name
    command = import_module(f"dataset.prepare.{name}").main
    command(["--source", str(source), "--output", str(root), *flags])
    assert not problems_of(root)
    return root


@contextmanager
def in_this_process():
    """Preparations decode in the process of the test: another takes seconds to start."""
    from dataset._limits import naming
    from dataset.prepare import _preparation as preparation

    def work_off(work, jobs, processes):
        for job in jobs:
            try:
                with naming(*job[0]):
                    work(*job)
                yield None
            except errors.BadInput as problem:
                yield problem

    with mock.patch.object(preparation, "work_off", work_off):
        yield


@pytest.fixture(scope="session")
def avmnist_root(tmp_path_factory, real_digits):
    sizes = ["--train_size", "60", "--test_size", "30"]
    return prepared(tmp_path_factory, "avmnist", real_digits, *sizes)


@pytest.fixture(scope="session")
def cgmnist_root(tmp_path_factory, real_digits):
    sizes = ["--train_size", "400", "--test_size", "200"]
    return prepared(tmp_path_factory, "cgmnist", real_digits, *sizes)


@pytest.fixture(scope="session")
def raw_kinetics(tmp_path_factory):
    """A Kinetics-400 download: clips with sound of two classes.

    A clip's name tells its class, and its loudness its number.
    """
    source = tmp_path_factory.mktemp("raw") / "kinetics"
    for split, count in (("train", 4), ("test", 2)):
        for label in ("playing drums", "singing"):
            (source / split / label).mkdir(parents=True)
            for i in range(count):
                name = f"{label[-4:]}-{split:_<5}{i}_{7 * i:06d}_{7 * i + 3:06d}.mp4"
                write_media(source / split / label / name, loud=0.1 + 0.1 * i)
    return source


@pytest.fixture(scope="session")
def kinetics_sounds_root(tmp_path_factory, raw_kinetics):
    flags = ["--split", "kinetics", "--audio_frames", "64", "--mel_bins", "32", "--jobs", "1"]
    return prepared(tmp_path_factory, "kinetics_sounds", raw_kinetics, *flags)


@pytest.fixture(scope="session")
def raw_ucf(tmp_path_factory):
    """UCF-101 as it is handed out, with two classes: videos by class, and the split files."""
    source = tmp_path_factory.mktemp("raw") / "ucf"
    (source / "splits").mkdir(parents=True)
    lists = {"train": "", "test": ""}
    for number, label in ((1, "Archery"), (2, "Bowling")):
        (source / "UCF-101" / label).mkdir(parents=True)
        for i in range(6):
            path = source / "UCF-101" / label / f"v_{label}_g{i + 1:02d}_c01.avi"
            write_media(path, "mpeg4", None, times=[t / 10 for t in range(10 + 2 * i)], moves=2)
            if i < 2:
                lists["test"] += f"{label}/{path.name}\n"
            else:
                lists["train"] += f"{label}/{path.name} {number}\n"
    (source / "splits" / "classInd.txt").write_text("1 Archery\r\n2 Bowling\r\n")
    for part, lines in lists.items():
        (source / "splits" / f"{part}list01.txt").write_text(lines)
    return source


@pytest.fixture(scope="session")
def ucf101_root(tmp_path_factory, raw_ucf):
    flags = ["--frames_per_second", "5", "--video_rate", "10", "--jobs", "1"]
    return prepared(tmp_path_factory, "ucf101", raw_ucf, *flags)


GRID_ROWS = "0 10000 sil|10000 15000 bin|15000 20000 {}|20000 21000 sp|21000 22500 at|"
GRID_ROWS += "22500 27500 {}|27500 40000 two|40000 45000 now|45000 75000 sil"


def write_alignment(path):
    """Of a sentence of GRID with this name: the colour is said from 0.6 s to 0.8 s, the letter from
    0.9 s to 1.1 s, the digit from 1.1 s to 1.6 s."""
    colour = {"b": "blue", "g": "green", "r": "red", "w": "white"}[path.stem[1]]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(GRID_ROWS.format(colour, path.stem[3]).replace("|", "\n"))
    return path


def write_grid(source, speaker, sentence, **media):
    """A clip of GRID, 25 pictures a second, and its alignment, as they are handed out."""
    folder = source / speaker / "video"
    folder.mkdir(parents=True, exist_ok=True)
    media = {"times": np.arange(0, 3, 0.04)} | media
    alignment = write_alignment(source / "align" / speaker / f"{sentence}.align")
    return write_media(folder / f"{sentence}.mp4", **media), alignment


@pytest.fixture(scope="session")
def raw_grid(tmp_path_factory):
    """GRID with two speakers, who say two colours."""
    source = tmp_path_factory.mktemp("raw") / "grid"
    for speaker, letters in (("s1", "fgh"), ("s2", "fg")):
        for letter in letters:
            for colour in "bg":
                write_grid(source, speaker, f"b{colour}a{letter}2n")
    return source


@pytest.fixture(scope="session")
def grid_root(tmp_path_factory, raw_grid):
    flags = ["--label", "colour", "--visual", "frames"]
    with in_this_process():
        return prepared(tmp_path_factory, "grid", raw_grid, *flags)


def write_utd_mhad(source, sample, steps=40, **held):
    """Both files of an action, as they are handed out: at each time t inertial channel i holds t
    times the action, plus i, and coordinate k of joint j the action times j t, plus k."""
    action, times = int(sample.split("_")[0][1:]), np.arange(steps)
    held.setdefault("inertial", {"d_iner": times[:, None] * action + np.arange(6.0)})
    joints = action * np.arange(20.0)[:, None, None] * times + np.arange(3)[:, None]
    held.setdefault("skeleton", {"d_skel": joints})
    for sensor, content in held.items():
        path = source / sensor.capitalize() / f"{sample}_{sensor}.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        savemat(path, content)


@pytest.fixture(scope="session")
def raw_utd_mhad(tmp_path_factory):
    """UTD-MHAD with two actions: three trials of each of the eight subjects."""
    source = tmp_path_factory.mktemp("raw") / "utd_mhad"
    for action in (1, 27):
        for subject in range(1, 9):
            for trial in range(1, 4):
                sample = f"a{action}_s{subject}_t{trial}"
                write_utd_mhad(source, sample, 30 + 3 * subject + trial)
    return source


@pytest.fixture(scope="session")
def utd_mhad_root(tmp_path_factory, raw_utd_mhad):
    with in_this_process():
        return prepared(tmp_path_factory, "utd_mhad", raw_utd_mhad, "--steps", "16")


@pytest.fixture(scope="session")
def raw_mfeat(tmp_path_factory):
    """Multiple Features: number j of line i is 100 v + i + j mod 7, in view v."""
    from dataset.prepare.mfeat import VIEWS

    source = tmp_path_factory.mktemp("raw") / "mfeat"
    source.mkdir()
    for place, (view, (width, _)) in enumerate(VIEWS.items()):
        values = 100 * place + np.arange(2000)[:, None] + np.arange(width) % 7
        np.savetxt(source / f"mfeat-{view}", values, fmt=" %d")
    return source


@pytest.fixture(scope="session")
def mfeat_root(tmp_path_factory, raw_mfeat):
    flags = ["--test_share", "0.1", "--train_size", "80"]
    return prepared(tmp_path_factory, "mfeat", raw_mfeat, *flags)


@pytest.fixture(scope="session")
def raw_modelnet(tmp_path_factory):
    """The tree of ModelNet40.zip with two classes of generated solids."""
    import trimesh

    source = tmp_path_factory.mktemp("raw") / "ModelNet40"
    for split, count in (("train", 4), ("test", 2)):
        for label, make in (("bottle", trimesh.creation.cone), ("lamp", trimesh.creation.capsule)):
            folder = source / label / split
            folder.mkdir(parents=True)
            for i in range(count):
                solid = make(radius=1 + 0.2 * i, height=2)
                solid.export(folder / f"{label}_{split == 'test':d}00{i}.off")
    return source


@pytest.fixture(scope="session")
def modelnet40_root(tmp_path_factory, raw_modelnet):
    return prepared(tmp_path_factory, "modelnet40", raw_modelnet, "--size", "32", "--jobs", "1")


@pytest.fixture(scope="session")
def folder_root(tmp_path_factory):
    """Somebody's own data: sound, frames, pictures and arrays of the same samples."""
    root = tmp_path_factory.mktemp("data") / "own"
    rng = np.random.default_rng(0)
    for modality in ("sound", "clip", "photo", "depth"):
        (root / modality).mkdir(parents=True)
    for split, count in (("train", 8), ("test", 4)):
        rows = ["id,label"] if split == "train" else []  # a header is allowed
        for number in range(count):
            name, label = f"{split}{number}", ("cat", "dog")[number % 2]
            rows.append(f"{name},{label}")
            wave = 0.3 * np.sin(np.arange(8000) * (0.1 if label == "cat" else 0.3))
            soundfile.write(root / "sound" / f"{name}.{'wav' if number else 'flac'}", wave, 16000)
            pixels = rng.integers(0, 256, (3, 40, 48, 3)).astype(np.uint8)
            (root / "clip" / name).mkdir()
            for frame in range(3):
                Image.fromarray(pixels[frame]).save(root / "clip" / name / f"{frame + 8}.png")
            Image.fromarray(pixels[0]).save(root / "photo" / f"{name}.jpg")
            np.save(root / "depth" / f"{name}.npy", rng.random((2, 24, 24)))
        (root / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def own_data(folder_root, tmp_path):
    """A copy of it to change."""
    shutil.copytree(folder_root, tmp_path / "own", ignore=shutil.ignore_patterns("cache"))
    return tmp_path / "own"


@pytest.fixture(scope="session")
def trained(demo_root, tmp_path_factory):
    """(a name of RUNS) -> that run's folder, two epochs, trained when it is first asked for.

    A test that writes into it copies it first.
    """
    from commands import RUNS, flags_for, run

    runs = tmp_path_factory.mktemp("trained")

    def folder_of(name: str) -> Path:
        if not (runs / name).exists():
            run(flags_for(demo_root, runs), name, "--epochs", "2", *RUNS[name])
        return runs / name

    return folder_of
