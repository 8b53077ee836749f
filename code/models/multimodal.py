"""Encoders, fusion and unimodal heads: the model that every method trains."""

import copy
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn
from torch.nn import parameter

from models.encoders import Encoder
from models.frames import AttentionOverFrames
from models.fusion import InnerFusion
from models.reach import groups_of
from utils import registry
from utils.errors import BadInput
from utils.machine import shortage

MULTIMODAL = "multimodal"  # the name of the fused branch among logits and losses


class MultimodalModel(nn.Module):
    """One encoder and one linear head per modality, one fusion over all features.

    Late fusion sees the features; an inner fusion runs the encoders itself, stage by stage, and
    lets them exchange what they found. The unimodal logits are those of a head on each feature;
    with an inner fusion a feature also carries what its encoder got from the others.

    With a single modality there is nothing to fuse: the model is that encoder and its head, the
    unimodal baseline of the paper.

    shapes: {modality: shape of an item, (C, H, W) or, for clips of T frames, (T, C, H, W)}, in the
        order of the branches.
    num_classes: K.
    encoder: file name in models/encoders, or one for each modality, see `encoder_classes`.
    fusion: file name in models/fusion.
    flags: values of the flags that encoders and fusion declare, else their defaults; with
        "frame_pooling" "attention" the frames of clips are weighted, by `AttentionOverFrames`, and
        not averaged.
    Raises BadInput where the encoders are not what the fusion needs, or a flag is out of range.
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        num_classes: int,
        encoder: str = "resnet18",
        fusion: str = "concat",
        flags: Mapping[str, object] | None = None,
    ):
        super().__init__()
        flags = flags or {}
        classes = encoder_classes(encoder, list(shapes))
        self.encoders = nn.ModuleDict(
            {m: build_encoder(classes[m], shape, flags) for m, shape in shapes.items()}
        )
        feature_dims = {m: e.feature_dim for m, e in self.encoders.items()}
        self.heads = nn.ModuleDict({m: nn.Linear(d, num_classes) for m, d in feature_dims.items()})
        self.fusion = None
        if len(shapes) > 1:
            fusion_class = registry.load_class("models/fusion", fusion, "--fusion")
            if issubclass(fusion_class, InnerFusion):
                check_stages(self.encoders, fusion_class.needs_stages_of, encoder, fusion)
                self.fusion = build(fusion_class, flags, self.encoders, num_classes)
            else:
                self.fusion = build(fusion_class, flags, feature_dims, num_classes)

    def forward(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """inputs {modality: (B, C, H, W) or (B, T, C, H, W)} -> logits and features.

        logits: {"multimodal": (B, K), modality: (B, K), ...}, the multimodal branch first;
        features: {modality: (B, D)}.
        """
        logits = {}
        if isinstance(self.fusion, InnerFusion):
            logits[MULTIMODAL], features = self.fusion(self.encoders, inputs)
        else:
            features = {m: encoder(inputs[m]) for m, encoder in self.encoders.items()}
            if self.fusion is not None:
                logits[MULTIMODAL] = self.fusion(features)
        logits |= {m: head(features[m]) for m, head in self.heads.items()}
        return logits, features

    def try_forward(self, inputs: Mapping[str, Tensor]) -> None:
        """Gives parameters to layers that wait for their first input, such as nn.LazyLinear.

        Raises BadInput where a forward pass fails or gives other shapes than it should, naming the
        encoder or the fusion; for parameters that appear only now, as no device, checkpoint and
        optimizer would have them.
        """
        is_lazy = any(map(parameter.is_lazy, (*self.parameters(), *self.buffers())))
        trial = self if is_lazy else copy.deepcopy(self)
        names, was_training = {name for name, _ in self.named_parameters()}, self.training
        trial.eval()
        for modality, encoder in trial.encoders.items():
            shape = tuple(inputs[modality].shape[1:])
            what = f"--encoder {file_of(encoder)}: {modality}, items of shape {shape}"
            feature = tried(what, encoder, inputs[modality])
            if feature.shape != (expected := (len(inputs[modality]), encoder.feature_dim)):
                raise BadInput(f"{what}: gives {tuple(feature.shape)}, not (B, D) = {expected}")
        tried(
            "--fusion" if trial.fusion is None else f"--fusion {file_of(trial.fusion)}",
            trial,
            inputs,
        )
        if late := sorted({name for name, _ in trial.named_parameters()} - names):
            raise BadInput(
                f"{late[0]}: made in a forward pass; make it in __init__, such as by nn.LazyLinear"
            )
        self.train(was_training)

    def encoder_parameters(self) -> dict[str, list[nn.Parameter]]:
        """{modality: its encoder's parameters}."""
        return {m: list(encoder.parameters()) for m, encoder in self.encoders.items()}

    def groups(self, losses: dict[str, Tensor]) -> dict[str, list[nn.Parameter]]:
        """The groups on which these losses can conflict, by `reach.groups_of`."""
        return groups_of(losses, self.encoder_parameters(), self.parameters())


def file_of(part: nn.Module) -> str:
    """The file of an encoder or a fusion, without its suffix."""
    part = part.encoder if isinstance(part, AttentionOverFrames) else part
    return type(part).__module__.split(".")[-1]


def tried(what: str, part: nn.Module, *inputs):
    """`part(*inputs)`. Raises BadInput for whatever it raises, with the line of our code or the
    user's."""
    try:
        return part(*inputs)
    except Exception as error:
        if shortage(error):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        *_, frame = [f for f in frames if Path(f.filename).is_relative_to(registry.CODE)]
        (reason, *_) = [*str(error).strip().splitlines(), type(error).__name__]
        where = f"{Path(frame.filename).relative_to(registry.CODE)} line {frame.lineno}"
        raise BadInput(f"{what}: {reason} ({where})") from error


def encoder_classes(text: str, modalities: list[str]) -> dict[str, type[Encoder]]:
    """{modality: class} for "resnet18", or "audio=cnn,visual=resnet18" with every modality once.

    Raises BadInput for what is neither.
    """
    names = dict.fromkeys(modalities, text)
    if "=" in text:
        parts = [part.partition("=") for part in text.split(",")]
        if sorted(modality for modality, _, _ in parts) != sorted(modalities):
            form = ",".join(f"{m}=NAME" for m in modalities)
            raise BadInput(f"--encoder {text}: give one name, or {form}")
        names = {modality: name for modality, _, name in parts}
    return {m: registry.load_class("models/encoders", names[m], "--encoder") for m in modalities}


def build_encoder(encoder_class: type, shape: Sequence[int], flags: Mapping[str, object]):
    if len(shape) not in encoder_class.takes:
        fitting = [
            name
            for name in registry.names("models/encoders")
            if len(shape) in registry.load_class("models/encoders", name, "--encoder").takes
        ]
        raise BadInput(
            f"--encoder {encoder_class.__module__.split('.')[-1]}: takes no items of shape "
            f"{tuple(shape)}; choose {', '.join(fitting)}"
        )
    encoder = build(encoder_class, flags, shape)
    is_of_clips = len(shape) == 4
    weighs_frames = is_of_clips and flags.get("frame_pooling") == "attention"
    return AttentionOverFrames(encoder) if weighs_frames else encoder


def check_stages(encoders: nn.ModuleDict, needed: str, encoder: str, fusion: str) -> None:
    """Raises BadInput where the stages of an encoder do not give what an inner fusion needs."""
    for e in encoders.values():
        given = {"maps": len(e.stage_widths) > 0, "tokens": e.token_width > 0}
        if not given[needed]:
            raise BadInput(
                f"--encoder {encoder}: has no stages that give {needed}, which --fusion {fusion} "
                "needs"
            )


def build(owner: type, flags: Mapping[str, object], *arguments):
    """An encoder or a fusion, given those of `flags` that it declares."""
    try:
        return owner(*arguments, **registry.settings(owner, flags))
    except ValueError as error:
        raise BadInput(str(error)) from None
