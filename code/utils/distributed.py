"""Several processes, one run: `torchrun --nproc_per_node=N train.py ...`; alone, all is a no-op.

Every process computes the same step on its share of the batch. What is summed over them is the
gradient of each loss, before a method decides anything, so all decide alike.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.errors import BadInput, advice, leave

SAY_AFTER_S = 5  # for whom a process waits
GIVE_UP_AFTER_S = 600  # of a cluster, some may start minutes later than others
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}  # what is agreed on waits for no GPU
MEETING = ("MASTER_ADDR", "MASTER_PORT")


class Place(NamedTuple):
    """Where a process stands among those of a run; alone unless it is said."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


def place() -> Place:
    """This process's place, as torchrun's variables in the environment say.

    Raises BadInput where some of them are missing, or do not fit each other: they may be left over
    from something else.
    """
    names = [name.upper() for name in Place._fields]
    given = {name: os.environ[name] for name in names if os.environ.get(name)}

    def refuse(problem: str):
        raise BadInput(
            f"{problem}; unset {' '.join(given)} to train in one process, or start several with "
            "NPROC=2 sh script/... or torchrun, which sets them all"
        )

    for name, value in given.items():
        if not value.isdecimal():
            refuse(f"{name}={value}: must be a number")
    here = Place(**{name.lower(): int(value) for name, value in given.items()})
    if here == Place():
        return here
    if missing := [name for name in (*names, *MEETING) if not os.environ.get(name)]:
        there = ", ".join(f"{name}={value}" for name, value in given.items())
        refuse(f"the environment has {there}, but not {', '.join(missing)}")
    rank, size, local_rank, local_size = here
    port = os.environ["MASTER_PORT"]
    for name, fits, rule in (
        ("RANK", rank < size, f"must be below WORLD_SIZE={size}"),
        ("LOCAL_WORLD_SIZE", local_size <= size, f"must be at most WORLD_SIZE={size}"),
        ("LOCAL_RANK", local_rank < local_size, f"must be below LOCAL_WORLD_SIZE={local_size}"),
        ("LOCAL_RANK", local_rank <= rank, f"must be at most RANK={rank}"),
        ("MASTER_PORT", port.isdecimal() and 0 < int(port) < 2**16, "must be a port"),
    ):
        if not fits:
            refuse(f"{name}={os.environ[name]}: {rule}")
    return here


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """The first process: it alone prints and writes."""
    return rank() == 0


def local_world_size() -> int:
    """Processes of the run on this machine; 1 where the environment is refused, as `place` says."""
    try:
        return place().local_world_size
    except BadInput:
        return 1


def card(gpu_ids: str | None) -> int:
    """The GPU of this process among those that CUDA shows it: a scheduler may have left it some.

    gpu_ids: as `--gpu_ids`, one for each process; None: the first ones. Raises BadInput where there
    is no such GPU.
    """
    there, local = torch.cuda.device_count(), place().local_rank
    if gpu_ids is not None and (beyond := [i for i in gpu_ids.split(",") if int(i) >= there]):
        shown = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
        raise BadInput(
            f"--gpu_ids {gpu_ids}: there is no {', '.join(beyond)} among the GPUs that this "
            f"process may use, 0 to {there - 1} (CUDA_VISIBLE_DEVICES: {shown})"
        )
    if local >= there:
        raise BadInput(
            f"{local_world_size()} processes: {there} GPUs are visible; start as many as GPUs"
        )
    return local if gpu_ids is None else int(gpu_ids.split(",")[local])


def seed_of_process() -> list[int]:
    """What the others add to the position of a seed; the first draws as a process alone does."""
    return [] if is_main() else [rank()]


def start(device: str, run_name: str, gpu_ids: str | None = None) -> str:
    """Takes this process's GPU, and joins the processes that torchrun started: gloo on a CPU, NCCL
    on GPUs.

    Returns the run's name, that of the first process in all. Raises BadInput where the others do
    not come or cannot be reached.
    """
    global waiting
    here = place()
    if device == "cuda":
        torch.cuda.set_device(card(gpu_ids))
    if here.world_size == 1:
        return run_name
    if device not in BACKENDS:
        raise BadInput(f"--device {device}: trains in one process; use --device cpu for several")
    store = meet(here)
    signal.signal(signal.SIGTERM, stop)  # torchrun sends it when a process has ended
    if here.rank > 0:
        sys.stdout = open(os.devnull, "w")  # what all would print, one prints
    try:
        dist.init_process_group(BACKENDS[device], None, None, here.world_size, here.rank, store)
        waiting = dist.new_group(backend="gloo", timeout=timedelta(days=7))
    except RuntimeError as error:
        raise BadInput(
            f"process {here.rank}: cannot reach the others ({str(error).splitlines()[0]}); see "
            "that MASTER_ADDR, and GLOO_SOCKET_IFNAME if it is set, suit every machine"
        ) from None
    names = [run_name]
    with loss_of_a_process():
        dist.broadcast_object_list(names)
    return names[0]


