"""G-Blending: every loss weighted by how its branch generalises against how it overfits.

    between two measurements: G_k = fall of the validation loss,
                              O_k = growth of (validation loss - training loss)
    w_k = n max(G_k, 0) / O_k^2 / sum_j max(G_j, 0) / O_j^2
    loss = sum_k w_k L_k

k runs over the multimodal and the unimodal branches, n of them. |O_k| counts as at least a fifth of
the largest among the branches that gain: one whose gap happens not to have changed takes at most 25
times the weight of another with the same gain, not all. With equal ratios, and before the second
measurement, this is the uniform baseline; so it is in runs of --g_blending_every epochs or fewer.

Source: Wang et al. 2020 (CVPR), Eq. 3 and 6, Algorithms 1 and 3, the online form; 10 epochs as
their first super-epoch, those that follow have 5. Departs: the ratios are measured on the branches
of the model in training, over the epochs that have passed, where they train a copy of the network
for every branch by itself, over the epochs to come; |O_k| has no least value there; a branch
without gain has no weight; the weights sum to n and not to 1, to keep the learning rate; where no
branch gains, the weights stay. Needs --val_fraction. Cost: 3 F per step; a forward pass of the
training and the validation split per measurement.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import methods
from models.metrics import predict
from utils.errors import check_at_least

LEAST = 1 / 5  # of the largest |O_k| of a branch that gains


def blending_weights(before: Tensor, now: Tensor) -> Tensor | None:
    """(n,) weights that sum to n, None where no branch gained.

    before, now: (n, 2) training and validation loss of every branch.
    """
    G_k = (before[:, 1] - now[:, 1]).clamp(min=0)
    gains = G_k > 0
    if not gains.any():
        return None
    O_k = (now[:, 1] - now[:, 0]) - (before[:, 1] - before[:, 0])
    O_k = O_k.abs() / O_k[gains].abs().max().clamp(min=torch.finfo(O_k.dtype).tiny)
    ratio = G_k / O_k.clamp(min=LEAST).square()
    return len(now) * ratio / ratio.sum()


class Method(methods.Method):
    needs = {"validation"}

    def __init__(self, g_blending_every=10):
        check_at_least(1, g_blending_every=g_blending_every)
        self.every, self.memory = g_blending_every, {"before": None, "weights": None}
        self._applied = {}  # {loss: its weight in the last step}

    @staticmethod
    def add_options(parser):
        add = parser.add_argument
        add("--g_blending_every", type=int, default=10, metavar="N", help="epochs per measurement")

    def start_epoch(self, epoch, model, loaders, seed=0):
        if model.fusion is None or epoch % self.every:
            return
        columns = []
        for split in ("train_plain", "val"):
            logits, _, target = predict(model, loaders[split])
            columns.append([cross_entropy(x.double(), target).item() for x in logits.values()])
        now = torch.tensor(columns, dtype=torch.float64).T
        before, weights = self.memory["before"], self.memory["weights"]
        measured = None if before is None else blending_weights(before, now)
        self.memory = {"before": now, "weights": weights if measured is None else measured}

    def backward(self, forward, model):
        weights = self.memory["weights"]
        weights = [1.0] * len(forward.losses) if weights is None else weights.tolist()
        self._applied = dict(zip(forward.losses, weights))
        sum(self._applied[name] * loss for name, loss in forward.losses.items()).backward()

    def integrate(self, model):
        n = len(self._applied)
        device = next(model.parameters()).device
        shares = {
            f"weight/loss/{name}": torch.full((), w / n, device=device)
            for name, w in self._applied.items()
        }
        return super().integrate(model) | shares
