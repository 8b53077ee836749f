"""Small prepared data sets, made once for the whole suite by the real preparation code."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.fsync = lambda file: None  # no test cuts the power, and hundreds of checkpoints are written
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


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
    if not (SHARED / "mnist").is_dir():
        pytest.skip(f"REAL DATA MISSING: {SHARED} is not there; this test needs MNIST and FSDD")
    return SHARED


@pytest.fixture(scope="session")
def avmnist_root(tmp_path_factory, real_digits):
    """A small AV-MNIST from the real digits."""
    from dataset.prepare import avmnist

    root = tmp_path_factory.mktemp("data") / "avmnist"
    avmnist.prepare(real_digits, root, train_size=60, test_size=30)
    return root


@pytest.fixture(scope="session")
def cgmnist_root(tmp_path_factory, real_digits):
    """A small CG-MNIST from the real digits."""
    from dataset.prepare import cgmnist

    root = tmp_path_factory.mktemp("data") / "cgmnist"
    cgmnist.prepare(real_digits, root, train_size=1500, test_size=600)
    return root
