"""What a step, the loader, an epoch and the preparation cost, beside the published procedure.

python benchmark.py                         everything, some minutes on a CPU
python benchmark.py --only step --rounds 30 --json step.json

All arms run in one process, one after the other in every round, so that a busy machine slows all of
them alike; a ratio is the median over the rounds. The floor of an exact step is 5/3 of a joint one:
one forward pass (1 F) and two backward passes of every encoder (2 x 2 F), against 1 F + 2 F.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import soundfile
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from dataset._cache import open_cache
from dataset._loader import Batches, BatchSampler, SampleDataset, collate
from dataset._samples import Sample
from dataset.modalities import frames, spectrogram
from dataset.prepare import _preparation as preparation
from dataset.prepare import cremad, demo
from methods import ForwardPass, Method
from mmpareto import integrate
from models.multimodal import MultimodalModel
from training import options, precision
from training.messages import align
from utils import registry, run_folder
from utils.atomic import write_text
from utils.command import parser_of
from utils.errors import BadInput, run

FLOOR = 5 / 3
CLASSES = 6
CORE = ("joint", "uniform", "pareto", "mmpareto", "published")
PARTS = ("step", "integrate", "memory", "loader", "epoch", "preparation")
PICTURE_PIXELS, FRAMES, AUDIO_SHAPE = (360, 480), 8, (1024, 128)  # of a CREMA-D clip


class Arm:
    """A model of its own, its optimizer, and a method."""

    def __init__(self, name: str, args, method: Method):
        torch.manual_seed(0)
        self.name, self.args, self.method = name, args, method
        size, frames = args.image_size, args.frames_per_clip
        shapes = {"audio": (1, size, size), "visual": (frames, 3, size, size)}
        model = MultimodalModel(shapes, CLASSES, fusion=args.fusion)
        model = model.to(args.device)
        self.model = precision.arrange(args, model)
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
        with precision.autocast(self.args):
            logits, features = self.model(inputs)
            losses = {branch: cross_entropy(x, target) for branch, x in logits.items()}
        if not frees_first:
            self.optimizer.zero_grad()
        forward = ForwardPass(losses, logits, features, target, 0)
        self.method.backward(forward, self.model)
        self.method.integrate(self.model)
        self.optimizer.step()
        return forward


def method_arm(name: str, args) -> Arm:
    """A file of methods/ with its default flags, in its first epoch. Raises ValueError or BadInput
    where it does not suit the fusion, or lacks a library."""
    build = registry.load_class("methods", name, "--methods")
    flags = dict(modalities=["audio", "visual"], fusion=args.fusion, val_fraction=0.1, accumulate=1)
    options.check_needs(argparse.Namespace(method=name, **flags), build)
    arm = Arm(name, args, build())
    arm.method.start_epoch(
        0, arm.model, dict.fromkeys(("train_plain", "val"), [random_batch(args, 0)])
    )
    arm.model.train()
    return arm


def build_arms(args) -> list[Arm]:
    """CORE and `--methods`. Raises BadInput for one that was named and cannot run here."""
    named = args.methods.split(",") if args.methods not in ("", "all") else []
    every = registry.names("methods") if args.methods == "all" else named
    arms = []
    for name in dict.fromkeys([*CORE, *every]):
        try:
            arms.append(method_arm(name, args))
        except (ValueError, BadInput) as reason:
            if name in named:
                raise BadInput(f"--methods {name}: {reason}") from None
            print(f"left out, {name}: {reason}")
    return arms


def random_batch(args, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size, n = args.image_size, args.batch_size
    inputs = {
        "audio": torch.randn(n, 1, size, size, generator=generator),
        "visual": torch.randn(n, args.frames_per_clip, 3, size, size, generator=generator),
    }
    target = torch.randint(CLASSES, (n,), generator=generator)
    return {m: x.to(args.device) for m, x in inputs.items()}, target.to(args.device)


def seconds(args, work: Callable) -> float:
    """How long `work()` takes, the device's queue included."""
    if args.device == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    if args.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def interleaved(args, works: dict[str, Callable], rounds: int, warm_up: int = 2) -> dict:
    """{name: seconds of every round}, the order of the arms turning from round to round."""
    times: dict[str, list[float]] = {name: [] for name in works}
    names = list(works)
    for number in range(warm_up + rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            spent = seconds(args, works[name])
            if number >= warm_up:
                times[name].append(spent)
    return times


def median_ratio(over: list[float], under: list[float]) -> float:
    return float(np.median(np.array(over) / np.array(under)))


def row(name: str, times: list[float], extra: list[str]) -> list[str]:
    low, middle, high = np.percentile(times, [25, 50, 75]) * 1e3
    return [name, f"{middle:.1f}", f"{low:.1f} to {high:.1f}", *extra]


def measure_step(args, found: dict) -> None:
    arms = build_arms(args)
    batches = [random_batch(args, seed) for seed in range(4)]
    position = dict.fromkeys((arm.name for arm in arms), 0)

    def next_step(arm: Arm) -> None:
        position[arm.name] += 1
        arm.step(*batches[position[arm.name] % len(batches)])

    works = {arm.name: lambda arm=arm: next_step(arm) for arm in arms}
    times = interleaved(args, works, args.rounds)
    peak = matmul_peak(args)
    for arm in arms:
        found[f"step.{arm.name}"] = float(np.median(times[arm.name]))
    found["ratio.mmpareto_over_joint"] = median_ratio(times["mmpareto"], times["joint"])
    if "published" in times:
        found["ratio.published_over_mmpareto"] = median_ratio(times["published"], times["mmpareto"])
    table = [["step", "ms", "quartiles", "/ joint", "/ floor", "% of matmul peak"]]
    for arm in arms:
        with FlopCounterMode(display=False) as counter:
            arm.step(*batches[0])
        ratio = median_ratio(times[arm.name], times["joint"])
        share = counter.get_total_flops() / found[f"step.{arm.name}"] / peak
        found[f"peak_share.{arm.name}"] = share
        extra = [f"{ratio:.3f}", f"{ratio / FLOOR:.3f}", f"{100 * share:.0f}"]
        table.append(row(arm.name, times[arm.name], extra))
    found["matmul_flops_per_second"] = peak
    print(f"\n{align(table)}")


def measure_integrate(args, found: dict) -> None:
    """What follows the backward passes, for one encoder whose two gradients agree or oppose."""
    encoder = build_arms(args)[0].model.encoders["audio"]
    like = {
        "ResNet-18": list(encoder.parameters()),
        "400 tensors of 50": [torch.empty(50, device=args.device)] * 400,
    }
    times: dict[str, list[float]] = {}
    for number in range(2 + args.rounds):
        for name, tensors in like.items():
            for kind, lean in (("agreeing", 0.5), ("in conflict", -0.5)):
                first = [torch.randn_like(x) for x in tensors]
                second = [lean * g + torch.randn_like(g) for g in first]
                spent = seconds(args, lambda pair=[first, second]: integrate(pair))
                if number >= 2:
                    times.setdefault(f"{name}, {kind}", []).append(spent)
    table = [["integrate", "ms", "quartiles", "/ agreeing"]]
    for name, spent in times.items():
        agreeing = times[f"{name.rsplit(', ', 1)[0]}, agreeing"]
        found[f"integrate.{name}"] = float(np.median(spent))
        table.append(row(name, spent, [f"{median_ratio(spent, agreeing):.3f}"]))
    print(f"\n{align(table)}")


def matmul_peak(args) -> float:
    """FLOP per second of a large matrix product in the format of the step."""
    size = 8192 if args.device == "cuda" else 2048
    dtype = precision.AMP_DTYPES.get(args.amp, torch.float32)
    a, b = (torch.randn(size, size, device=args.device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(seconds(args, lambda: a @ b) for _ in range(5))


def peak_bytes(args, work: Callable) -> int:
    """Most memory that `work()` has allocated at once, beyond what was there before."""
    if args.device == "cuda":
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


def measure_memory(args, found: dict) -> None:
    """The peak of a loop, whose losses live on while the next forward pass runs: a step by itself
    would not show what they hold."""
    batches = [random_batch(args, seed) for seed in range(3)]

    def loop(arm: Arm, frees_first: bool) -> None:
        for batch in batches:
            kept = arm.step(*batch, frees_first)  # noqa: F841

    arms = build_arms(args)
    encoders = arms[0].model.encoder_parameters().values()
    copy = found["memory.encoder_gradients"] = sum(p.nbytes for ps in encoders for p in ps)
    for arm in arms:
        arm.step(*batches[0])  # afterwards the optimizer has its state
    for key, (title, frees_first) in LOOPS.items():
        for arm in arms:
            arm.optimizer.zero_grad()
            peak = peak_bytes(args, lambda arm=arm, first=frees_first: loop(arm, first))
            found[f"{key}.{arm.name}"] = peak
            arm.optimizer.zero_grad()
        table = [[title, "MB", "/ uniform", "beyond it, in copies of the encoders' gradients"]]
        uniform = found[f"{key}.uniform"]
        for arm in arms:
            peak = found[f"{key}.{arm.name}"]
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


def build_readers(args, root: Path, ids: list[str], augment: str) -> dict:
    flags = dict(image_size=args.loader_pixels, frames_per_clip=2, augment=augment)
    readers = {
        "audio": spectrogram.Modality(root / "audio", True),
        "visual": frames.Modality(root / "visual", True, **flags),
    }
    for reader in readers.values():
        reader.packed = open_cache(reader, ids, root / "cache", args.num_workers)
    return readers


def published_item(root: Path, clip: str, image_size: int = 224) -> tuple[Tensor, Tensor]:
    """Filter bank (1, T, F) and two frames (2, 3, S, S) as the published loader reads them.

    For training: one random frame of each half of the clip, RandomResizedCrop, flip, ImageNet
    normalisation, all on one frame at a time.
    """
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


def published_dataset(args, root: Path, ids: list[str]) -> list:
    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return len(ids)

        def __getitem__(self, i):
            sound, pictures = published_item(root, ids[i], args.loader_pixels)
            return sound, pictures, i % CLASSES

    return Items()


def measure_loader(args, root: Path, ids: list[str], found: dict) -> None:
    """Items per second of one core, stacked to batches, without worker processes."""
    samples = [Sample(name, i % CLASSES) for i, name in enumerate(ids)]
    published = published_dataset(args, root, ids)
    ours = {
        name: SampleDataset(samples, build_readers(args, root, ids, augment), 0)
        for name, augment in (("cached", "loader"), ("device", "device"))
    }
    n, threads = min(len(ids), 48), torch.get_num_threads()
    chosen = random.Random(0).sample(range(len(ids)), n)

    def through(item: Callable, stack: Callable) -> None:
        for first in range(0, n, args.batch_size):
            stack([item(i) for i in chosen[first : first + args.batch_size]])

    default = torch.utils.data.default_collate
    works = {"published": lambda: through(published.__getitem__, default)}
    for name, data in ours.items():
        works[name] = lambda data=data: through(lambda i: data[0, i], collate)
    torch.set_num_threads(1)
    times = interleaved(args, works, max(5, args.rounds // 2))
    torch.set_num_threads(threads)
    table = [["loader, one core", "items per s", "ms per item", "/ published"]]
    for name, spent in times.items():
        found[f"loader.{name}"] = n / float(np.median(spent))
        ratio = found[f"ratio.loader_{name}_over_published"] = median_ratio(
            times["published"], spent
        )
        each = 1e3 / found[f"loader.{name}"]
        table.append([name, f"{found[f'loader.{name}']:.0f}", f"{each:.2f}", f"{ratio:.1f}"])
    print(
        f"\n{align(table)}\nan item: 2 of {FRAMES} frames of {PICTURE_PIXELS[1]} x "
        f"{PICTURE_PIXELS[0]}, cropped to {args.loader_pixels}, and a {AUDIO_SHAPE} filter bank; "
        "device: crops made on the device, not counted here"
    )


def measure_epoch(args, root: Path, ids: list[str], found: dict) -> None:
    """An epoch of training, loader included; `waiting` = share of it spent on the next batch."""
    samples = [Sample(name, i % CLASSES) for i, name in enumerate(ids)]
    waited: dict[str, float] = {}

    class Watched:
        """A loader that notes how long its user waits for it."""

        def __init__(self, name: str, loader):
            self.name, self.loader = name, loader

        def __iter__(self):
            waited[self.name] = 0.0
            batches = iter(self.loader)
            while True:
                begun = time.perf_counter()
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                waited[self.name] += time.perf_counter() - begun
                yield batch

    works = {}

    def epoch(arm: Arm, batches: Watched) -> None:
        for inputs, target in batches:
            arm.step(inputs, target)

    for name, augment in (("ours", "loader"), ("ours, device", "device")):
        if augment == "device" and args.device != "cuda":
            continue
        readers = build_readers(args, root, ids, augment)
        sampler = BatchSampler(len(ids), args.batch_size, 0, shuffle=True)
        data = SampleDataset(samples, readers, 0)
        batches = Watched(name, Batches(data, sampler, args.device, args.num_workers))
        arm = method_arm("mmpareto", args)
        works[name] = lambda arm=arm, batches=batches: epoch(arm, batches)
    old = method_arm("published", args)
    plain = torch.utils.data.DataLoader(
        published_dataset(args, root, ids),
        batch_size=args.batch_size,
        shuffle=True,
        num_workers=args.num_workers,
        persistent_workers=args.num_workers > 0,
        pin_memory=args.device == "cuda",
    )
    plain = Watched("published", plain)

    def published_epoch() -> None:
        for sound, pictures, target in plain:
            inputs = {"audio": sound.to(args.device), "visual": pictures.to(args.device)}
            old.step(inputs, target.to(args.device))

    works["published"] = published_epoch
    times = interleaved(args, works, args.epochs, warm_up=1)
    table = [["epoch", "s", "clips per s", "waiting for data", "published / it"]]
    for name, spent in times.items():
        middle = float(np.median(spent))
        ratio, share = median_ratio(times["published"], spent), waited[name] / spent[-1]
        key = name.replace(", ", "_")
        found[f"epoch.{key}"], found[f"waiting.{key}"] = middle, share
        found[f"ratio.epoch_published_over_{key}"] = ratio
        rate = f"{len(ids) / middle:.1f}"
        table.append([name, f"{middle:.2f}", rate, f"{100 * share:.0f} %", f"{ratio:.2f}"])
    print(
        f"\n{align(table)}\n{len(ids)} clips, frames of {args.loader_pixels} pixels, sound "
        f"{AUDIO_SHAPE}, {args.num_workers} loader processes, MMPareto"
    )


def make_raw(root: Path, clips: int) -> list[str]:
    """Raw clips in CREMA-D's format and sizes: 2.5 s of 480 x 360 at 30 per second, 16 kHz."""
    rng, shape = np.random.default_rng(0), PICTURE_PIXELS[::-1]
    for name in ("VideoFlash", "AudioWAV"):
        (root / name).mkdir()
    names = [f"{1001 + i}_DFA_ANG_XX" for i in range(clips)]
    for name in names:
        picture = cv2.resize(rng.integers(0, 255, (45, 60, 3), dtype=np.uint8), shape)
        writer = cv2.VideoWriter(str(root / "VideoFlash" / f"{name}.flv"), demo.FLV1_TAG, 30, shape)
        for number in range(75):
            writer.write(np.roll(picture, number, 1))
        writer.release()
        sound = rng.normal(0, 0.1, 40000)
        soundfile.write(root / "AudioWAV" / f"{name}.wav", sound, 16000, subtype="PCM_16")
    return names


def measure_preparation(args, found: dict) -> None:
    """Clips per second of one core through CREMA-D's preparation."""
    settings = {"frames_per_second": 3.0, "audio_frames": 1024, "mel_bins": 128}
    rates: dict[str, list[float]] = {"fbank": [], "spectrogram": []}
    threads = torch.get_num_threads(), cv2.getNumThreads()
    preparation.single_threaded()
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder)
        names = make_raw(raw, min(args.clips, 32))
        for attempt in range(max(3, args.epochs)):
            for audio, seen in rates.items():
                begun = time.perf_counter()
                for name in names:
                    video = raw / "VideoFlash" / f"{name}.flv"
                    sound = raw / "AudioWAV" / f"{name}.wav"
                    output = raw / f"{audio}{attempt}"
                    cremad.prepare_clip(video, sound, name, output, settings | {"audio": audio})
                seen.append(len(names) / (time.perf_counter() - begun))
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])
    table = [["CREMA-D's preparation, one core", "clips per s", "7,442 clips, min"]]
    for audio, seen in rates.items():
        rate = found[f"preparation.{audio}"] = float(np.median(seen[1:]))
        table.append([audio, f"{rate:.1f}", f"{7442 / rate / 60:.0f}"])
    print(f"\n{align(table)}")


def main(argv=None) -> None:
    parser = parser_of("benchmark.py", __doc__)
    add = parser.add_argument
    add("--only", default=",".join(PARTS), metavar="PARTS", help=f"of {','.join(PARTS)}")
    add("--batch_size", type=int, default=16)
    add("--image_size", type=int, default=112, help="pixels of both pictures in step and memory")
    add("--frames_per_clip", type=int, default=1, help="frames of a clip in step and memory")
    add("--methods", default="", metavar="A,B", help="more arms of step and memory, or all")
    add("--fusion", default="concat", metavar="NAME", help="in step and memory")
    add("--loader_pixels", type=int, default=224, help="pixels of a frame in loader and epoch")
    add("--clips", type=int, default=64, help="in loader and epoch; CREMA-D's training split: 6698")
    add("--rounds", type=int, default=12, help="measured, after 2 to warm up")
    add("--epochs", type=int, default=2, help="measured, after 1 to warm up")
    add("--num_workers", type=int, default=max(1, min(8, (os.cpu_count() or 1) - 1)))
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--amp", choices=("off", "bf16"), default="off")
    add("--tf32", action="store_true")
    add("--compile", action="store_true")
    add("--channels_last", action=argparse.BooleanOptionalAction, help="default: as train.py")
    add("--json", type=Path, metavar="PATH", help="write the figures here")
    args = parser.parse_args(argv)
    parts = args.only.split(",")
    if not set(parts) <= set(PARTS):
        raise BadInput(f"--only {args.only}: choose from {','.join(PARTS)}")
    for name in (
        "batch_size",
        "image_size",
        "frames_per_clip",
        "loader_pixels",
        "rounds",
        "epochs",
    ):
        if vars(args)[name] < 1:
            raise BadInput(f"--{name} {vars(args)[name]}: must be at least 1")
    if args.clips < args.batch_size:
        raise BadInput(f"--clips {args.clips}: must be at least the batch size {args.batch_size}")
    if args.device != "cpu" and not torch.cuda.is_available():
        if args.device == "cuda":
            raise BadInput("--device cuda: not available here; use --device cpu")
        args.device = "cpu"
    args.device = "cuda" if args.device == "auto" else args.device
    args.sync_batchnorm = False
    precision.resolve(args)
    precision.prepare(args)

    environment = run_folder.environment()
    settings = {k: v for k, v in vars(args).items() if k != "json"}
    where = environment["gpu" if args.device == "cuda" else "cpu"]
    print(
        f"{where}, torch {environment['torch']}, commit {environment['commit']}, batch "
        f"{args.batch_size}, {args.image_size} pixels, amp {args.amp}",
        flush=True,
    )
    found: dict[str, float] = {}
    if "step" in parts:
        measure_step(args, found)
    if "integrate" in parts:
        measure_integrate(args, found)
    if "memory" in parts:
        measure_memory(args, found)
    if {"loader", "epoch"} & set(parts):
        with tempfile.TemporaryDirectory() as folder:
            ids = make_set(Path(folder), args.clips)
            if "loader" in parts:
                measure_loader(args, Path(folder), ids, found)
            if "epoch" in parts:
                measure_epoch(args, Path(folder), ids, found)
    if "preparation" in parts:
        measure_preparation(args, found)
    if args.json:
        content = found | {"environment": environment, "settings": settings}
        write_text(args.json, json.dumps(content, indent=1))


if __name__ == "__main__":
    run(main)
