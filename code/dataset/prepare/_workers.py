"""Processes for decoders that may crash, grow or hang: each job ends by itself or is named."""

import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from queue import SimpleQueue

import cv2
import torch

from dataset._limits import naming
from utils.errors import BadInput

MOST_SECONDS = 900  # of a job
# Children of a process that has imported all and runs no thread. Not forked from this one, which
# may hold threads of OpenMP or OpenCV.
CONTEXT = get_context("forkserver")
READERS = ["dataset.media.audio", "dataset.media.render", "dataset.modalities.frames"]
CONTEXT.set_forkserver_preload([__name__, *READERS])  # what takes seconds to import


def attempt(work: Callable, job: tuple) -> Exception | None:
    """None, or what is wrong: BadInput with the job's files, OSError where it cannot write."""
    files = job[0]
    try:
        with naming(*files, what="cannot be used", but=(OSError,)):
            work(*job)
    except OSError as error:
        if error.filename in map(str, files):
            return BadInput(f"{error.filename}: unreadable ({error.strerror})")
        return error
    except BadInput as problem:
        return problem
    return None


def serve(work: Callable, jobs: Connection) -> None:
    """What a process does: a job after the other, until nobody is there to ask for one."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with suppress(EOFError, BrokenPipeError):
        while True:
            jobs.send(attempt(work, jobs.recv()))


class Worker:
    """A process that works off jobs. It is started with the first, and anew where one ends it."""

    process: BaseProcess | None = None

    def __init__(self, work: Callable):
        self.work = work

    def __call__(self, job: tuple) -> Exception | None:
        if self.process is None:
            self.jobs, there = CONTEXT.Pipe()
            self.process = CONTEXT.Process(target=serve, args=(self.work, there), daemon=True)
            self.process.start()
            there.close()
        try:
            self.jobs.send(job)
            if self.jobs.poll(MOST_SECONDS):
                return self.jobs.recv()
            what = f"takes more than {MOST_SECONDS} s"
        except (EOFError, OSError):
            self.process.join()
            what = f"ended its process ({how_ended(self.process.exitcode)})"
        self.stop()
        return BadInput(f"{', '.join(map(str, job[0]))}: {what}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.jobs.close()
            self.process = None


def how_ended(status: int) -> str:
    if status == -signal.SIGKILL:
        return "SIGKILL, perhaps for its memory"
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def work_off(work: Callable, jobs: Iterable[tuple], processes: int) -> Iterator[BadInput | None]:
    """For each job, in order, None or what is wrong with its files. Raises OSError where nothing
    can be written.

    Files are complete or not there, so no process need end its work where this one is interrupted.
    """
    # a Ctrl-C is for us, not for the children, who inherit what this thread, any thread, blocks
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    forkserver.ensure_running()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    workers = [Worker(work) for _ in range(processes)]
    idle: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def outcome(job: tuple) -> Exception | None:
        worker = idle.get()
        try:
            return worker(job)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(processes)
    try:
        for problem in threads.map(outcome, jobs):
            if isinstance(problem, OSError):
                raise problem
            yield problem
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            if worker.process is not None:
                worker.process.kill()
        threads.shutdown()  # each has seen that its process is gone
        for worker in workers:
            worker.stop()