def meet(here: Place) -> dist.Store:
    """What the processes of a run share, once all are there; says after a while who is missing.

    Raises BadInput where somebody is missing after GIVE_UP_AFTER_S.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    hosts = here.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    begun, is_said, store, missing = time.monotonic(), False, None, [0]
    try:
        while missing:
            if store is None and (hosts or is_open(address, port)):
                timeout = timedelta(seconds=SAY_AFTER_S)
                store = dist.TCPStore(address, port, None, hosts, timeout, wait_for_workers=False)
                attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
                store = dist.PrefixStore(f"mmpareto {attempt}", store)
                if store.add(f"{here.rank}", 1) > 1:
                    raise BadInput(f"RANK={here.rank}: two processes have it; give each its own")
            if store is not None:
                missing = [r for r in range(here.world_size) if not store.check([f"{r}"])]
            waited = time.monotonic() - begun
            ranks = f"{', '.join(map(str, missing[:8]))}{' ...' if len(missing) > 8 else ''}"
            whom = f"process {ranks} of {here.world_size} at {address}:{port}"
            if missing and waited > GIVE_UP_AFTER_S:
                raise BadInput(
                    f"process {here.rank}: waited {GIVE_UP_AFTER_S} s for {whom}; start them all "
                    f"with torchrun, or unset {' '.join(name.upper() for name in Place._fields)}"
                )
            if missing and waited > SAY_AFTER_S and not is_said:
                is_said = True
                print(f"process {here.rank}: waits for {whom}", file=sys.stderr, flush=True)
            if missing:
                time.sleep(0.1)
    except RuntimeError as error:
        cause = str(error).splitlines()[0]
        raise BadInput(
            f"process {here.rank}: cannot meet the others at {address}:{port} ({cause}); choose "
            "another MASTER_PORT, or see whether one of them has ended"
        ) from None
    return store


def is_open(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except (OSError, UnicodeError):  # or a name that cannot be one
        return False
    return True


def stop(number=None, frame=None) -> None:
    """Ends this process because another one of the run has ended. Files are complete or not there,
    so it may happen anywhere."""
    ended = f"process {place().rank}: stops, another process of the run has ended"
    print(ended, *advice, sep="; ", file=sys.stderr)
    leave(3)


def end() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def main_first():
    """The first process does this alone, then the others: they find what it has written."""
    if world_size() > 1 and not is_main():
        wait_for_all()
    yield
    if world_size() > 1 and is_main():
        wait_for_all()


@contextmanager
def loss_of_a_process():
    """A collective fails when a process is gone."""
    try:
        yield
    except RuntimeError:
        stop()


waiting: dist.ProcessGroup | None = None  # the first may work for hours while the others wait


def wait_for_all() -> None:
    with loss_of_a_process():
        dist.barrier(waiting)


def gather(values: list) -> list:
    """The lists of all processes, joined, in all."""
    if world_size() == 1:
        return values
    lists: list[list] = [[] for _ in range(world_size())]
    with loss_of_a_process():
        dist.all_gather_object(lists, values)
    return [value for each in lists for value in each]


def completed(tables: list[dict[Tensor, Tensor]], parameters: list[Tensor]) -> list[Tensor]:
    """The gradients in `tables`, each {parameter: gradient}, in one order for all processes.

    Where only another process has a gradient, as where layers are dropped at random, zeros are put
    into the table.
    """
    present = [
        (t, i) for t, table in enumerate(tables) for i, p in enumerate(parameters) if p in table
    ]
    positions = sorted(set(gather(present)))
    for t, i in positions:
        if parameters[i] not in tables[t]:
            tables[t][parameters[i]] = torch.zeros_like(parameters[i])
    return [tables[t][parameters[i]] for t, i in positions]


def sum_over_processes(tensors: list[Tensor]) -> None:
    """Sums `tensors` over the processes, in place.

    One flat bucket per dtype, so one collective in place of one per tensor. All processes must give
    the same shapes in the same order.
    """
    if world_size() == 1:
        return
    for dtype in dict.fromkeys(t.dtype for t in tensors):
        members = [t for t in tensors if t.dtype == dtype]
        flat = torch.cat([t.flatten() for t in members])
        with loss_of_a_process():
            dist.all_reduce(flat)
        parts = flat.split([t.numel() for t in members])
        torch._foreach_copy_(members, [x.view(t.shape) for x, t in zip(parts, members)])


def average_buffers(model: nn.Module) -> None:
    """Running statistics of the normalisation: each process saw its share, all keep the mean."""
    if world_size() > 1:
        buffers = [b for b in model.buffers() if b.is_floating_point()]
        if buffers:
            sum_over_processes(buffers)
            torch._foreach_div_(buffers, world_size())
