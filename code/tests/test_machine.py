"""What the machine and the environment may do to a run: it works as ever, or ends in one line."""

import errno
import os
import pickle
import random
import resource
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch
from commands import flags_for, run, shell
from torch.utils._pytree import tree_leaves

import train
from dataset._cache import open_cache
from dataset._loader import Batches, BatchSampler, SampleDataset, build_readers
from dataset._samples import Sample
from training.options import choose_device
from utils import distributed, machine
from utils.distributed import Place
from utils.errors import BadInput, run_command
from utils.machine import shortage, usable_cpus
from utils.run_folder import read_jsonl

TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29400",
}


@pytest.fixture
def environment(monkeypatch):
    """Sets these variables, and unsets what torchrun sets of the others."""

    def change(variables):
        for name in TORCHRUN:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return change


# torchrun's variables


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, Place()),
        (TORCHRUN, Place(1, 2, 1, 2)),
        (TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Place()),  # a cluster's job of one process
        ({"RANK": "", "WORLD_SIZE": ""}, Place()),
        ({"MASTER_ADDR": "elsewhere", "MASTER_PORT": "x"}, Place()),  # joins nobody
    ],
)
def test_a_process_is_one_of_several_where_all_of_torchruns_variables_say_so(
    variables, expected, environment
):
    environment(variables)
    if expected is None:
        with pytest.raises(BadInput, match="LOCAL_WORLD_SIZE=2: must be at most WORLD_SIZE=1"):
            distributed.place()
    else:
        assert distributed.place() == expected


@pytest.mark.parametrize(
    "variables, message",
    [
        ({"RANK": "1"}, "has RANK=1, but not WORLD_SIZE, LOCAL_RANK"),
        ({"WORLD_SIZE": "4"}, "has WORLD_SIZE=4, but not RANK"),
        ({"LOCAL_WORLD_SIZE": "0"}, "has LOCAL_WORLD_SIZE=0, but not RANK"),
        (TORCHRUN | {"MASTER_PORT": ""}, "but not MASTER_PORT"),
        (TORCHRUN | {"MASTER_PORT": "x"}, "MASTER_PORT=x: must be a port"),
        (TORCHRUN | {"MASTER_PORT": "70000"}, "MASTER_PORT=70000: must be a port"),
        (TORCHRUN | {"RANK": "2"}, "RANK=2: must be below WORLD_SIZE=2"),
        (TORCHRUN | {"RANK": "-1"}, "RANK=-1: must be a number"),
        (TORCHRUN | {"RANK": "one"}, "RANK=one: must be a number"),
        (TORCHRUN | {"LOCAL_RANK": "2"}, "LOCAL_RANK=2: must be below LOCAL_WORLD_SIZE=2"),
        (TORCHRUN | {"RANK": "0"}, "LOCAL_RANK=1: must be at most RANK=0"),
        (TORCHRUN | {"WORLD_SIZE": "0"}, "RANK=1: must be below WORLD_SIZE=0"),
    ],
)
def test_variables_left_over_from_something_else_are_named(
    variables, message, environment, demo_root, tmp_path
):
    environment(variables)
    with pytest.raises(BadInput) as refused:
        train.main(flags_for(demo_root, tmp_path / "runs"))
    assert message in str(refused.value) and "; unset " in str(refused.value)
    assert "\n" not in str(refused.value) and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("rank, other", [(0, 1), (1, 0)])
def test_a_process_says_for_whom_it_waits_and_gives_up(
    rank, other, environment, monkeypatch, capsys
):
    environment(TORCHRUN | {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "MASTER_PORT": "29411"})
    monkeypatch.setattr(distributed, "SAY_AFTER_S", 0.2)
    monkeypatch.setattr(distributed, "GIVE_UP_AFTER_S", 0.6)
    whom = f"process {other} of 2 at 127.0.0.1:29411"
    with pytest.raises(BadInput, match=f"process {rank}: waited 0.6 s for {whom}; start them all"):
        distributed.meet(distributed.place())
    assert capsys.readouterr().err == f"process {rank}: waits for {whom}\n"


