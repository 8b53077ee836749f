"""A checkpoint of the published code -> a run folder, which evaluate.py and predict.py read.

python import_published.py best_model_mmpareto_of_sgd_CREMAD_epoch50_batch64_lr0.002.pth
python import_published.py FILE --dataset cremad --data_root ../data/cremad --run_name published
python evaluate.py runs/published --probe linear

The file is what the published scripts save: weights of their AVClassifier under `model`. Of the
file only tensors and numbers are read, no code in it is run. All flags are train.py's; they say
how that run was trained, as far as the name of the file does not. It is not gone on with.
"""

import re
from pathlib import Path

import torch

from dataset._loader import build_loaders
from training.options import build_model, parse
from training.resume import Progress, open_run
from utils import registry, run_folder
from utils.command import Parser
from utils.errors import BadInput, run_command

NAME = re.compile(r"best_model_.*_of_(\w+)_([A-Za-z]+)_epoch(\d+)_batch(\d+)_lr([\d.e-]+)\.pth")
FLAGS = ("--optimizer", "--dataset", "--epochs", "--batch_size", "--learning_rate")  # in NAME
PARTS = {  # {part of their AVClassifier: ours}
    "audio_net.": "encoders.audio.trunk.",
    "visual_net.": "encoders.visual.trunk.",
    "head.": "fusion.linear.",
    "head_audio.": "heads.audio.",
    "head_video.": "heads.visual.",
}


def read(file: Path) -> dict:
    """{"model": weights by our names, "saved_epoch", "acc"}. Raises BadInput for another file."""
    problem = "no checkpoint of the published code's AVClassifier"
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        weights, epoch, accuracy = (content[key] for key in ("model", "saved_epoch", "acc"))
        renamed = {ours(name): value for name, value in weights.items()}
        return {"model": renamed, "saved_epoch": int(epoch), "acc": float(accuracy)}
    except OSError:
        raise
    except Exception as error:  # each kind of another file has its own
        reason = [*str(error).strip().splitlines(), ""][0]
        raise BadInput(f"{file}: {problem} ({type(error).__name__}: {reason[:60]})") from None


def ours(name: str) -> str:
    """Raises KeyError for a name that their AVClassifier does not have."""
    name = name.removeprefix("module.")  # of DataParallel
    part = name[: name.index(".") + 1]
    return PARTS[part] + name.removeprefix(part)


def main(argv=None) -> None:
    parser = Parser("import_published.py", __doc__)
    parser.add_argument("file", type=Path, help="best_model_... .pth")
    asked, flags = parser.parse_known_args(argv)
    content = read(asked.file)
    named = NAME.fullmatch(asked.file.name)
    known = [word for pair in zip(FLAGS, named.groups()) for word in pair] if named else []
    options = parse([*known, "--run_name", asked.file.stem, *flags])
    dataset = registry.load_class("dataset", options.dataset, "--dataset")(options.data_root)
    loaders = build_loaders(dataset, vars(options))
    model = build_model(options, dataset, loaders["train"].dataset.readers)
    run_folder.fill(model, content["model"], asked.file)
    folder = open_run(options, dataset, loaders)
    progress = Progress(folder, {"model": model})
    progress.epoch, accuracy = content["saved_epoch"], content["acc"]
    print(f"{folder}: epoch {progress.epoch}, test accuracy {100 * accuracy:.2f} % as stored")
    progress.save((progress.epoch + 1) * len(loaders["train"]), accuracy)
    print(f"next: python evaluate.py {folder}")


if __name__ == "__main__":
    run_command(main)
