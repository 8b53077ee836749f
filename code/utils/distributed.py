"""Several processes, one run: `torchrun --nproc_per_node=N train.py ...`; alone, all is a no-op.

Every process computes the same step on its share of the batch. What is summed over them is the
gradient of each loss, before a method decides anything, so all decide alike.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.errors import BadInput, advice, leave


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def local_world_size() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def is_main() -> bool:
    """The first process: it alone prints and writes."""
    return rank() == 0


def seed_of_process() -> list[int]:
    """What the others add to the position of a seed; the first draws as a process alone does."""
    return [] if is_main() else [rank()]


def start(device: str, run_name: str) -> str:
    """Joins the processes that torchrun started: gloo on a CPU, NCCL on GPUs.

    Returns the run's name, that of the first process in all. Raises BadInput where there are fewer
    GPUs than processes.
    """
    if world_size() == 1:
        return run_name
    if device == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise BadInput(
                f"{local_world_size()} processes: {torch.cuda.device_count()} GPUs are visible; "
                "start as many processes as GPUs"
            )
        torch.cuda.set_device(local)
    if not is_main():
        sys.stdout = open(os.devnull, "w")  # what all would print, one prints
    # on GPUs also gloo: what is agreed on does not wait for them
    dist.init_process_group({"cuda": "cpu:gloo,cuda:nccl", "cpu": "gloo"}.get(device, device))
    names = [run_name]
    with loss_of_a_process():
        dist.broadcast_object_list(names)
    signal.signal(signal.SIGTERM, stop)  # torchrun sends it when a process has ended
    return names[0]


def stop(number=None, frame=None) -> None:
    """Ends this process because another one of the run has ended. Files are complete or not there,
    so it may happen anywhere."""
    ended = f"process {rank()}: stops, another process of the run has ended"
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


def wait_for_all() -> None:
    with loss_of_a_process():
        dist.barrier()


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
