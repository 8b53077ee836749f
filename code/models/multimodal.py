"""Encoders, fusion and unimodal heads: the model that every method trains."""

from __future__ import annotations

from torch import Tensor, nn

from utils import registry

MULTIMODAL = "multimodal"  # the name of the fused branch among logits and losses


class MultimodalModel(nn.Module):
    """One encoder and one linear head per modality, one fusion over all features.

    With a single modality there is nothing to fuse: the model is that encoder and its head, the
    unimodal baseline of the paper.

    channels: {modality: C} in the order of the branches; num_classes: K.
    encoder, fusion: file names in models/encoders and models/fusion.
    """

    def __init__(
        self, channels: dict[str, int], num_classes: int, encoder="resnet18", fusion="concat"
    ):
        super().__init__()
        build_encoder = registry.load("models/encoders", encoder, "--encoder").Encoder
        build_fusion = registry.load("models/fusion", fusion, "--fusion").Fusion
        self.encoders = nn.ModuleDict({m: build_encoder(c) for m, c in channels.items()})
        widths = {m: e.feature_dim for m, e in self.encoders.items()}
        self.heads = nn.ModuleDict({m: nn.Linear(d, num_classes) for m, d in widths.items()})
        self.fusion = build_fusion(widths, num_classes) if len(channels) > 1 else None

    def forward(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """inputs {modality: (B, C, H, W) or (B, T, C, H, W)} -> logits and features.

        logits: {"multimodal": (B, K), modality: (B, K), ...}, the multimodal branch first;
        features: {modality: (B, D)}.
        """
        features = {m: encoder(inputs[m]) for m, encoder in self.encoders.items()}
        logits = {} if self.fusion is None else {MULTIMODAL: self.fusion(features)}
        logits |= {m: head(features[m]) for m, head in self.heads.items()}
        return logits, features

    def encoder_parameters(self) -> dict[str, list[nn.Parameter]]:
        """{modality: its encoder's parameters}: the groups on which losses can conflict."""
        return {m: list(encoder.parameters()) for m, encoder in self.encoders.items()}
