"""Shared by methods that look at each loss's own gradient: .grad of a group of parameters is
sum_i c_i g_i, the factors c computed from nothing but the inner products <g_i, g_j> of n losses.

A method that gives a mean or a convex combination gets c = n times its weights, so that equal
weights are the uniform baseline and all methods run at one learning rate; each file says so. A
common factor on all gradients (a loss scale) must not change c. What is not finite, and gradients
that are zero, are as in ../mmpareto.py. Every loss is back-propagated once: 5 F per step for two
encoders, each with two losses.
"""

from functools import partial

import torch
from torch import Tensor

from methods import Method, generator_of, norms_of_sum
from mmpareto import LossGradients, cosines, rounding_of
from models.reach import outside
from utils import distributed


class PerLoss(Method):
    """A method is its `factors`; MMPareto also has a gain and a rescaling, see `integrate`."""

    gamma, rescale = 1.0, "none"

    def __init__(self, groups: str = "encoder"):
        self._together, self._gradients = groups == "together", None
        self._generator = generator_of(seed=0, epoch=0)  # for methods that draw
        self.rounding: dict[str, float] = {}  # {group: `rounding_of` its gradients}

    @staticmethod
    def add_options(parser):
        parser.add_argument(
            "--groups",
            choices=("encoder", "together"),
            default="encoder",
            help="combine the gradients of each encoder by itself, or of all encoders together; "
            "losses that reach no common encoder have cosine 0 there",
        )

    def factors(self, gram: Tensor, group: str, losses: list[str]) -> Tensor:
        """(n,) factors of the gradients of n `losses` on `group`, from inner products (n, n); here
        ones, the uniform baseline."""
        return torch.ones_like(gram[0])

    def _of_losses(self, group: str, losses: list[str]) -> dict[str, Tensor]:
        """What `memory` has of a group, {loss: value}, for methods that remember each loss."""
        values = self.memory.setdefault(group, {})
        if torch.is_tensor(values):  # (n,), as checkpoints had it before November 2026
            self.memory[group] = values = dict(zip(losses, values))
        return values

    def start_epoch(self, epoch, model, loaders, seed=0):
        self._generator = generator_of(seed, epoch)

    def backward(self, forward, model):
        if self._gradients is None:
            encoders = model.encoder_parameters()
            rest = outside(encoders, model.parameters())
            self._gradients = LossGradients(encoders | {"shared": rest})
        trained = {n: loss for n, loss in forward.losses.items() if loss.requires_grad}
        self._gradients.add(trained)

    def to_sum(self, model):
        sums = self._gradients.sums
        return distributed.completed(list(sums.values()), list(model.parameters()))

    def integrate(self, model):
        gradients, self._gradients = self._gradients, None
        gradients.groups = regrouped(gradients, self._together)
        self.rounding = {
            g: rounding_of(of_group) for g, of_group in gradients.groups.items() if of_group
        }
        rules = {
            group: partial(self.factors, group=group, losses=gradients.losses_of(group))
            for group in gradients.groups
        }
        diagnostics = gradients.integrate(self.gamma, self.rescale, rules)
        return diagnostics or norms_of_sum(model.encoder_parameters())  # there is one loss alone


def regrouped(gradients: LossGradients, together: bool) -> dict[str, list[Tensor]]:
    """The groups as this step's gradients show them, of all parts of the batch and all processes.

    Outside the encoders, what several losses reach is "shared"; what one loss reaches, such as its
    head, is a group of that loss alone and has its plain gradient.
    """
    groups = dict(gradients.groups)
    rest = groups.pop("shared")
    losses_of = {p: [name for name, sums in gradients.sums.items() if p in sums] for p in rest}
    if shared := [p for p in rest if len(losses_of[p]) > 1]:
        groups["shared"] = shared
    if together:
        groups = {"encoders": [p for parameters in groups.values() for p in parameters]}
    alone = {
        f"{name} alone": [p for p in rest if losses_of[p] == [name]] for name in gradients.sums
    }
    return groups | alone


def compared(gram: Tensor) -> tuple[Tensor, Tensor]:
    """(norms (n,), cosines (n, n)) from inner products, in which a zero gradient is orthogonal to
    the others."""
    norms = gram.diagonal().sqrt()
    is_there = (norms > 0).outer(norms > 0)
    return norms, torch.where(is_there, cosines(gram), torch.eye(len(gram)).to(gram))


def spectrum(gram: Tensor, rounding: float) -> tuple[Tensor, Tensor]:
    """(lambda (n,), V (n, n)) with gram = V diag(lambda) V^T; zero is what may be rounding.

    Gradients span as many directions as their cosines have eigenvalues above `rounding`: that a
    gradient is short does not make it rounding.
    """
    norms, cosine = compared(gram)
    rank = (torch.linalg.eigvalsh(cosine) > rounding).sum() - (norms == 0).sum()
    values, vectors = torch.linalg.eigh(gram)  # the largest last
    is_kept = torch.arange(len(gram), 0, -1, device=gram.device) <= rank
    return torch.where(is_kept, values.clamp(min=0), 0), vectors


def inverse_where_positive(values: Tensor) -> Tensor:
    """1 / values, 0 where they are 0."""
    return torch.where(values > 0, 1 / values, 0)


class TorchJD(PerLoss):
    """n times the weights that a weighting of the library TorchJD gives.

    Raises ValueError with the command that installs what is missing.
    """

    needs = {"waits_for_device"}
    weighting: str  # the name of its class in TorchJD
    package = "torchjd"

    def __init__(self, groups: str = "encoder", **settings):
        super().__init__(groups)
        try:
            from torchjd import aggregation

            self._weigh = vars(aggregation)[self.weighting](**settings)
        except (ImportError, KeyError) as missing:
            raise ValueError(f"needs TorchJD, pip install '{self.package}' ({missing})") from None

    def factors(self, gram, group, losses):
        return len(gram) * self._weigh(unscaled(gram))


def unscaled(gram: Tensor) -> Tensor:
    """Inner products of the gradients after the longest has length 1: the loss scale is in all."""
    longest = gram.diagonal().amax()  # its square
    return gram / torch.where(longest > 0, longest, 1)
