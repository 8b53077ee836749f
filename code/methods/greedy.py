"""Greedy (balanced multimodal learning): an encoder that learns too much from the others is made
to learn from its own modality for some steps.

    mu(theta) = |g|^2 / |theta|^2                                         of one regular step
    s_m = log10( sum_steps mu(gates of m) / sum_steps mu(encoder m) )     conditional learning speed
    max_m s_m - min_m s_m > tolerance:  for --greedy_steps steps the gates of the modality with the
        largest s_m are their mean over all steps so far, and no longer depend on the others

`--fusion mmtm` gives the gates. Steps with held gates do not count for s. With an infinite
tolerance this is the uniform baseline on that fusion.

Source: Wu et al. 2022 (ICML), Sec. 4 and Algorithm 1; the sums, the logarithm and the held gate as
in their published code, and its defaults: tolerance 0.01, 5 steps, 2 epochs without. Departs: the
multimodal loss is in the sum, where they sum the branches' alone and average their logits; an
encoder's own head is not part of its speed. For two modalities the rule is theirs; with more it
is by the largest and the smallest. Unimodal heads: yes. Cost: 3 F per step.
"""

import torch
from torch.utils._pytree import tree_map

import methods


class Method(methods.Method):
    needs = {"whole_batch", "gates"}

    def __init__(self, greedy_tolerance=0.01, greedy_steps=5, greedy_start=2):
        if not greedy_tolerance >= 0:
            raise ValueError(f"--greedy_tolerance {greedy_tolerance}: must be at least 0")
        if greedy_steps < 1:
            raise ValueError(f"--greedy_steps {greedy_steps}: must be at least 1")
        if greedy_start < 0:
            raise ValueError(f"--greedy_start {greedy_start}: must be at least 0")
        self.tolerance, self.window, self.start = greedy_tolerance, greedy_steps, greedy_start
        self.state = {}  # tensors, so that nothing waits for the device; see `_look_back`
        self._epoch, self._loss_scale, self._samples, self._gates = 0, 1.0, None, []

    @staticmethod
    def add_options(parser):
        add = parser.add_argument
        add("--greedy_tolerance", type=float, default=0.01, help="difference of speeds, at least 0")
        add("--greedy_steps", type=int, default=5, metavar="N", help="steps with held gates")
        add("--greedy_start", type=int, default=2, metavar="EPOCHS", help="epochs without")

    @torch.no_grad()
    def backward(self, forward, model):
        with torch.enable_grad():
            super().backward(forward, model)
        if model.fusion is None:
            return
        gates = model.fusion.last_gates
        self._gates = [{m: exact(x).sum(0) for m, x in stage.items()} for stage in gates]
        like = next(iter(self._gates[0].values()))
        self._samples = torch.tensor(len(forward.target)).to(like)
        self._epoch, self._loss_scale = forward.epoch, forward.scale / len(forward.target)

    def to_sum(self, model):
        if model.fusion is None:
            return super().to_sum(model)
        of_gates = [x for stage in self._gates for x in stage.values()]
        return [*super().to_sum(model), self._samples, *of_gates]

    @torch.no_grad()
    def integrate(self, model):
        diagnostics = super().integrate(model)
        if model.fusion is not None:
            diagnostics |= self._look_back(model)
            self._hold(model)
        return diagnostics

    def _look_back(self, model):
        """After a step: the mean gates, the speeds, and whether to hold gates in those to come."""
        sums, samples = self._gates, self._samples
        encoders, gates = model.encoder_parameters(), model.fusion.gate_parameters()
        moves = [relative_move(ps) for m in encoders for ps in (gates[m], encoders[m])]
        # without the loss scale of fp16, which would weigh the steps
        moves = torch.stack(moves).view(-1, 2) / (self._loss_scale * samples) ** 2

        state = self.state = self.state or {
            "steps": 0,
            "gates": [{m: torch.zeros_like(x) for m, x in stage.items()} for stage in sums],
            "moves": torch.zeros_like(moves),  # (M, 2): of the gates, of the encoder
            "held": torch.zeros((), dtype=torch.long, device=moves.device),  # which modality
            "left": torch.zeros((), dtype=torch.long, device=moves.device),  # for how many steps
        }
        state["steps"] += 1
        for means, stage in zip(state["gates"], sums):
            for modality, x in stage.items():
                means[modality] += (x / samples - means[modality]) / state["steps"]
        regular = state["left"] == 0
        state["moves"] += torch.where(regular, moves, 0)
        speeds = (state["moves"][:, 0] / state["moves"][:, 1]).log10()
        biased = regular & (speeds.max() - speeds.min() > self.tolerance)
        biased &= self._epoch >= self.start
        state["held"] = torch.where(biased, speeds.argmax(), state["held"])
        state["left"] = torch.where(biased, self.window, (state["left"] - 1).clamp(min=0))
        return {f"speed/{m}": speed for m, speed in zip(encoders, speeds)}

    def _hold(self, model):
        if self.state:
            is_on = self.state["left"] > 0
            model.fusion.held = {
                m: (is_on & (self.state["held"] == i), [stage[m] for stage in self.state["gates"]])
                for i, m in enumerate(model.encoders)
            }

    def start_epoch(self, epoch, model, loaders, seed=0):
        device = next(model.parameters()).device
        self.state = tree_map(lambda x: x.to(device) if torch.is_tensor(x) else x, self.state)
        self._hold(model)  # which after a resume does not know

    def state_dict(self):
        return dict(self.state)

    def load_state_dict(self, state):
        self.state = dict(state)


def exact(x):
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def relative_move(parameters):
    """|g|^2 / |theta|^2 of all together."""
    pairs = [(p.grad, p) for p in parameters if p.grad is not None]
    sums = [torch.stack([exact(x).square().sum() for x in own]).sum() for own in zip(*pairs)]
    return sums[0] / sums[1]
