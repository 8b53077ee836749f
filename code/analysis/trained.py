"""A run folder -> its model and data."""

import argparse
from pathlib import Path

from dataset._loader import Batches, build_loaders
from models.multimodal import MultimodalModel
from training import resume
from training.options import build_model, check_there, choose_device
from utils import registry, run_folder
from utils.errors import BadInput
from utils.seed import seed_everything


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")


def options_for(stored: dict, device: str) -> argparse.Namespace:
    """The options that a run stored, for its trained model on this device."""
    options = argparse.Namespace(**stored["options"])
    options.device, options.gpu_ids = device, None
    options.device = choose_device(options)
    options.pretrained, options.init_encoders = False, None  # the checkpoint has the weights
    return options


def load_run(
    folder: Path, checkpoint: str, device: str, data_root: Path | None = None
) -> tuple[argparse.Namespace, object, dict[str, Batches], MultimodalModel]:
    """(options, data set, loaders, model) of a run folder, with the weights of `checkpoint`.pt.

    Raises BadInput where they cannot be used, or last.pt is of an earlier epoch than the records.
    """
    stored = resume.read_options(folder)
    options = options_for(stored, device)
    options.data_root = data_root or Path(options.data_root)
    check_there(options.data_root, options.dataset)
    dataset = registry.load_class("dataset", options.dataset, "--dataset")(options.data_root)
    state = run_folder.load(folder / f"{checkpoint}.pt")
    loaders = build_loaders(dataset, vars(options))
    resume.refuse_other_data(folder, stored["data"], dataset, loaders)
    seed_everything(options.random_seed)  # for encoders that draw when they are evaluated, too
    model = build_model(options, dataset, loaders["test"].dataset.readers)
    run_folder.fill(model, state["model"], folder / f"{checkpoint}.pt")
    done, recorded = (
        state["progress"]["epoch"],
        len(run_folder.read_jsonl(folder / "metrics.jsonl")),
    )
    if checkpoint == "last" and done < recorded:
        raise BadInput(
            f"{folder / 'last.pt'}: of {done} epochs, {recorded} are recorded, so the run was "
            "ended before it had written it; finish it with --resume"
        )
    return options, dataset, loaders, model.to(options.device)