def test_a_rank_that_is_given_twice_is_refused(environment, monkeypatch):
    monkeypatch.setattr(distributed, "GIVE_UP_AFTER_S", 1)
    environment(TORCHRUN | {"WORLD_SIZE": "3", "MASTER_PORT": "29412"})
    hosted = Place(0, 3, 0, 3)

    def outcome(here):
        try:
            return distributed.meet(here)
        except BadInput as refused:
            return str(refused)

    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(outcome, [hosted, Place(1, 3, 1, 3), Place(1, 3, 1, 3)]))
    assert "RANK=1: two processes have it; give each its own" in answers


# Cores


@pytest.mark.parametrize(
    "lines, files, expected",
    [
        ("0::/\n", {"cpu.max": "max 100000"}, 64),
        ("0::/job\n", {"job/cpu.max": "150000 100000"}, 2),
        ("0::/a/b\n", {"cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),  # above it
        ("0::/a/b\n", {"a/cpu.max": "1000 100000", "cpu.max": "max 100000"}, 1),
        ("0::/not/there\n", {"cpu.max": "400000 100000"}, 4),  # a container sees its part only
        (
            "4:memory:/\n3:cpu,cpuacct:/job\n0::/\n",
            {"cpu/job/cpu.cfs_quota_us": "500000", "cpu/job/cpu.cfs_period_us": "100000"},
            5,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        (None, {}, 64),
    ],
)
def test_cores_are_those_of_the_job(lines, files, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text + "\n")
    if lines is not None:
        (tmp_path / "cgroup").write_text(lines)
    assert usable_cpus(tmp_path, tmp_path / "groups") == expected
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {7}, raising=False)
    assert usable_cpus(tmp_path, tmp_path / "groups") == 1


def test_nothing_else_counts_cores():
    """So that a job of 1 core of 64 starts no 64 processes anywhere."""
    code = machine.Path(machine.__file__).parents[1]
    counting = [p.name for p in code.rglob("*.py") if "cpu_count(" in p.read_text("utf-8")]
    assert sorted(counting) == ["machine.py", "test_machine.py"]


# GPUs


def choose(gpu_ids, visible, monkeypatch, processes=1, rank=0):
    """The card that a process takes where CUDA shows `visible` of them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(distributed, "place", lambda: Place(rank, processes, rank, processes))
    choose_device(train_options(gpu_ids=gpu_ids))
    return distributed.card(gpu_ids)


def train_options(**changes):
    options = {"device": "auto", "gpu_ids": None} | changes
    return type("Options", (), options)()


def test_ids_of_gpus_count_within_what_the_scheduler_gave(monkeypatch):
    """CUDA itself numbers what CUDA_VISIBLE_DEVICES leaves, UUIDs and MIG names too: it stays."""
    for given in ("6", "GPU-8932f937", "MIG-1f2a"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert choose("0", 1, monkeypatch) == 0
        with pytest.raises(BadInput, match=f"no 6 among .*, 0 to 0 .CUDA_VISIBLE_DEVICES: {given}"):
            choose("6", 1, monkeypatch)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == given
    assert [choose("3,1", 4, monkeypatch, 2, rank) for rank in (0, 1)] == [3, 1]
    assert choose(None, 2, monkeypatch, 2, 1) == 1
    with pytest.raises(BadInput, match="2 processes: 1 GPUs are visible"):
        choose(None, 1, monkeypatch, 2, 1)
    for wrong in ("GPU-8932f937", "0,0", "-1", ""):
        with pytest.raises(BadInput, match="give numbers of GPUs, each once"):
            choose(wrong, 1, monkeypatch)


# Processes that read


@pytest.fixture
def readers(folder_root, tmp_path):
    """Readers of every kind of file, with a cache."""
    kinds = {"sound": "waveform", "clip": "frames", "photo": "image", "depth": "array"}
    built = build_readers(kinds, folder_root, True, {"image_size": 24})
    for reader in built.values():
        reader.packed = open_cache(reader, reader.ids(), tmp_path / "cache", 0)
    return built


def batches_of(data, workers, method=None):
    loader = Batches(data, BatchSampler(len(data), 5, 0, True), "cpu", workers)
    loader.multiprocessing_context = method
    return list(loader)


def same(batches, others):
    pairs = list(zip(tree_leaves(batches), tree_leaves(others), strict=True))
    return len(pairs) >= 5 and all(torch.equal(a, b) for a, b in pairs)


def data_of(readers):
    ids = sorted(readers["sound"].ids())
    return SampleDataset([Sample(name, n % 2) for n, name in enumerate(ids)], readers, 0)


def test_a_worker_gets_the_path_of_a_cache_and_maps_it_itself(readers):
    data = data_of(readers)
    sent = bytes(ForkingPickler.dumps(data))
    assert len(sent) < 30_000 < sum(reader.packed.size for reader in readers.values())
    assert same(batches_of(pickle.loads(sent), 0), batches_of(data, 0))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_batches_do_not_depend_on_how_workers_are_started(method, readers):
    data = data_of(readers)
    assert same(batches_of(data, 2, method), batches_of(data, 0))


class Dying:
    """A data set whose reader takes its process along, as a decoder or the OOM killer may."""

    def __init__(self, number):
        self.number, self.readers = number, {}

    def __len__(self):
        return 8

    def __getitem__(self, position):
        os.kill(os.getpid(), self.number)


class Greedy(Dying):
    """Batches that need more open files than there are."""

    def __getitem__(self, position):
        files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, most))
        return {"x": torch.ones(2)}, 0


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_what_reads_data_ends_with_what_trains(method, tmp_path):
    """Also where that died before the reading began, which PyTorch does not notice."""
    program = f"""
import os, signal, sys, time
from multiprocessing import get_context
from dataset._workers import prepare_worker

def read(late):
    time.sleep(late)
    prepare_worker(0)
    time.sleep(600)

if __name__ == "__main__":
    children = [get_context("{method}").Process(target=read, args=(late,)) for late in (0, 3)]
    for child in children:
        child.start()
    print(*(child.pid for child in children), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    (tmp_path / "program.py").write_text(program)
    done = shell(sys.executable, str(tmp_path / "program.py"), PYTHONPATH=".")
    children = [int(pid) for pid in done.stdout.split()]  # read until they have ended
    assert len(children) == 2 and not any(Path(f"/proc/{pid}/exe").exists() for pid in children)


@pytest.mark.parametrize(
    "data",
    [Dying(signal.SIGKILL), Dying(signal.SIGBUS), Dying(signal.SIGSEGV), Greedy(0)],
    ids=["killed", "bus error", "decoder", "files"],
)
def test_a_worker_that_dies_is_one_line(data, capfd):
    with pytest.raises(SystemExit, match="2"):
        run_command(lambda: batches_of(data, 2))
    lines = capfd.readouterr().err.splitlines()  # torch's own signal handler may have said its one
    lines = [x.strip(" \0") for x in lines if "encountered in worker" not in x]
    (line,) = filter(None, lines)
    assert line.startswith("error: ") and "give --num_workers 0" in line
    assert "DataLoader worker (pid" in line or "open files" in line


def test_a_decoder_that_dies_while_the_cache_is_built_is_named(readers, tmp_path, monkeypatch):
    reader = readers["sound"]
    ids = sorted(reader.ids())
    monkeypatch.setattr(type(reader), "pack", in_worker(reader.pack, ids[5]))
    with pytest.raises(BadInput, match=f"sound: DataLoader worker .* one of .*{ids[5]}"):
        open_cache(reader, ids, tmp_path / "new", 1)
    assert not [p for p in (tmp_path / "new").iterdir() if p.is_dir()]


def in_worker(pack, deadly):
    main = os.getpid()

    def dying(reader, sample_id):
        if sample_id == deadly and os.getpid() != main:
            os.kill(os.getpid(), signal.SIGSEGV)
        return pack(sample_id)

    return dying


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(errno.ENOSPC, "No space", "runs/x"), "runs/x: No space; free some space"),
        (OSError(errno.ENOSPC, "No space"), "give --num_workers 0, which does without /dev/shm"),
        (
            OSError(errno.EROFS, "Read-only", "/x"),
            "/x: Read-only; choose a folder that can be written",
        ),
        (OSError(errno.EMFILE, "Too many open files"), "such as ulimit -n 4096"),
        (FileNotFoundError(2, "No usable temporary directory found in []"), "set TMPDIR"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "worker (pid unknown) has ended"),
        (EOFError(), "worker (pid unknown) has ended (EOFError)"),
        (RuntimeError("received 0 items of ancdata"), "raise the limit"),
        (RuntimeError("CUDA out of memory. Tried"), "--accumulate 2"),
        (MemoryError(), "MemoryError; give a smaller --batch_size"),
        ("ü".encode, "set PYTHONUTF8=1"),
        (
            RuntimeError("Caught OSError in DataLoader worker process 0.\nT:\nOSError: mmap: x"),
            "",
        ),
        (RuntimeError("shapes do not match"), ""),  # a fault of ours keeps its traceback
        (RuntimeError(""), ""),
    ],
)
def test_what_the_machine_lacks_is_a_line_with_what_mends_it(error, said):
    if callable(error):
        with pytest.raises(UnicodeError) as raised:
            error("ascii")
        error = raised.value
    line = shortage(error)
    assert said in line and "\n" not in line and bool(line) == bool(said)


