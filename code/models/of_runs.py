"""Encoders that other runs have trained."""

from pathlib import Path

from torch import nn

from models.multimodal import MultimodalModel, file_of
from utils import run_folder
from utils.errors import BadInput


def name_runs(flag: str, text: str, modalities: list[str], seed: int) -> str:
    """`audio=runs/A,visual=runs/B` of such a text, or of one pattern for all modalities such as
    `runs/avmnist-joint-modalities-{modality}-seed{seed}`.

    Raises BadInput for what is neither, and for a modality that this run does not have.
    """
    if "=" not in text:
        text = ",".join(f"{m}={text.replace('{modality}', m)}" for m in modalities)
    text = text.replace("{seed}", f"{seed}")
    parts = [part.partition("=") for part in text.split(",")]
    named = {modality for modality, _, folder in parts if folder}
    if len(named) < len(parts):
        raise BadInput(
            f"{flag} {text}: name a run for each modality, once, such as "
            "audio=runs/A,visual=runs/B; train them with --method joint --modalities audio"
        )
    if unknown := sorted(named - set(modalities)):
        raise BadInput(f"{flag} {unknown[0]}=...: not a modality of this run")
    return text


def runs_of(text: str) -> dict[str, Path]:
    """{modality: run folder} of what `name_runs` gave."""
    parts = [part.partition("=") for part in text.split(",") if part]
    return {modality: Path(folder) for modality, _, folder in parts}


def encoder_of(
    flag: str, modality: str, folder: Path, classes: list[str] | None = None
) -> nn.Module:
    """The encoder of a run of that modality alone, with its last weights. Raises BadInput where the
    folder holds no such run, or one of other classes than these."""
    try:
        stored = run_folder.read_stored(folder)
        options = stored["options"] | {"pretrained": False}  # the weights are the checkpoint's
        if options["modalities"] != [modality]:
            raise BadInput(f"trained on {', '.join(options['modalities'])}")
        there, path = stored["data"]["classes"], folder / "last.pt"
        if classes not in (None, there):
            raise BadInput(f"trained on the classes {', '.join(there)}")
        shapes = run_folder.shapes_of(stored["data"])
        model = MultimodalModel(shapes, len(there), options["encoder"], flags=options)
        run_folder.fill(model, run_folder.load(path)["model"], path)
    except (BadInput, KeyError, TypeError) as problem:
        raise BadInput(
            f"{flag} {modality}={folder}: {problem}; needs a run of {modality} alone"
        ) from None
    return model.encoders[modality]


def start_encoders(model: MultimodalModel, text: str, classes: list[str]) -> None:
    """Gives encoders the weights of the runs that `--init_encoders` names, see `runs_of`.

    Source: Wei & Hu 2024, Table 1, "unimodal pre-trained & fine-tune". Raises BadInput where such
    an encoder is none of this run's.
    """
    flag = "--init_encoders"
    for modality, folder in runs_of(text).items():
        source, encoder = encoder_of(flag, modality, folder, classes), model.encoders[modality]
        ours, theirs = (
            {name: tuple(value.shape) for name, value in part.state_dict().items()}
            for part in (encoder, source)
        )
        if type(source) is not type(encoder) or ours != theirs:
            raise BadInput(
                f"{flag} {modality}={folder}: has another encoder, {file_of(source)}, than this "
                f"run, {file_of(encoder)}, or one for items of another shape"
            )
        encoder.load_state_dict(source.state_dict())
