"""A run folder -> its model and data."""

from __future__ import annotations

import argparse
from pathlib import Path

from dataset._loader import build_loaders
from training import resume
from training.options import build_model, choose_device
from utils import registry, run_folder


def load_run(folder: Path, which: str, device: str, data_root: Path | None = None):
    """(options, data set, loaders, model) of a run folder, with the weights of `which`.pt."""
    opt = argparse.Namespace(**resume.read_options(folder)["options"])
    opt.device, opt.gpu_ids = device, None
    opt.device = choose_device(opt)
    opt.data_root = data_root or Path(opt.data_root)
    opt.pretrained = False  # the weights are those of the checkpoint
    dataset = registry.load_class("dataset", opt.dataset, "--dataset")(opt.data_root)
    state = run_folder.load(folder / f"{which}.pt")
    loaders = build_loaders(dataset, vars(opt))
    model = build_model(opt, dataset, loaders["test"].dataset.readers)
    model.load_state_dict(state["model"])
    return opt, dataset, loaders, model.to(opt.device)
