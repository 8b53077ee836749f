"""What a step, the loader and an epoch cost, beside the published procedure.

python benchmark.py                         everything, some minutes on a CPU
python benchmark.py --only step --rounds 30 --json step.json

All arms run in one process, one after the other in every round, so that a busy machine slows all of
them alike; a ratio is the median over the rounds. The floor of an exact step is 5/3 of a joint one:
one forward pass (1 F) and two backward passes of every encoder (2 x 2 F), against 1 F + 2 F.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dataset._cache import open_cache
from dataset._loader import Batches, BatchSampler, SampleDataset, build_readers, collate
from dataset._samples import Sample
from methods import ForwardPass, Method
from mmpareto import integrate
from models.metrics import branch_losses
from models.multimodal import MultimodalModel
from training import precision
from training.messages import align
from training.options import check_needs, choose_device
from utils import registry, run_folder
from utils.atomic import write_text
from utils.command import Parser, count, natural
from utils.errors import BadInput, run_command
from utils.machine import usable_cpus

FLOOR = 5 / 3
CLASSES = 6
CORE = ("joint", "uniform", "pareto", "mmpareto", "published")
PARTS = ("step", "rivals", "integrate", "memory", "loader", "epoch", "sweep")
PICTURE_PIXELS, FRAMES, AUDIO_SHAPE = (360, 480), 8, (1024, 128)  # of a CREMA-D clip


class Arm:
    """A model of its own, its optimizer, and a method."""

    def __init__(self, name: str, options, method: Method):
        torch.manual_seed(0)
        self.name, self.options, self.method = name, options, method
        size, frames = options.image_size, options.frames_per_clip
        shapes = {"audio": (1, size, size), "visual": (frames, 3, size, size)}
        model = MultimodalModel(shapes, CLASSES, fusion=options.fusion)
        model = model.to(options.device)
        self.model = precision.arrange(options, model)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.002, momentum=0.9, weight_decay=1e-4
        )

    def step(
        self, inputs: dict[str, Tensor], target: Tensor, frees_first: bool = True
    ) -> ForwardPass:
        """Returns what a training loop still has bound while the next step is under way.

        frees_first: the last gradients are freed before the forward pass, and not after it.
        """
        if frees_first:
            self.optimizer.zero_grad()
        with precision.autocast(self.options):
            logits, features = self.model(inputs)
            losses = branch_losses(logits, target)
        if not frees_first:
            self.optimizer.zero_grad()
        forward = ForwardPass(losses, logits, features, target, 0)
        self.method.backward(forward, self.model)
        self.method.integrate(self.model)
        self.optimizer.step()
        return forward


def build_arm(name: str, options) -> Arm:
    """A file of methods/ with its default flags, in its first epoch. Raises ValueError or BadInput
    where it does not suit the fusion, or lacks a library."""
    method = registry.load_class("methods", name, "--methods")
    of_a_run = dict(modalities=["audio", "visual"], val_fraction=0.1, accumulate=1, method=name)
    check_needs(method, argparse.Namespace(fusion=options.fusion, **of_a_run))
    arm = Arm(name, options, method())
    batches = [random_batch(options, 0)]
    arm.method.start_epoch(0, arm.model, {"train_plain": batches, "val": batches})
    arm.model.train()
    return arm


def build_arms(options) -> list[Arm]:
    """CORE and `--methods`. Raises BadInput for one that was named and cannot run here."""
    if options.methods == "all":
        more, must_run = registry.names("methods"), CORE
    else:
        more = must_run = [name for name in options.methods.split(",") if name]
    arms = []
    for name in dict.fromkeys([*CORE, *more]):
        try:
            arms.append(build_arm(name, options))
        except (ValueError, BadInput) as reason:
            if name in must_run:
                raise BadInput(f"--methods {name}: {reason}") from None
            print(f"left out, {name}: {reason}")
    return arms


def random_batch(options, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size, n = options.image_size, options.batch_size
    inputs = {
        "audio": torch.randn(n, 1, size, size, generator=generator),
        "visual": torch.randn(n, options.frames_per_clip, 3, size, size, generator=generator),
    }
    target = torch.randint(CLASSES, (n,), generator=generator)
    return {m: x.to(options.device) for m, x in inputs.items()}, target.to(options.device)


def seconds(options, work: Callable) -> float:
    """How long `work()` takes, the device's queue included."""
    if options.device == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    if options.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def interleaved(options, works: dict[str, Callable], rounds: int, warm_up: int = 2) -> dict:
    """{name: seconds of every round}, the order of the arms turning from round to round."""
    times: dict[str, list[float]] = {name: [] for name in works}
    names = list(works)
    for number in range(warm_up + rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            spent = seconds(options, works[name])
            if number >= warm_up:
                times[name].append(spent)
    return times


def median_ratio(over: list[float], under: list[float]) -> float:
    return float(np.median(np.array(over) / np.array(under)))


def row(name: str, times: list[float], extra: list[str]) -> list[str]:
    low, middle, high = np.percentile(times, [25, 50, 75]) * 1e3
    return [name, f"{middle:.1f}", f"{low:.1f} to {high:.1f}", *extra]


def measure_step(options, figures: dict) -> None:
    compare_steps(build_arms(options), options, figures)


def compare_steps(arms: list[Arm], options, figures: dict) -> None:
    """A step of each arm, in turn; "joint" must be among them."""
    batches = [random_batch(options, seed) for seed in range(4)]
    position = dict.fromkeys((arm.name for arm in arms), 0)

    def next_step(arm: Arm) -> None:
        position[arm.name] += 1
        arm.step(*batches[position[arm.name] % len(batches)])

    works = {arm.name: lambda arm=arm: next_step(arm) for arm in arms}
    times = interleaved(options, works, options.rounds)
    for arm in arms:
        figures[f"step.{arm.name}"] = float(np.median(times[arm.name]))
    for over, under in (("mmpareto", "joint"), ("published", "mmpareto")):
        if {over, under} <= times.keys():
            ratio = median_ratio(times[over], times[under])
            figures[f"ratio.{over}_over_{under}"] = ratio
    table = [["step", "ms", "quartiles", "/ joint", "/ floor"]]
    for arm in arms:
        ratio = median_ratio(times[arm.name], times["joint"])
        table.append(row(arm.name, times[arm.name], [f"{ratio:.3f}", f"{ratio / FLOOR:.3f}"]))
    print(f"\n{align(table)}")


class TorchJDPerEncoder(Method):
    """MGDA by TorchJD, called once for each encoder: the least-norm weights, as conventional Pareto
    has them."""

    def backward(self, forward, model):
        from torchjd.aggregation import MGDA
        from torchjd.autojac import backward, jac_to_grad

        for modality, encoder in model.encoders.items():
            losses = [forward.losses["multimodal"], forward.losses[modality]]
            parameters = list(encoder.parameters())
            backward(losses, inputs=parameters, retain_graph=True, parallel_chunk_size=1)
            jac_to_grad(parameters, MGDA())
        others = [*model.fusion.parameters(), *model.heads.parameters()]
        sum(forward.losses.values()).backward(inputs=others)


class TorchJDMultiTask(Method):
    """MGDA by TorchJD's `mtl_backward`: all encoders as one trunk, all losses as its tasks."""

    def backward(self, forward, model):
        from torchjd.aggregation import MGDA
        from torchjd.autojac import jac_to_grad, mtl_backward

        shared = list(model.encoders.parameters())
        heads = [list(model.fusion.parameters())]
        heads += [list(model.heads[modality].parameters()) for modality in model.encoders]
        losses, features = list(forward.losses.values()), list(forward.features.values())
        parameters = dict(tasks_params=heads, shared_params=shared)
        mtl_backward(losses, features, **parameters, parallel_chunk_size=1)
        jac_to_grad(shared, MGDA())


class TorchJDGramian(Method):
    """MGDA by TorchJD's autogram engine: inner products without gradients, then one backward pass
    of the weighted losses. All encoders have the same weights."""

    def backward(self, forward, model):
        from torchjd.aggregation import MGDAWeighting

        losses = torch.stack(list(forward.losses.values()))
        losses.backward(MGDAWeighting()(self._engine.compute_gramian(losses)))

    def start_epoch(self, epoch, model, loaders, seed=0):
        from torchjd.autogram import Engine

        self._engine = Engine(*model.encoders.values(), batch_dim=None)  # it watches forward passes


RIVALS = {
    "torchjd_per_encoder": TorchJDPerEncoder,
    "torchjd_mtl_backward": TorchJDMultiTask,
    "torchjd_autogram": TorchJDGramian,
}


def measure_rivals(options, figures: dict) -> None:
    """Least-norm weights by TorchJD, each of its three ways, beside ours and the published code.

    Its losses are back-propagated one after the other, which is faster on a CPU than its default.
    """
    arms = [build_arm(name, options) for name in ("joint", "pareto", "mmpareto", "published")]
    try:
        import torchjd.autogram  # noqa: F401
    except ImportError:
        print("left out, rivals: needs TorchJD, pip install torchjd")
        return
    for name, method in RIVALS.items():
        arm = Arm(name, options, method())
        arm.method.start_epoch(0, arm.model, {})
        arm.model.train()
        arms.append(arm)
    compare_steps(arms, options, figures)


def measure_integrate(options, figures: dict) -> None:
    """What follows the backward passes, for one encoder whose two gradients agree or oppose."""
    encoder = build_arms(options)[0].model.encoders["audio"]
    like = {
        "ResNet-18": list(encoder.parameters()),
        "400 tensors of 50": [torch.empty(50, device=options.device)] * 400,
    }
    times: dict[str, list[float]] = {}
    for number in range(2 + options.rounds):
        for name, tensors in like.items():
            for kind, lean in (("agreeing", 0.5), ("in conflict", -0.5)):
                first = [torch.randn_like(x) for x in tensors]
                second = [lean * g + torch.randn_like(g) for g in first]
                spent = seconds(options, lambda pair=[first, second]: integrate(pair))
                if number >= 2:
                    times.setdefault(f"{name}, {kind}", []).append(spent)
    table = [["integrate", "ms", "quartiles", "/ agreeing"]]
    for name, spent in times.items():
        agreeing = times[f"{name.rsplit(', ', 1)[0]}, agreeing"]
        figures[f"integrate.{name}"] = float(np.median(spent))
        table.append(row(name, spent, [f"{median_ratio(spent, agreeing):.3f}"]))
    print(f"\n{align(table)}")


def peak_bytes(options, work: Callable) -> int:
    """Most memory that `work()` has allocated at once, beyond what was there before."""
    if options.device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True, acc_events=True) as profile:
        work()
    with tempfile.TemporaryDirectory() as folder:
        profile.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(f"{folder}/trace.json").read_text())["traceEvents"]
    changes = [(e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]"]
    return int(np.cumsum([size for _, size in sorted(changes)]).max())


LOOPS = {  # where a loop of several steps has its optimizer.zero_grad()
    "memory": ("zero_grad after the forward pass, as in examples/", False),
    "memory_freed_first": ("zero_grad before the forward pass, as in train.py", True),
}


def measure_memory(options, figures: dict) -> None:
    """The peak of a loop, whose losses live on while the next forward pass runs: a step by itself
    would not show what they hold."""
    batches = [random_batch(options, seed) for seed in range(3)]

    def loop(arm: Arm, frees_first: bool) -> None:
        for batch in batches:
            kept = arm.step(*batch, frees_first)  # noqa: F841

    arms = build_arms(options)
    encoders = arms[0].model.encoder_parameters().values()
    copy = figures["memory.encoder_gradients"] = sum(p.nbytes for ps in encoders for p in ps)
    for arm in arms:
        arm.step(*batches[0])  # afterwards the optimizer has its state
    for key, (title, frees_first) in LOOPS.items():
        for arm in arms:
            arm.optimizer.zero_grad()
            peak = peak_bytes(options, lambda arm=arm, first=frees_first: loop(arm, first))
            figures[f"{key}.{arm.name}"] = peak
            arm.optimizer.zero_grad()
        table = [[title, "MB", "/ uniform", "beyond it, in copies of the encoders' gradients"]]
        uniform = figures[f"{key}.uniform"]
        for arm in arms:
            peak = figures[f"{key}.{arm.name}"]
            beyond = f"{(peak - uniform) / copy:+.2f}"
            table.append([arm.name, f"{peak / 1e6:.1f}", f"{peak / uniform:.3f}", beyond])
        print(f"\n{align(table)}")


def make_set(root: Path, clips: int) -> list[str]:
    """A prepared set in CREMA-D's format and sizes; beyond 64 clips the files are linked."""
    ids = [f"clip{i:05d}" for i in range(clips)]
    (root / "audio").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, name in enumerate(ids):
        folder, sound = root / "visual" / name, root / "audio" / f"{name}.pt"
        folder.mkdir(parents=True)
        if i >= 64:
            os.link(root / "audio" / f"{ids[i % 64]}.pt", sound)
            for file in (root / "visual" / ids[i % 64]).iterdir():
                os.link(file, folder / file.name)
            continue
        torch.save(torch.from_numpy(rng.normal(size=AUDIO_SHAPE).astype(np.float32)), sound)
        coarse = rng.integers(0, 255, (45, 60, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, PICTURE_PIXELS[::-1], interpolation=cv2.INTER_CUBIC)
        for number in range(1, FRAMES + 1):
            cv2.imwrite(str(folder / f"frame_{number:05d}.jpg"), np.roll(picture, 4 * number, 1))
    return ids


def published_item(root: Path, clip: str, image_size: int = 224) -> tuple[Tensor, Tensor]:
    """Filter bank (1, T, F) and two frames (2, 3, S, S) as the published loader reads them.

    For training: one random frame of each half of the clip, RandomResizedCrop, flip, ImageNet
    normalisation, all on one frame at a time.
    """
    from torchvision import transforms  # here: it asks for the user's name, see utils/machine

    picture = transforms.Compose(
        [
            transforms.RandomResizedCrop(image_size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    sound = torch.load(root / "audio" / f"{clip}.pt", weights_only=True).unsqueeze(0)
    folder = root / "visual" / clip
    half = len(list(folder.iterdir())) // 2
    frames = []
    for i in range(2):
        number = random.randint(i * half + 1, (i + 1) * half)
        image = Image.open(folder / f"frame_{number:05d}.jpg").convert("RGB")
        frames.append(picture(image).unsqueeze(0))
    return sound, torch.cat(frames)


class PublishedItems(torch.utils.data.Dataset):
    """The published data set: (filter bank, frames, class) of each clip."""

    def __init__(self, root: Path, ids: list[str], image_size: int):
        self.root, self.ids, self.image_size = root, ids, image_size

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, int]:
        return *published_item(self.root, self.ids[i], self.image_size), i % CLASSES


def our_items(options, root: Path, ids: list[str], augment: str) -> SampleDataset:
    kinds = {"audio": "spectrogram", "visual": "frames"}
    flags = dict(image_size=options.loader_pixels, frames_per_clip=2, augment=augment)
    readers = build_readers(kinds, root, True, flags)
    for reader in readers.values():
        reader.packed = open_cache(reader, ids, root / "cache", options.num_workers)
    samples = [Sample(name, i % CLASSES) for i, name in enumerate(ids)]
    return SampleDataset(samples, readers, seed=0)


def measure_loader(options, root: Path, ids: list[str], figures: dict) -> None:
    """Items per second of one core, stacked to batches, without worker processes."""
    n, threads = min(len(ids), 48), torch.get_num_threads()
    chosen = random.Random(0).sample(range(len(ids)), n)

    def load(item: Callable, stack: Callable) -> None:
        for first in range(0, n, options.batch_size):
            stack([item(i) for i in chosen[first : first + options.batch_size]])

    published = PublishedItems(root, ids, options.loader_pixels)
    cached, device = (our_items(options, root, ids, where) for where in ("loader", "device"))
    default = torch.utils.data.default_collate
    works = {
        "published": lambda: load(lambda i: published[i], default),
        "cached": lambda: load(lambda i: cached[0, i], collate),
        "device": lambda: load(lambda i: device[0, i], collate),
    }
    torch.set_num_threads(1)
    times = interleaved(options, works, max(5, options.rounds // 2))
    torch.set_num_threads(threads)
    table = [["loader, one core", "items per s", "ms per item", "/ published"]]
    for name, spent in times.items():
        rate = figures[f"loader.{name}"] = n / float(np.median(spent))
        ratio = figures[f"ratio.loader_{name}_over_published"] = median_ratio(
            times["published"], spent
        )
        table.append([name, f"{rate:.0f}", f"{1e3 / rate:.2f}", f"{ratio:.1f}"])
    print(
        f"\n{align(table)}\nan item: 2 of {FRAMES} frames of {PICTURE_PIXELS[1]} x "
        f"{PICTURE_PIXELS[0]}, cropped to {options.loader_pixels}, and a {AUDIO_SHAPE} filter "
        "bank; device: crops made on the device, not counted here"
    )


def train_through(arm: Arm, batches, waits: dict[str, float], name: str) -> None:
    """A step on each of `batches`; waits[name]: the seconds spent on waiting for the next."""
    waits[name], iterator = 0.0, iter(batches)
    while True:
        begun = time.perf_counter()
        batch = next(iterator, None)
        waits[name] += time.perf_counter() - begun
        if batch is None:
            return
        arm.step(*batch)


def measure_epoch(options, root: Path, ids: list[str], figures: dict) -> None:
    """An epoch of training, loader included; `waiting` = share of it spent on the next batch."""

    def our_batches(augment: str) -> Batches:
        sampler = BatchSampler(len(ids), options.batch_size, 0, shuffle=True)
        items = our_items(options, root, ids, augment)
        return Batches(items, sampler, options.device, options.num_workers)

    published_loader = torch.utils.data.DataLoader(
        PublishedItems(root, ids, options.loader_pixels),
        batch_size=options.batch_size,
        shuffle=True,
        num_workers=options.num_workers,
        persistent_workers=options.num_workers > 0,
        pin_memory=options.device == "cuda",
    )

    class PublishedBatches:
        def __iter__(self):
            for sound, pictures, target in published_loader:
                inputs = {"audio": sound.to(options.device), "visual": pictures.to(options.device)}
                yield inputs, target.to(options.device)

    batches = {"ours": our_batches("loader"), "published": PublishedBatches()}
    if options.device == "cuda":
        batches["ours, device"] = our_batches("device")
    waits: dict[str, float] = {}
    works = {}
    for name, source in batches.items():
        arm = build_arm("published" if name == "published" else "mmpareto", options)
        works[name] = partial(train_through, arm, source, waits, name)
    times = interleaved(options, works, options.epochs, warm_up=1)
    table = [["epoch", "s", "clips per s", "waiting for data", "published / it"]]
    for name, spent in times.items():
        seconds_each, share = float(np.median(spent)), waits[name] / spent[-1]
        ratio, key = median_ratio(times["published"], spent), name.replace(", ", "_")
        figures[f"epoch.{key}"], figures[f"waiting.{key}"] = seconds_each, share
        figures[f"ratio.epoch_published_over_{key}"] = ratio
        rate = f"{len(ids) / seconds_each:.1f}"
        table.append([name, f"{seconds_each:.2f}", rate, f"{100 * share:.0f} %", f"{ratio:.2f}"])
    print(
        f"\n{align(table)}\n{len(ids)} clips, frames of {options.loader_pixels} pixels, sound "
        f"{AUDIO_SHAPE}, {options.num_workers} loader processes, MMPareto"
    )


def measure_sweep(options, figures: dict) -> None:
    """A run of some seconds by itself, and behind others in a sweep: `--rounds` of each."""
    with tempfile.TemporaryDirectory() as folder:
        data, runs = Path(folder, "data"), Path(folder, "runs")
        make_arrays(data, {"train": 400, "test": 100})
        flags = ["--dataset", "folder", "--data_root", str(data), "--ckpt_path", str(runs)]
        flags += ["--encoder", "cnn", "--epochs", "2"]
        seeds = ",".join(map(str, range(options.rounds + 1)))
        start("sweep", *flags, "--methods", "mmpareto", "--seeds", seeds)
        ends = sorted(file.stat().st_mtime for file in runs.glob("data-*/overview.png"))
        in_sweep, alone = np.diff(ends).tolist(), []
        for number in range(options.rounds):
            begun = time.perf_counter()
            start("train", *flags, "--run_name", f"{number}")
            alone.append(time.perf_counter() - begun)
    ratio = float(np.median(in_sweep) / np.median(alone))
    figures |= {"sweep.in_sweep": np.median(in_sweep), "sweep.alone": np.median(alone)}
    rows = [["run of 2 epochs of 400 samples", "ms", "quartiles", "/ alone"]]
    rows += [row("alone", alone, ["1.000"]), row("in a sweep", in_sweep, [f"{ratio:.3f}"])]
    print(f"\n{align(rows)}", flush=True)


def make_arrays(root: Path, samples: dict[str, int]) -> None:
    """A data folder of random arrays (16, 16), of two modalities."""
    generator = np.random.default_rng(0)
    for modality in ("a", "b"):
        (root / modality).mkdir(parents=True)
    for part, count_of_part in samples.items():
        ids = [f"{part}{number}" for number in range(count_of_part)]
        for modality, sample_id in itertools.product(("a", "b"), ids):
            np.save(root / modality / sample_id, generator.random((16, 16), np.float32))
        lines = [f"{sample_id},{number % CLASSES}\n" for number, sample_id in enumerate(ids)]
        (root / f"{part}.csv").write_text("".join(lines))


def start(command: str, *flags: str) -> None:
    """Runs a command of this folder, in a process of its own."""
    script = str(registry.CODE / f"{command}.py")
    subprocess.run([sys.executable, script, *flags], check=True, stdout=subprocess.DEVNULL)


def read_options(argv) -> argparse.Namespace:
    parser = Parser("benchmark.py", __doc__)
    add = parser.add_argument
    add("--only", default=",".join(PARTS), metavar="PARTS", help=f"of {','.join(PARTS)}")
    add("--batch_size", type=count, default=16)
    add("--image_size", type=count, default=112, help="pixels of both pictures in step and memory")
    add("--frames_per_clip", type=count, default=1, help="frames of a clip in step and memory")
    add("--methods", default="", metavar="A,B", help="more arms of step and memory, or all")
    add("--fusion", default="concat", metavar="NAME", help="in step and memory")
    add("--loader_pixels", type=count, default=224, help="pixels of a frame in loader and epoch")
    add("--clips", type=count, default=64, help="in loader, epoch; CREMA-D's training split: 6698")
    add("--rounds", type=count, default=12, help="measured, after 2 to warm up")
    add("--epochs", type=count, default=2, help="measured, after 1 to warm up")
    add("--num_workers", type=natural, default=max(1, min(8, usable_cpus() - 1)))
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--amp", choices=("off", "bf16"), default="off")
    add("--tf32", action="store_true")
    add("--compile", action="store_true")
    add("--channels_last", action=argparse.BooleanOptionalAction, help="default: as train.py")
    add("--json", type=Path, metavar="PATH", help="write the figures here")
    parser.set_defaults(gpu_ids=None, sync_batchnorm=False)
    options = parser.parse_args(argv)
    options.only = options.only.split(",")
    if not set(options.only) <= set(PARTS):
        raise BadInput(f"--only {','.join(options.only)}: choose from {','.join(PARTS)}")
    if options.clips < options.batch_size:
        raise BadInput(
            f"--clips {options.clips}: must be at least the batch size {options.batch_size}"
        )
    options.device = choose_device(options)
    precision.resolve(options)
    return options


def main(argv=None) -> None:
    options = read_options(argv)
    precision.prepare(options)
    environment = run_folder.environment()
    hardware = environment["gpu" if options.device == "cuda" else "cpu"]
    print(
        f"{hardware}, torch {environment['torch']}, commit {environment['commit']}, batch "
        f"{options.batch_size}, {options.image_size} pixels, amp {options.amp}",
        flush=True,
    )
    figures: dict[str, float] = {}
    for part, measure in MEASURES.items():
        if part in options.only:
            measure(options, figures)
    with tempfile.TemporaryDirectory() as folder:
        ids: list[str] = []
        for part, measure in MEASURES_WITH_FILES.items():
            if part in options.only:
                ids = ids or make_set(Path(folder), options.clips)
                measure(options, Path(folder), ids, figures)
    if options.json:
        settings = {k: v for k, v in vars(options).items() if k != "json"}
        content = figures | {"environment": environment, "settings": settings}
        write_text(options.json, json.dumps(content, indent=1))


MEASURES = {
    "step": measure_step,
    "rivals": measure_rivals,
    "integrate": measure_integrate,
    "memory": measure_memory,
    "sweep": measure_sweep,
}
MEASURES_WITH_FILES = {"loader": measure_loader, "epoch": measure_epoch}

if __name__ == "__main__":
    run_command(main)