# Memory


def test_the_memory_of_a_process_does_not_count_what_started_it():
    ballast = bytearray(2 * 10**9)  # more than importing torch takes
    program = "from training.record import peak_memory_mb as peak\n"
    program += "print(peak()); x = bytearray(10**9); print(peak())"
    done = shell(sys.executable, "-c", program, PYTHONPATH=".")
    before, after = map(float, done.stdout.split())
    assert before < len(ballast) / 1e6 and 900 < after - before < 1100


# Output, figures, and everything at once


def test_output_that_nobody_reads_ends_a_command_quietly(tmp_path):
    program = "import sys\nfrom utils.errors import run_command\n"
    program += "run_command(lambda: [print('line', flush=True) for _ in range(100_000)])"
    command = f'{sys.executable} -c "{program}" | head -n 1; echo ${{PIPESTATUS[0]}}'
    done = shell("bash", "-c", command, PYTHONPATH=".")
    assert (done.stdout, done.stderr) == ("line\n141\n", "")


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_figures_are_drawn_whatever_backend_the_environment_asks_for(backend):
    program = "import figures._style as s; print(s.plt.get_backend())"
    done = shell(sys.executable, "-c", program, MPLBACKEND=backend, PYTHONPATH=".")
    assert done.stdout.lower() == "agg\n", done.stderr


