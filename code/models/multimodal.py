"""Encoders, fusion and unimodal heads: the model that every method trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from models.frames import AttentionOverFrames
from models.fusion import InnerFusion
from models.reach import groups_of
from utils import registry
from utils.errors import BadInput

MULTIMODAL = "multimodal"  # the name of the fused branch among logits and losses


def encoders_of(text: str, modalities: list[str]) -> dict[str, type]:
    """{modality: class} for "resnet18", or "audio=cnn,visual=resnet18" with every modality once.

    Raises BadInput for what is neither.
    """
    names = dict.fromkeys(modalities, text)
    if "=" in text:
        names = dict(part.split("=", 1) if "=" in part else (part, "") for part in text.split(","))
        if set(names) != set(modalities) or text.count(",") + 1 != len(modalities):
            wanted = ",".join(f"{m}=NAME" for m in modalities)
            raise BadInput(f"--encoder {text}: give one name, or {wanted}")
    return {m: registry.load_class("models/encoders", names[m], "--encoder") for m in modalities}


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
    encoder, fusion: file names in models/encoders and models/fusion; for the encoders see
        `encoders_of`.
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
        build_fusion = registry.load_class("models/fusion", fusion, "--fusion")
        self.encoders = nn.ModuleDict()
        for modality, build in encoders_of(encoder, list(shapes)).items():
            of_frames = built(build, flags, shapes[modality])
            weighted = len(shapes[modality]) == 4 and flags.get("frame_pooling") == "attention"
            self.encoders[modality] = AttentionOverFrames(of_frames) if weighted else of_frames
        widths = {m: e.feature_dim for m, e in self.encoders.items()}
        self.heads = nn.ModuleDict({m: nn.Linear(d, num_classes) for m, d in widths.items()})
        self.fusion = None
        self.is_inner = len(shapes) > 1 and issubclass(build_fusion, InnerFusion)
        if self.is_inner:
            needed = build_fusion.needs_stages_of
            for e in self.encoders.values():
                if not {"maps": e.stage_widths, "tokens": e.token_width}[needed]:
                    raise BadInput(
                        f"--encoder {encoder}: has no stages that give {needed}, which --fusion "
                        f"{fusion} needs"
                    )
        if len(shapes) > 1:
            joined = self.encoders if self.is_inner else widths
            self.fusion = built(build_fusion, flags, joined, num_classes)
        self.found_groups = {}  # {names of the losses: groups}

    def forward(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """inputs {modality: (B, C, H, W) or (B, T, C, H, W)} -> logits and features.

        logits: {"multimodal": (B, K), modality: (B, K), ...}, the multimodal branch first;
        features: {modality: (B, D)}.
        """
        if self.is_inner:
            fused, features = self.fusion(self.encoders, inputs)
            logits = {MULTIMODAL: fused}
        else:
            features = {m: encoder(inputs[m]) for m, encoder in self.encoders.items()}
            logits = {} if self.fusion is None else {MULTIMODAL: self.fusion(features)}
        logits |= {m: head(features[m]) for m, head in self.heads.items()}
        return logits, features

    def encoder_parameters(self) -> dict[str, list[nn.Parameter]]:
        """{modality: its encoder's parameters}."""
        return {m: list(encoder.parameters()) for m, encoder in self.encoders.items()}

    def groups(self, losses: dict[str, Tensor]) -> dict[str, list[nn.Parameter]]:
        """The groups on which these losses can conflict, by `reach.groups_of`, found once."""
        names = tuple(losses)
        if names not in self.found_groups:
            self.found_groups[names] = groups_of(
                losses, self.encoder_parameters(), self.parameters()
            )
        return self.found_groups[names]


def built(build: type, flags: Mapping[str, object], *arguments):
    """An encoder or a fusion with those of `flags` that it declares."""
    try:
        return build(*arguments, **registry.settings(build, flags))
    except ValueError as error:
        raise BadInput(str(error)) from None
