"""UMT, uni-modal teacher: every encoder also learns the features of one that was trained alone.

    loss = L_joint + weight sum_m mean |f_m - teacher_m|^2    (mean over batch and D features)

The teachers are runs of one modality, such as `train.py --method joint --modalities audio`, given
as `--umt_teachers audio=runs/A,visual=runs/B` or by a pattern for all of them such as
`runs/joint-{modality}-seed{seed}`; they are frozen. With weight 0 this is --method joint.

Source: Du et al. 2023 (ICML), Eq. 5: distillation with a mean squared error; weight 50 [recalled],
for want of their code; GeWu-Lab/BalanceBenchmark has 10. Departs: encoders of one architecture, so
nothing is projected. Any number of modalities; those without a teacher get no such loss. Unimodal
heads: not trained. Cost: 3 F per step and a forward pass of the teachers, 4 F.
"""

import torch
from torch.nn.functional import mse_loss

import methods
from models.of_runs import encoder_of, runs_of
from utils.command import run_names
from utils.errors import check_at_least


class Method(methods.Method):
    needs = {"teachers"}
    trains_unimodal_heads = False

    def __init__(self, umt_teachers="", umt_weight=50.0):
        check_at_least(0, umt_weight=umt_weight)
        self.weight = umt_weight
        self.teachers = {
            m: encoder_of("--umt_teachers", m, folder).requires_grad_(False).eval()
            for m, folder in runs_of(umt_teachers).items()
        }
        self._distances = {}

    @staticmethod
    def add_options(parser):
        add = parser.add_argument
        add(
            "--umt_teachers",
            type=run_names,
            default="",
            metavar="M=RUN,M=RUN",
            help="runs of one modality each, or a pattern, as for --init_encoders",
        )
        add("--umt_weight", type=float, default=50.0, help="of the distillation, at least 0")

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