def test_names_that_the_terminal_cannot_show_are_written_otherwise():
    program = "from utils.errors import run_command; run_command(lambda: print('k\\xe4tz'))"
    done = shell(sys.executable, "-c", program, PYTHONIOENCODING="ascii", PYTHONPATH=".")
    assert done.stdout == "k\\xe4tz\n", done.stderr


def test_a_user_without_a_name_is_given_one():
    """As in a container that is run as a number: torch asks for the name."""
    program = "import pwd\ndef unknown(uid): raise KeyError\npwd.getpwuid = unknown\n"
    program += "import utils.machine, torchvision"
    nameless = dict.fromkeys(("LOGNAME", "USER", "LNAME", "USERNAME"), "")
    done = shell(sys.executable, "-c", program, PYTHONPATH=".", **nameless)
    assert done.returncode == 0, done.stderr


NUMBERS = ["", "0", "1", "2", "3", "-1", "x", "1.5", "99999999999999999999", "0 "]
IN_ONE_PROCESS = {
    **dict.fromkeys(("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"), NUMBERS),
    "MASTER_ADDR": ["", "127.0.0.1", "no.such.host.invalid", "x" * 300, "a b"],
    "MASTER_PORT": ["", "29433", "0", "65536", "port"],
    "TORCHELASTIC_USE_AGENT_STORE": ["True", "False", "x"],
    "CUDA_VISIBLE_DEVICES": ["", "6", "-1", "GPU-8932f937", "x", "0,1"],
    **dict.fromkeys(("SLURM_PROCID", "SLURM_NTASKS", "SLURM_CPUS_PER_TASK"), NUMBERS),
    **dict.fromkeys(("OMP_NUM_THREADS", "GROUP_RANK", "NPROC"), NUMBERS),
    "MPLBACKEND": ["module://matplotlib_inline.backend_inline", "x", "agg"],
    "COLUMNS": ["", "0", "x", "7"],
}
OF_A_COMMAND = IN_ONE_PROCESS | {
    **dict.fromkeys(("HOME", "TMPDIR", "MPLCONFIGDIR", "TORCH_HOME"), ["", "/nonexistent"]),
    **dict.fromkeys(("LC_ALL", "LANG"), ["C", "POSIX", "xx_YY", "C.UTF-8", ""]),
    "PYTHONIOENCODING": ["ascii", "latin-1", "utf-8"],
    "PYTHONUTF8": ["0", "1"],
    "PYTHONCOERCECLOCALE": ["0", "1"],
    "PYTHONOPTIMIZE": ["1", "2"],
    "PYTHONPATH": ["/nonexistent"],
    "TERM": ["", "dumb", "x"],
    "USER": [""],
}


