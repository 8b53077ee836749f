"""MMTM: in the last stages of the encoders each modality gates the channels of all.

    after each of the last three stages:  x_m <- gate_m x_m, channel by channel, see Gates
    logits = W [feature_1; feature_2; ...] + b

An encoder is thereby reached by every loss: its own, the multimodal one, and through the gates
those of the other modalities. The gates' weights are reached by all as well ("shared").

Source: Joze et al. 2020 (CVPR), Eq. 1 to 5, reduction 4. The gate is the paper's, 2 sigmoid
[recalled]: around 1 at the start, so that encoders begin as without it. The authors' code,
haamoon/mmtm, and that of Greedy have sigmoid, which halves the maps three times. Departs: a linear
layer over all features, where they average the logits of the branches.
"""

import torch
from torch import Tensor, nn

from models.fusion import InnerFusion

STAGES_WITH_GATES = 3  # the last ones


class Gates(nn.Module):
    """gate_m = 2 sigmoid(W_m z + b_m),  z = relu(W s + b).

    s: all modalities' maps averaged over space and frames, (B, sum of widths); z has
    2 (sum of widths) / reduction elements.

    widths: {modality: channels of its maps}; reduction: how much narrower z is than twice s.
    """

    def __init__(self, widths: dict[str, int], reduction: int = 4):
        super().__init__()
        total = sum(widths.values())
        self.squeeze = nn.Linear(total, 2 * total // reduction)
        self.excite = nn.ModuleDict(
            {m: nn.Linear(2 * total // reduction, width) for m, width in widths.items()}
        )

    def forward(self, maps: dict[str, Tensor], batch: int) -> dict[str, Tensor]:
        """{modality: maps (B or B T, C, H, W)} -> {modality: gates (B, C)} within (0, 2)."""
        clips = [x.unflatten(0, (batch, -1)) for x in maps.values()]  # (B, T, C, H, W)
        z = self.squeeze(torch.cat([x.mean((1, 3, 4)) for x in clips], dim=1)).relu()
        return {m: 2 * torch.sigmoid(layer(z)) for m, layer in self.excite.items()}


def gated(x: Tensor, gate: Tensor) -> Tensor:
    """x (B T, C, H, W) times gate (B, C)."""
    return (x.unflatten(0, (len(gate), -1)) * gate[:, None, :, None, None]).flatten(0, 1)


class Fusion(InnerFusion):
    has_gates = True

    def __init__(self, encoders: nn.ModuleDict, num_classes: int):
        super().__init__()
        widths = {m: e.stage_widths[-STAGES_WITH_GATES:] for m, e in encoders.items()}
        self.gates = nn.ModuleList(
            Gates(dict(zip(widths, stage))) for stage in zip(*widths.values())
        )
        self.linear = nn.Linear(sum(e.feature_dim for e in encoders.values()), num_classes)
        self.last_gates, self.is_held, self.held_gates = [], {}, []

    def gate_parameters(self) -> dict[str, list[nn.Parameter]]:
        """`squeeze`, which gives the z of all gates, counts for every modality."""
        parameters = {m: [] for m in self.gates[0].excite}
        for gates in self.gates:
            for m, layer in gates.excite.items():
                parameters[m] += [*gates.squeeze.parameters(), *layer.parameters()]
        return parameters

    def forward(self, encoders, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        batch = len(next(iter(inputs.values())))
        maps = {m: encoder.begin(inputs[m]) for m, encoder in encoders.items()}
        stages = list(zip(*(encoder.stages for encoder in encoders.values())))
        without_gates = len(stages) - len(self.gates)
        self.last_gates = []
        for number, stage in enumerate(stages):
            maps = {m: layer(maps[m]) for m, layer in zip(encoders, stage)}
            if number >= without_gates:
                gates = self.gates[number - without_gates](maps, batch)
                self.last_gates.append({m: gate.detach() for m, gate in gates.items()})
                if self.training:
                    gates |= self._held(gates, number - without_gates)
                maps = {m: gated(x, gates[m]) for m, x in maps.items()}
        features = {m: encoder.pool(maps[m], batch) for m, encoder in encoders.items()}
        return self.linear(torch.cat(list(features.values()), dim=1)), features

    def _held(self, gates: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        """These gates, of modalities that `is_held` knows, or `held_gates` where it is true."""
        return {
            m: torch.where(is_held, self.held_gates[number][m].to(gates[m].dtype), gates[m])
            for m, is_held in self.is_held.items()
        }
