"""Runs as tasks of Dask workers: what a worker does with a run, and where workers come from.

A worker is a process that stays: it imports once, and trains one run after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import logging
import multiprocessing
import os
import time
import traceback
from collections import deque
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from uuid import uuid4

import dask
from distributed import Client, Future, LocalCluster, wait
from distributed.scheduler import KilledWorker

from training.options import parse
from training.record import Diverged
from training.resume import refuse_other_options
from utils.atomic import release_claim
from utils.errors import BadInput
from utils.machine import shortage
from utils.run_folder import load, read_jsonl, read_result

LOOPBACK = "127.0.0.1"
SECONDS_TO_ANSWER = 10
SECONDS_TO_END = 30
POLL_SECONDS = 1.0  # between two looks for further workers
SETTINGS = {
    "distributed.scheduler.worker-saturation": 1.0,  # what waits, waits at the scheduler
    "distributed.scheduler.allowed-failures": 2,  # a run that ends its worker three times is named
    "distributed.deploy.lost-worker-timeout": "1 hour",  # to start another on a busy machine
    # memory that goes back to the system at once has to be asked for again in every step
    "distributed.nanny.pre-spawn-environ": {"MALLOC_TRIM_THRESHOLD_": None},
    "distributed.worker.daemon": False,  # workers may start processes that read data
    "distributed.worker.profile.enabled": False,
    "distributed.comm.timeouts.connect": "10s",
}
DIVERGED = "diverged: "  # how the problem of such a run begins; that of others: "error: "
alone = Lock()  # of the run that this process trains: generators of random numbers are shared


@dataclass(eq=False)
class Run:
    """One training: its flags, its parsed options, and the folder they lead to."""

    argv: list[str]
    options: argparse.Namespace
    folder: Path
    counted: tuple[tuple | None, int] = (None, 0)  # metrics.jsonl as it was, and its epochs

    @property
    def log(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}.log")

    def epochs(self) -> int:
        """Those that are done; asked every second, so the file is read when it has changed only."""
        file = self.folder / "metrics.jsonl"
        about = file.stat() if file.is_file() else None
        now = about and (about.st_size, about.st_mtime_ns)
        if now != self.counted[0]:
            self.counted = now, min(len(read_jsonl(file)), self.options.epochs)
        return self.counted[1]

    def is_begun(self) -> bool:
        """Raises BadInput where the folder holds a run with other options."""
        if not (self.folder / "options.json").is_file():
            return False
        refuse_other_options(self.folder, self.options, "sweep.py")
        return True

    def is_done(self, probes: list[str]) -> bool:
        probed = all(read_result(self.folder / f"probe_{name}.json") for name in probes)
        return self.is_begun() and self.epochs() == self.options.epochs and probed

    def is_behind(self) -> bool:
        """Whether last.pt lacks an epoch that is recorded: of a run that was killed in between.
        None at all is there in the first epoch only; later it was there, and has been deleted."""
        last = self.folder / "last.pt"
        if not last.is_file():
            return self.epochs() == 1
        return load(last)["progress"]["epoch"] < self.epochs()


def carry_out(argv: list[str], folder: Path, probes: list[str], keep: bool) -> str:
    """In a worker: trains, and probes, what is not done; "" or why it failed.

    keep: the checkpoints. What train.py and evaluate.py print goes to `Run.log`, which is there
    while the run is not done.
    """
    if multiprocessing.get_start_method() == "spawn":  # as Dask starts this process
        # what reads data comes from a process that has imported all: sooner than by spawning, and
        # not forked from this process, which runs threads
        multiprocessing.set_start_method("forkserver", force=True)
        multiprocessing.set_forkserver_preload(["__main__", "dataset._loader"])
    run = Run(argv, parse(argv), folder)
    if run.options.device == "cpu":  # they would take turns with the training on its cores
        run.argv = ["--num_workers", "0", *argv]  # which may say otherwise
    with alone, open(run.log.with_suffix(".lock"), "w") as lock:
        # a worker that its sweep has lost may still train this run: wait for it
        fcntl.flock(lock, fcntl.LOCK_EX)
        was_ended = run.log.exists()
        with open(run.log, "a", encoding="utf-8") as log:
            with redirect_stdout(log), redirect_stderr(log):
                problem = attempt(run, probes, was_ended)
        if not problem:
            run.log.unlink()
            for name in ("last.pt", "best.pt"):
                if not keep:
                    (folder / name).unlink(missing_ok=True)
    return problem and f"{problem} ({run.log})"


def attempt(run: Run, probes: list[str], was_ended: bool) -> str:
    """was_ended: before it was done, when it was attempted before."""
    import evaluate  # commands: what a run is, and what a probe is
    import train

    kind = "error: "
    try:
        is_behind = was_ended and run.is_begun() and run.is_behind()
        if run.is_done(probes) and not is_behind:
            return ""
        if is_behind or not run.is_begun() or run.epochs() < run.options.epochs:
            train.main([*run.argv, *(["--resume"] if run.is_begun() else [])])
        if probes:
            evaluate.main([str(run.folder), "--probe", ",".join(probes)])
    except Diverged as error:
        problem, kind = str(error), DIVERGED
    except BadInput as error:
        problem = str(error)
    except (Exception, SystemExit) as error:  # the next run is none the worse for it
        traceback.print_exc()
        problem = shortage(error) or f"{type(error).__name__}: {error}"
    else:
        return ""
    finally:
        release_claim()
    print(f"{kind}{problem.strip()}")
    return f"{kind}{problem.strip().splitlines()[-1]}"


def worked_off(
    client: Client, runs: list[Run], probes: list[str], keep: bool
) -> Iterator[tuple[Run, str]]:
    """Each run when it has ended, with "" or why it failed.

    A worker has one run at a time, and none waits at a worker: one that ends its worker takes no
    other with it. Raises BadInput where the scheduler has ended.
    """
    waiting, pending = deque(runs), {}
    try:
        while waiting or pending:
            try:
                while waiting and len(pending) < len(client.nthreads()):
                    run = waiting.popleft()
                    key = f"{run.folder.name}-{uuid4().hex}"
                    call = client.submit(carry_out, run.argv, run.folder, probes, keep, key=key)
                    pending[call] = run
                if not pending:  # there is no worker yet
                    time.sleep(POLL_SECONDS)
                with suppress(TimeoutError):
                    wait(list(pending), timeout=POLL_SECONDS, return_when="FIRST_COMPLETED")
                problems = {call: problem_of(call) for call in pending if call.done()}
            except (CancelledError, OSError):
                gone = "the scheduler has ended; the same command goes on, with another or without"
                raise BadInput(gone) from None
            for call, problem in problems.items():
                yield pending.pop(call), problem
    finally:
        if pending and client.cluster is None and client.status == "running":
            stop(client, list(pending))  # our own workers end with us


def problem_of(call: Future) -> str:
    error = call.exception()
    if isinstance(error, KilledWorker):
        deaths = error.allowed_failures + 1
        return f"error: its worker died {deaths} times, most likely for want of memory"
    return call.result() if error is None else f"error: {type(error).__name__}: {error}"


def stop(client: Client, calls: list[Future]) -> None:
    """Takes these runs from the workers, and ends the processes of those that train one."""
    keys = {call.key for call in calls}
    busy = [worker for worker, has in client.processing().items() if keys & set(has)]
    client.cancel(calls, force=True)
    with suppress(ValueError):  # workers without a nanny end their run first
        client.restart_workers(busy, raise_for_error=False)


@contextmanager
def connect(jobs: int, scheduler: str | None) -> Iterator[Client]:
    """`jobs` workers on this machine, which only this machine can reach, or those of a cluster.

    Raises BadInput where no scheduler answers.
    """
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # deaths are told by the sweep
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")  # of what the dead had open
    with dask.config.set(SETTINGS):
        if scheduler:
            try:
                where = "scheduler_file" if Path(scheduler).is_file() else "address"
                client = Client(**{where: scheduler}, timeout=SECONDS_TO_ANSWER)
            except (OSError, ValueError) as error:
                raise BadInput(
                    f"--scheduler {scheduler}: no scheduler answers there "
                    f"({type(error).__name__}); start one with dask scheduler, see docs/training.md"
                ) from None
            with client:
                yield client
            return
        cluster = LocalCluster(
            n_workers=jobs,
            threads_per_worker=1,
            host=LOOPBACK,
            dashboard_address=f"{LOOPBACK}:0",
            memory_limit=0,
            silence_logs=logging.CRITICAL,
        )
        client = Client(cluster)
        try:
            yield client
            with suppress(TimeoutError, asyncio.TimeoutError):  # two until Python 3.11
                client.wait_for_workers(jobs, timeout=SECONDS_TO_END)  # see `close`
        finally:
            close(client, cluster)


def close(client: Client, cluster: LocalCluster) -> None:
    """Ends a cluster of this machine, whatever state it is in.

    Dask fails where it closes while it starts a worker again, and the worker then lives on, for
    which this process would wait when it ends.
    """
    for each in (client, cluster):
        with suppress(Exception):
            each.close(timeout=SECONDS_TO_END)
    cluster.shutdown_on_close = False  # what is left is ended here, not when Python ends
    with suppress(RuntimeError):  # where it has ended
        cluster.loop.add_callback(cluster.loop.stop)  # it starts no worker any more
    for process in multiprocessing.active_children():
        if process.name.startswith("Dask Worker"):
            process.kill()
