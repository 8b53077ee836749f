"""One training run: a data set, a model, a method. `python train.py --help` lists the flags.

Everything a method does happens in `train_epoch`: backward for each part of a batch, integrate.
"""

import torch
from torch import nn
from tqdm import tqdm

from dataset._loader import build_loaders, check_batch_size
from figures._style import draw_examples, draw_run
from methods import ForwardPass
from models.metrics import branch_losses, predict, score
from training import messages, options, precision, resume
from training.record import Recorder
from utils import distributed, registry, run_folder
from utils.errors import run
from utils.seed import seed_everything


def build_optimizer(opt, model) -> torch.optim.Optimizer:
    if opt.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(), lr=opt.learning_rate, momentum=0.9, weight_decay=1e-4
        )
    build = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[opt.optimizer]
    return build(model.parameters(), lr=opt.learning_rate)


def split(batch, parts: int) -> list:
    """A batch (inputs, target) in `parts` nearly equal parts, fewer where it is too short."""
    inputs, target = batch
    pieces = {modality: x.tensor_split(min(parts, len(target))) for modality, x in inputs.items()}
    targets = target.tensor_split(min(parts, len(target)))
    return [({m: x[i] for m, x in pieces.items()}, t) for i, t in enumerate(targets)]


def train_epoch(opt, epoch, model, method, loader, optimizer, scaler, recorder) -> None:
    model.train()
    loader.batch_sampler.epoch = epoch
    hide_bar = None if distributed.is_main() else True  # None: where there is no terminal
    for step, batch in enumerate(tqdm(loader, f"epoch {epoch}", leave=False, disable=hide_bar)):
        optimizer.zero_grad()
        batch_size = loader.batch_sampler.whole(step)  # of all processes and parts
        parts = split(batch, opt.accumulate)
        totals = {}
        for number, (inputs, target) in enumerate(parts, start=1):
            with precision.autocast(opt):
                logits, features = model(inputs)
                losses = branch_losses(logits, target)
            if recorder.step == 0 and number == 1 and distributed.is_main():
                tqdm.write(messages.objective_lines(model, losses))
            share = len(target) / batch_size
            losses = {b: loss * share for b, loss in losses.items()}
            totals = {b: loss.detach() + totals.get(b, 0) for b, loss in losses.items()}
            scaled = {b: scaler.scale(loss) for b, loss in losses.items()}
            scale = scaler.scale(torch.full((), share, device=opt.device))
            forward = ForwardPass(scaled, logits, features, target, epoch, inputs, scale)
            forward.sum = distributed.sum_over_processes
            method.backward(forward, model)
        distributed.sum_over_processes(method.to_sum(model))
        diagnostics = method.integrate(model)

        loss_scale = scaler.scale(torch.ones((), device=opt.device))
        scaler.unscale_(optimizer)
        if opt.clip_grad > 0:
            nn.utils.clip_grad_norm_(model.parameters(), opt.clip_grad)
        scaler.step(optimizer)  # plain optimizer.step() except with fp16
        scaler.update()

        distributed.sum_over_processes(list(totals.values()))
        norms = {k: v / loss_scale for k, v in diagnostics.items() if k.startswith("norm/")}
        named = {f"loss/{branch}": total for branch, total in totals.items()}
        recorder.add_step(epoch, named | diagnostics | norms)
    distributed.average_buffers(model)
    recorder.flush()


def main(argv=None) -> None:
    opt, notice = options.parse(argv), options.notice(argv)
    opt.run_name = distributed.start(opt.device, opt.run_name)
    precision.prepare(opt)
    if notice:
        print(notice, flush=True)

    # What is trained on what
    with distributed.main_first():  # it may generate the demo set and the cache
        dataset = registry.load_class("dataset", opt.dataset, "--dataset")(opt.data_root)
        loaders = build_loaders(dataset, vars(opt))
    method = options.build_method(registry.load_class("methods", opt.method, "--method"), opt)
    seed_everything(opt.random_seed)
    model = options.build_model(opt, dataset, loaders["train"].dataset.readers).to(opt.device)
    check_batch_size(model, loaders["train"], opt.accumulate)
    model = precision.arrange(opt, model)
    optimizer = build_optimizer(opt, model)
    scaler = precision.scaler(opt)
    scheduler = None
    if opt.lr_decay_step > 0:
        scheduler = torch.optim.lr_scheduler.StepLR(
            optimizer, opt.lr_decay_step, opt.lr_decay_ratio
        )

    # Where it is written; a resumed run starts at the end of the last epoch it completed
    with distributed.main_first():
        about = resume.about(dataset, loaders)
        folder, state = resume.open_run(opt, about)
    parts = {"model": model, "optimizer": optimizer, "method": method, "scaler": scaler}
    if scheduler:
        parts["scheduler"] = scheduler
    progress = {"epoch": 0, "step": 0, "best": -1.0}
    if state is not None:
        progress = state["progress"]
        for name, part in parts.items():
            part.load_state_dict(({"method": {}} | state)[name])  # older runs: not of all methods
    is_main = distributed.is_main()
    recorder = Recorder(
        folder, progress["epoch"], progress["step"], opt.tensorboard, opt.amp == "fp16", is_main
    )
    judged_on = "val" if "val" in loaders else "test"  # the published code judges on the test split
    main_branch = messages.main_branch(opt.modalities)
    several = f"{distributed.world_size()} x " if distributed.world_size() > 1 else ""
    print(
        f"run {folder}: {opt.method} on {opt.dataset}, {len(loaders['train'].dataset)} training "
        f"samples, {several}{opt.device}, epochs {progress['epoch']} to {opt.epochs - 1}",
        flush=True,
    )

    how_to_continue = f"continue with --resume --run_name {opt.run_name}"
    distributed.advice.append(f"last.pt holds the last complete epoch; {how_to_continue}")
    try:
        for epoch in range(progress["epoch"], opt.epochs):
            # dropout and the like: the same after a resume, different in every process
            seed_everything(opt.random_seed, epoch, *([distributed.rank()] * (not is_main)))
            method.start_epoch(epoch, model, loaders, opt.random_seed)
            train_epoch(opt, epoch, model, method, loaders["train"], optimizer, scaler, recorder)
            if scheduler:
                scheduler.step()

            scores = {}
            for split_name in ("test", "val"):
                if split_name in loaders:
                    logits, _, target = predict(model, loaders[split_name])
                    scores |= {f"{split_name}/{k}": v for k, v in score(logits, target).items()}
            recorder.add_epoch(epoch, scores)
            print(messages.epoch_line(epoch, scores), flush=True)
            if recorder.writer:
                figure = draw_examples(model, loaders["test"], dataset.classes)
                recorder.add_figure("examples", figure)

            # best.pt first: a run killed in between repeats this epoch and writes it again
            better = scores[f"{judged_on}/accuracy/{main_branch}"] > progress["best"]
            if better:
                progress["best"] = scores[f"{judged_on}/accuracy/{main_branch}"]
            progress |= {"epoch": epoch + 1, "step": recorder.step}
            if is_main:
                state = {name: part.state_dict() for name, part in parts.items()}
                state["progress"] = progress
                if better:
                    run_folder.save(state, folder / "best.pt")
                run_folder.save(state, folder / "last.pt")
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {how_to_continue}") from None

    distributed.end()
    if not is_main:
        return
    print(messages.table(folder, main_branch, method.trains_unimodal_heads))
    print(f"figure: {draw_run(folder)}")
    if notice:
        print(notice)


if __name__ == "__main__":
    run(main)
