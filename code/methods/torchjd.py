"""TorchJD: any of that library's weightings by inner products, with its default arguments.

    .grad of a group = sum_i c_i g_i,  c = weights by --torchjd_weighting

Weights that add up to 1 where gradients are orthogonal and of equal length come times n (see
_per_loss.py). upgrad, cagrad, imtl_g and aligned_mtl have files of their own, with the defaults and
departures of their papers; here they are as TorchJD has them.

Source: TorchJD (Quinton & Rey 2024), whose documentation names the paper of each weighting.
Departs: inner products are in float64 and divided by the largest. Its rules for whole gradients and
its scalarisations are not here: they need more than inner products, or an optimizer of their own.
Cost: a backward pass per loss, 5 F per step.
"""

import inspect

import torch

from methods._per_loss import PerLoss, unscaled


class Method(PerLoss):
    needs = {"waits_for_device"}

    def __init__(self, torchjd_weighting="GradVac", groups="encoder"):
        super().__init__(groups)
        self.memory = {}  # {group: what its weighting remembers}
        self._build, self._weightings = class_of(torchjd_weighting), {}
        with_defaults(self._build)

    @staticmethod
    def add_options(parser):
        PerLoss.add_options(parser)
        parser.add_argument(
            "--torchjd_weighting",
            default="GradVac",
            metavar="NAME",
            help="an aggregator of TorchJD that weighs by inner products, such as DualProj",
        )

    def factors(self, gram, group, losses):
        apart = torch.eye(len(gram), dtype=gram.dtype)
        if group not in self._weightings:
            weighting = self._weightings[group] = with_defaults(self._build)
            if group in self.memory:
                weighting(apart)  # after which it has room for what it remembers
                weighting.load_state_dict(self.memory[group])
        weigh = self._weightings[group]
        seed = torch.randint(2**31, (), generator=self._generator).item()
        with torch.random.fork_rng(devices=[]):  # some draw an order
            torch.manual_seed(seed)
            weights = weigh(unscaled(gram).cpu()).to(gram)
            adds_up_to = with_defaults(self._build)(apart).sum()
        self.memory[group] = weigh.state_dict()
        return len(gram) * weights if torch.isclose(adds_up_to, apart[0, 0]) else weights


def class_of(name: str) -> type:
    """Raises ValueError for what TorchJD does not have, or cannot build without arguments."""
    try:
        from torchjd import aggregation
    except ImportError as missing:
        install = "pip install 'torchjd[quadprog-projector]'"
        raise ValueError(f"needs TorchJD, {install} ({missing})") from None
    base = aggregation.GramianWeightedAggregator
    kinds = [x for x in vars(aggregation).values() if isinstance(x, type) and issubclass(x, base)]
    needed = {kind.__name__: arguments_of(kind) for kind in kinds if kind is not base}
    if name not in needed:
        known = ", ".join(kind for kind, arguments in needed.items() if not arguments)
        raise ValueError(f"--torchjd_weighting {name}: choose from {known}")
    if needed[name]:
        arguments = ", ".join(needed[name])
        raise ValueError(f"--torchjd_weighting {name}: TorchJD has no default for {arguments}")
    return vars(aggregation)[name]


def arguments_of(kind: type) -> list[str]:
    """Those without a default."""
    parameters = inspect.signature(kind).parameters.values()
    return [p.name for p in parameters if p.default is p.empty]


def with_defaults(kind: type):
    """A weighting. Raises ValueError where a package is missing."""
    try:
        return kind().gramian_weighting
    except ImportError as missing:
        raise ValueError(f"{missing}") from None