def drawn_environment(seed, choices):
    """Some variables, now and then all of torchrun's: {name: value}."""
    draw = random.Random(seed)
    names = draw.sample(sorted(choices), draw.choice([1, 2, 3, 6, len(choices)]))
    variables = {name: draw.choice(choices[name]) for name in names}
    if draw.random() < 0.3:
        variables |= TORCHRUN | {draw.choice(sorted(TORCHRUN)): draw.choice(NUMBERS)}
    return variables


def numbers_of(run_folder):
    (record,) = read_jsonl(run_folder / "metrics.jsonl")
    return record


@pytest.mark.slow
def test_any_environment_is_one_line_or_the_same_numbers(
    fuzz, demo_root, tmp_path, environment, monkeypatch
):
    monkeypatch.setattr(distributed, "SAY_AFTER_S", 0.05)
    monkeypatch.setattr(distributed, "GIVE_UP_AFTER_S", 0.1)
    environment({})
    flags, refused = flags_for(demo_root, tmp_path), 0
    run(flags, "clean")
    for seed in range(2 * len(fuzz)):
        variables = drawn_environment(seed, IN_ONE_PROCESS)
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            try:
                run(flags, f"drawn{seed}")
            except BadInput as answer:
                assert "\n" not in str(answer) and not (tmp_path / f"drawn{seed}").exists()
                refused += 1
                continue
        assert numbers_of(tmp_path / f"drawn{seed}") == numbers_of(tmp_path / "clean"), variables
    assert 0.3 < refused / (2 * len(fuzz)) < 0.9


@pytest.mark.slow
def test_commands_in_any_environment_are_one_line_or_the_same_numbers(
    demo_root, tmp_path, environment
):
    command = [sys.executable, "train.py", *flags_for(demo_root, tmp_path), "--epochs", "1"]
    command += ["--num_workers", "2"]
    clean = dict.fromkeys(TORCHRUN, "")
    assert shell(*command, "--run_name", "clean", **clean).returncode == 0
    for seed in range(12):
        variables = clean | drawn_environment(1000 + seed, OF_A_COMMAND)
        environment({name: variables[name] for name in TORCHRUN})
        with suppress(BadInput):
            if distributed.place().world_size > 1:
                continue  # it rightly waits for the others
        done = shell(*command, "--run_name", f"drawn{seed}", **variables)
        assert "Traceback" not in done.stderr, (variables, done.stderr)
        if done.returncode:
            (line,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
            assert done.returncode == 2 and not (tmp_path / f"drawn{seed}").exists(), line
        else:
            # other threads round otherwise, which a few steps later may turn an answer
            clean_steps, steps = (
                read_jsonl(tmp_path / name / "steps.jsonl") for name in ("clean", f"drawn{seed}")
            )
            assert steps[0] == pytest.approx(clean_steps[0], rel=1e-3, abs=1e-4), variables
            assert len(steps) == len(clean_steps)
