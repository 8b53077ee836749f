"""One training run: a data set, a model, a method. `python train.py --help` lists the flags.

Everything a method does happens in the one line `method.backward(...)`.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from methods import ForwardPass
from models.multimodal import MultimodalModel
from utils import checkpoint, options, registry, summary
from utils.errors import run
from utils.figures import draw_run
from utils.loading import build_loaders
from utils.metrics import predict, score
from utils.record import Recorder
from utils.seed import seed_everything


def build_model(opt, dataset, readers) -> nn.Module:
    channels = {modality: readers[modality].channels for modality in opt.modalities}
    return MultimodalModel(channels, len(dataset.classes), opt.encoder, opt.fusion)


def build_optimizer(opt, model) -> torch.optim.Optimizer:
    if opt.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(), lr=opt.learning_rate, momentum=0.9, weight_decay=1e-4
        )
    build = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[opt.optimizer]
    return build(model.parameters(), lr=opt.learning_rate)


def train_epoch(opt, epoch, model, method, loader, optimizer, recorder) -> None:
    model.train()
    loader.sampler.epoch = epoch
    for inputs, target in tqdm(loader, desc=f"epoch {epoch}", leave=False, disable=None):
        inputs = {m: x.to(opt.device, non_blocking=True) for m, x in inputs.items()}
        target = target.to(opt.device, non_blocking=True)

        logits, features = model(inputs)
        losses = {branch: cross_entropy(values, target) for branch, values in logits.items()}

        optimizer.zero_grad()
        diagnostics = method.backward(ForwardPass(losses, logits, features, target, epoch), model)
        if opt.clip_grad > 0:
            nn.utils.clip_grad_norm_(model.parameters(), opt.clip_grad)
        optimizer.step()

        named = {f"loss/{branch}": loss for branch, loss in losses.items()}
        recorder.add_step(epoch, named | diagnostics)
    recorder.flush()


def main(argv=None) -> None:
    opt = options.parse(argv)
    if opt.demo_notice:
        print(opt.demo_notice, flush=True)

    # What is trained on what
    dataset = registry.load("dataset", opt.dataset, "--dataset").Dataset(opt.data_root)
    loaders = build_loaders(dataset, opt)
    method = registry.load("methods", opt.method, "--method").Method(opt)
    seed_everything(opt.random_seed)
    model = build_model(opt, dataset, loaders["train"].dataset.readers).to(opt.device)
    optimizer = build_optimizer(opt, model)
    scheduler = None
    if opt.lr_decay_step > 0:
        scheduler = torch.optim.lr_scheduler.StepLR(
            optimizer, opt.lr_decay_step, opt.lr_decay_ratio
        )

    # Where it is written; a resumed run starts at the end of the last epoch it completed
    folder, state = checkpoint.open_run(opt)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "method": method}
    parts = {name: part for name, part in parts.items() if hasattr(part, "state_dict")}
    progress = {"epoch": 0, "step": 0, "best": -1.0}
    if state is not None:
        progress = state["progress"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    recorder = Recorder(folder, progress["epoch"], progress["step"], opt.tensorboard)
    judged_on = "val" if "val" in loaders else "test"  # the published code judges on the test split
    main_branch = "multimodal" if len(opt.modalities) > 1 else opt.modalities[0]
    print(
        f"run {folder}: {opt.method} on {opt.dataset}, {len(loaders['train'].dataset)} training "
        f"samples, {opt.device}, epochs {progress['epoch']} to {opt.epochs - 1}",
        flush=True,
    )

    try:
        for epoch in range(progress["epoch"], opt.epochs):
            seed_everything(opt.random_seed, epoch)  # dropout and the like, the same after a resume
            if hasattr(method, "start_epoch"):
                method.start_epoch(epoch)
            train_epoch(opt, epoch, model, method, loaders["train"], optimizer, recorder)
            if scheduler:
                scheduler.step()

            scores = {}
            for split in ("test", "val"):
                if split in loaders:
                    logits, _, target = predict(model, loaders[split], opt.device)
                    scores |= {f"{split}/{name}": v for name, v in score(logits, target).items()}
            recorder.add_epoch(epoch, scores)
            print(summary.epoch_line(epoch, scores), flush=True)

            # best.pt first: a run killed in between repeats this epoch and writes it again
            better = scores[f"{judged_on}/accuracy/{main_branch}"] > progress["best"]
            if better:
                progress["best"] = scores[f"{judged_on}/accuracy/{main_branch}"]
            progress |= {"epoch": epoch + 1, "step": recorder.step}
            state = {name: part.state_dict() for name, part in parts.items()}
            if better:
                checkpoint.save(state | {"progress": progress}, folder / "best.pt")
            checkpoint.save(state | {"progress": progress}, folder / "last.pt")
    except KeyboardInterrupt:
        note = f"interrupted; continue with --resume --run_name {opt.run_name}"
        raise KeyboardInterrupt(note) from None

    print(summary.table(folder, main_branch, getattr(method, "trains_unimodal_heads", True)))
    print(f"figure: {draw_run(folder)}")
    if opt.demo_notice:
        print(opt.demo_notice)


if __name__ == "__main__":
    run(main)
