"""What a run writes down while it trains: steps.jsonl, metrics.jsonl, times.jsonl and TensorBoard
events."""

from __future__ import annotations

import math
import resource
import sys
import time
from argparse import Namespace
from pathlib import Path

import torch
from torch import Tensor

from utils import distributed
from utils.atomic import append, write_text
from utils.errors import BadInput
from utils.run_folder import read_jsonl, sealed

FLUSH_EVERY = 50  # steps between two waits for the device
# Why a value is not finite: in a later step, and in the first, before which nothing was changed
DIVERGED = "the model has diverged. Try a smaller --learning_rate or --clip_grad"
UNTRAINED = "nothing has been trained yet, so it is the encoders or their initial weights"
# One page of TensorBoard ("Custom Scalars") that tells the paper's story: {chart: tags}
STORY = {
    "accuracy of each branch": r"test/accuracy/.*",
    "cosine between multimodal and unimodal gradient": r"cosine/.*",
    "conflicts per epoch": r"conflict_rate/.*",
    "weights": r"weight/.*",
    "magnitude restored by": r"scale/.*",
    "norm of the gradients": r"norm/.*",
    "losses": r"loss/.*",
}


class Diverged(BadInput):
    """A loss or gradient became inf or nan, in a model that had been trained."""


class Recorder:
    """Appends a line per step and per epoch; on resume it drops what lies after `first_epoch`.

    Step diagnostics stay on the device until FLUSH_EVERY steps have gathered: one copy for all.
    Only the first of several processes records.
    """

    def __init__(self, folder: Path, first_epoch: int, first_step: int, options: Namespace):
        self.folder, self.step, self.pending = folder, first_step, []
        self.cosines: dict[str, list[float]] = {}  # of the epoch that runs
        self.finds_loss_scale = options.amp == "fp16"  # now and then gradients overflow meanwhile
        self.writes, self.writer = distributed.is_main(), None
        if not self.writes:
            return
        self.since = time.monotonic()
        names = ("steps.jsonl", "metrics.jsonl", "times.jsonl")
        kept = {name: read_jsonl(folder / name, first_epoch) for name in names}
        for name, key, count in zip(names, ("step", "epoch"), (first_step, first_epoch)):
            if [record.get(key) for record in kept[name]] != list(range(count)):
                raise BadInput(
                    f"{folder / name}: does not hold {key}s 0 to {count - 1}, each once, which "
                    "last.pt has behind it; restore the file, or begin again under another "
                    "--run_name"
                )
        for name, records in kept.items():
            text = "".join(sealed(record) + "\n" for record in records)
            if not (folder / name).is_file() or (folder / name).read_bytes() != text.encode():
                write_text(folder / name, text)
        if options.tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # half a second that not all need

            self.writer = SummaryWriter(folder, purge_step=first_step)
            charts = {title: ["Multiline", [tags]] for title, tags in STORY.items()}
            self.writer.add_custom_scalars({"MMPareto": charts})

    def add_step(
        self,
        epoch: int,
        losses: dict[str, Tensor],
        diagnostics: dict[str, Tensor],
        loss_scale: Tensor,
    ) -> None:
        """All are 0-d tensors. loss_scale: what the norms in `diagnostics` are divided by."""
        self.step += 1
        if not self.writes:
            return
        values = {f"loss/{branch}": loss for branch, loss in losses.items()}
        for name, value in diagnostics.items():
            values[name] = value / loss_scale if name.startswith("norm/") else value
        stacked = torch.stack([value.detach().float() for value in values.values()])
        self.pending.append((epoch, self.step - 1, list(values), stacked))
        if len(self.pending) >= FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Writes what is pending. Raises Diverged naming epoch, step and the first bad value;
        BadInput where it was the first step."""
        if not self.pending:
            return
        numbers = iter(torch.cat([stacked for *_, stacked in self.pending]).tolist())
        lines, bad = [], None
        for epoch, step, names, _ in self.pending:
            values = {name: next(numbers) for name in names}
            if self.finds_loss_scale and not all(map(math.isfinite, values.values())):
                values = {k: v for k, v in values.items() if k.startswith("loss/")}
            lines.append(sealed({"epoch": epoch, "step": step} | values) + "\n")
            for name, value in values.items():
                if self.writer:
                    self.writer.add_scalar(name, value, step)
                if name.startswith("cosine/"):
                    self.cosines.setdefault(name.split("/", 1)[1], []).append(value)
                if bad is None and not math.isfinite(value):
                    bad = f"{name} is {value} at epoch {epoch}, step {step}: the run stops here"
                    holds = "last.pt holds the epoch before" if epoch else "no epoch was completed"
                    error, cause = (Diverged, DIVERGED) if step else (BadInput, UNTRAINED)
        self.pending = []
        append(self.folder / "steps.jsonl", "".join(lines))
        if bad:
            raise error(
                f"{bad}; {holds}. The inputs are not at fault, each is checked when it is read: "
                f"{cause}"
            )

    def add_epoch(self, epoch: int, values: dict[str, float]) -> None:
        """One line of metrics.jsonl; keys such as "test/accuracy/multimodal"."""
        if not self.writes:
            return
        self.flush()
        line = sealed({"epoch": epoch, "step": self.step} | values)
        append(self.folder / "metrics.jsonl", f"{line}\n")
        now = time.monotonic()
        cost = {"seconds": round(now - self.since, 3), "peak_mb": round(peak_memory_mb())}
        append(self.folder / "times.jsonl", sealed({"epoch": epoch} | cost) + "\n")
        self.since = now
        rates = {
            f"conflict_rate/{encoder}": sum(c <= 0 for c in cosines) / len(cosines)
            for encoder, cosines in self.cosines.items()
        }
        self.cosines = {}
        if self.writer:
            for name, value in (values | rates).items():
                self.writer.add_scalar(name, value, self.step)
            self.writer.flush()


def peak_memory_mb() -> float:
    """The most memory so far: of tensors on the GPU where one is used, else of this process."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e6
    if sys.platform == "linux":  # where getrusage counts what this process was started from, too
        lines = Path("/proc/self/status").read_text().splitlines()
        (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
        return int(peak) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
