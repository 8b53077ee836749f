"""UMT, uni-modal teacher: every encoder also learns the features of one that was trained alone.

    loss = L_joint + weight sum_m mean |f_m - teacher_m|^2    (mean over batch and D features)

The teachers are runs of one modality, such as `train.py --method joint --modalities audio`, given
as `--umt_teachers audio=runs/A,visual=runs/B`; they are frozen. With weight 0 this is --method
joint.

Source: Du et al. 2023 (ICML), Eq. 5: distillation with a mean squared error; weight 50 [recalled],
for want of their code; GeWu-Lab/BalanceBenchmark has 10. Departs: encoders of one architecture, so
nothing is projected. Any number of modalities; those without a teacher get no such loss. Unimodal
heads: not trained. Cost: 3 F per step and a forward pass of the teachers, 4 F.
"""

from pathlib import Path

import torch
from torch.nn.functional import mse_loss

import methods
from models.of_runs import encoder_of
from utils.errors import BadInput, check_at_least


def read_teachers(text: str) -> dict[str, Path]:
    """{modality: run folder}. Raises ValueError for what is not such a list."""
    parts = [part.split("=", 1) for part in text.split(",") if part]
    if not parts or any(len(part) != 2 for part in parts):
        raise ValueError(
            f"--umt_teachers {text}: name runs of one modality each, such as "
            "audio=runs/A,visual=runs/B; train them with --method joint --modalities audio"
        )
    return {modality: Path(folder) for modality, folder in parts}


class Method(methods.Method):
    needs = {"teachers"}
    trains_unimodal_heads = False

    def __init__(self, umt_teachers="", umt_weight=50.0):
        check_at_least(0, umt_weight=umt_weight)
        folders = read_teachers(umt_teachers) if umt_teachers else {}
        self.weight = umt_weight
        self.teachers = {
            m: encoder_of("--umt_teachers", m, folder).requires_grad_(False).eval()
            for m, folder in folders.items()
        }
        self._distances = {}

    @staticmethod
    def add_options(parser):
        add = parser.add_argument
        add("--umt_teachers", default="", metavar="M=RUN,M=RUN", help="runs of one modality each")
        add("--umt_weight", type=float, default=50.0, help="of the distillation, at least 0")

    def start_epoch(self, epoch, model, loaders, seed=0):
        if unknown := [m for m in self.teachers if m not in model.encoders]:
            raise BadInput(f"--umt_teachers {unknown[0]}=...: not a modality of this run")

    def backward(self, forward, model):
        loss = forward.joint_loss
        for modality, teacher in self.teachers.items():
            features = forward.features[modality]
            with torch.no_grad():
                taught = teacher.to(features.device)(forward.inputs[modality].float())
            distance = mse_loss(features.float(), taught)
            self._distances[f"distance/{modality}"] = distance.detach()
            loss = loss + forward.scale * self.weight * distance
        loss.backward()

    def integrate(self, model):
        return methods.norms_of_sum(model.encoder_parameters()) | self._distances
