"""One training run: a data set, a model, a method. `python train.py --help` lists the flags.

Everything a method does happens in `train_epoch`: backward for each part of a batch, integrate.
"""

import sys

import torch
from torch import nn
from torch.optim import lr_scheduler
from tqdm import tqdm

from dataset._loader import build_loaders, check_batch_size
from figures.overview import draw_run
from methods import ForwardPass
from models.metrics import branch_losses, check_trained, predict, score
from training import messages, precision
from training.options import build_method, build_model, notice, numbers_of, parse
from training.record import Recorder
from training.resume import Progress, extend, open_run
from utils import distributed, registry
from utils.errors import run_command
from utils.seed import seed_everything


def build_optimizer(options, model) -> torch.optim.Optimizer:
    classes = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    settings = {"momentum": 0.9, "weight_decay": 1e-4} if options.optimizer == "sgd" else {}
    for flag in ("momentum", "weight_decay"):
        if vars(options)[flag] is not None:
            settings[flag] = vars(options)[flag]
    rate = options.learning_rate
    scales = numbers_of(options, "encoder_rate_scale")
    groups = [
        {"params": parameters, "lr": rate * scales[modality]}
        for modality, parameters in model.encoder_parameters().items()
        if scales[modality] != 1
    ]
    scaled = {id(p) for group in groups for p in group["params"]}
    rest = {"params": [p for p in model.parameters() if id(p) not in scaled]}
    return classes[options.optimizer]([rest, *groups], lr=rate, **settings)


def build_scheduler(options, optimizer) -> lr_scheduler.LRScheduler:
    """Steps once an epoch."""
    schedules = {
        "constant": lambda: lr_scheduler.ConstantLR(optimizer, factor=1.0),
        "step": lambda: lr_scheduler.StepLR(
            optimizer, options.lr_decay_step, options.lr_decay_ratio
        ),
        "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, options.epochs),
    }
    return schedules[options.schedule]()


def split(batch, parts: int) -> list:
    """A batch (inputs, target) in `parts` nearly equal parts, fewer where it is too short."""
    inputs, target = batch
    parts = min(parts, len(target))
    inputs = {modality: x.tensor_split(parts) for modality, x in inputs.items()}
    targets = target.tensor_split(parts)
    return [({m: x[i] for m, x in inputs.items()}, targets[i]) for i in range(parts)]


def train_epoch(options, epoch, model, method, loader, optimizer, scaler, recorder) -> None:
    model.train()
    loader.batch_sampler.epoch = epoch
    weights = numbers_of(options, "unimodal_weight")
    no_bar = None if distributed.is_main() else True  # None: where there is no terminal
    for step, batch in enumerate(tqdm(loader, f"epoch {epoch}", leave=False, disable=no_bar)):
        optimizer.zero_grad()
        batch_size = loader.batch_sampler.whole(step)  # samples of all processes and parts
        totals = {}
        for inputs, target in split(batch, options.accumulate):
            with precision.autocast(options):
                logits, features = model(inputs)
                losses = branch_losses(logits, target)
            if recorder.step == 0 and not totals:
                check_trained(losses)
                tqdm.write(messages.objective_lines(method, model, losses))
            # the part's share of the batch: losses and gradients of all parts add up to the batch's
            share = len(target) / batch_size
            losses = {branch: loss * share for branch, loss in losses.items()}
            totals = {b: loss.detach() + totals.get(b, 0) for b, loss in losses.items()}
            losses = {b: scaler.scale(loss) * weights.get(b, 1) for b, loss in losses.items()}
            scale = scaler.scale(torch.full((), share, device=options.device))
            forward = ForwardPass(losses, logits, features, target, epoch, inputs, scale)
            forward.sum = distributed.sum_over_processes
            method.backward(forward, model)
        distributed.sum_over_processes(method.to_sum(model))
        diagnostics = method.integrate(model)  # .grad is complete

        loss_scale = scaler.scale(torch.ones((), device=options.device))
        scaler.unscale_(optimizer)
        if options.clip_grad > 0:
            nn.utils.clip_grad_norm_(model.parameters(), options.clip_grad)
        scaler.step(optimizer)  # plain optimizer.step() except with fp16
        scaler.update()

        distributed.sum_over_processes(list(totals.values()))
        recorder.add_step(epoch, totals, diagnostics, loss_scale)
    distributed.average_buffers(model)
    recorder.flush()


def main(argv=None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    options = parse(argv)
    options.run_name = distributed.start(options.device, options.run_name, options.gpu_ids)
    precision.prepare(options)
    print(notice(argv), end="", flush=True)

    # What is trained on what
    seed_everything(options.random_seed)  # for what draws while it is built
    with distributed.main_first():  # it may generate the demo set and the cache
        dataset = registry.load_class("dataset", options.dataset, "--dataset")(options.data_root)
        loaders = build_loaders(dataset, vars(options))
    method = build_method(options)
    seed_everything(options.random_seed)
    model = build_model(options, dataset, loaders["train"].dataset.readers).to(options.device)
    check_batch_size(model, loaders["train"], options.accumulate)
    model = precision.arrange(options, model)
    optimizer = build_optimizer(options, model)
    scheduler = build_scheduler(options, optimizer)
    scaler = precision.scaler(options)

    # Where it is written; a resumed run starts at the end of the last epoch it completed
    with distributed.main_first():
        folder = open_run(options, dataset, loaders)
    parts = dict(
        model=model, optimizer=optimizer, scheduler=scheduler, method=method, scaler=scaler
    )
    progress = Progress(folder, parts)
    if options.resume:
        progress.restore()
    recorder = Recorder(folder, progress.epoch, progress.step, options)
    extend(folder, options)
    main_branch = messages.main_branch(options.modalities)
    judged_on = "val" if "val" in loaders else "test"  # the published code judges on the test split
    print(messages.first_line(options, folder, loaders, progress.epoch), flush=True)

    for epoch in range(progress.epoch, options.epochs):
        # dropout and the like: the same after a resume, different in every process
        seed_everything(options.random_seed, epoch, *distributed.seed_of_process())
        method.start_epoch(epoch, model, loaders, options.random_seed)
        train_epoch(options, epoch, model, method, loaders["train"], optimizer, scaler, recorder)
        scheduler.step()
        scores = {}
        for split_name in ("test", "val"):
            if split_name in loaders:
                logits, _, target = predict(model, loaders[split_name])
                scores |= {f"{split_name}/{k}": v for k, v in score(logits, target).items()}
        recorder.add_epoch(epoch, scores)
        print(messages.epoch_line(epoch, scores), flush=True)
        progress.save(recorder.step, scores[f"{judged_on}/accuracy/{main_branch}"])

    if distributed.is_main():
        print(messages.table(folder, main_branch, method.trains_unimodal_heads))
        print(f"figure: {draw_run(folder)}")
        print(messages.what_next(argv, options, folder))
        print(notice(argv), end="")
    distributed.end()


if __name__ == "__main__":
    run_command(main)
