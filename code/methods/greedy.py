"""Greedy (balanced multimodal learning): an encoder that learns too much from the others is made
to learn from its own modality for some steps.

    mu(theta) = |g|^2 / |theta|^2                                         of one regular step
    s_m = log10( sum_steps mu(gates of m) / sum_steps mu(encoder m) )     conditional learning speed
    max_m s_m - min_m s_m > tolerance:  for --greedy_steps steps the gates of the modality with the
        largest s_m are their mean over all steps so far, and no longer depend on the others

`--fusion mmtm` gives the gates. Steps with held gates do not count for s. With an infinite
tolerance this is the uniform baseline on that fusion. A modality of which the gates or the encoder
have not moved yet (frozen) has no speed: it is neither compared nor held, and s is written as 0.

Source: Wu et al. 2022 (ICML), Sec. 4 and Algorithm 1; the sums, the logarithm and the held gate as
in their published code, nyukat/greedy_multimodal_learning, and its defaults: tolerance 0.01, 5
steps, 1 epoch without (their starting epoch 2 is counted from 1). Departs: the multimodal loss is
in the sum, where they sum the branches' alone and average their logits; an encoder's own head is
not part of its speed; held gates are means of a modality's own gates in training, where theirs
count evaluation in and are, by a slip, the first modality's for both; a gate is 2 sigmoid, theirs
sigmoid, see models/fusion/mmtm.py. For two modalities the rule is theirs; with more it is by the
largest and the smallest. Cost: 3 F per step.
"""

import torch
from torch.nn.utils import get_total_norm
from torch.utils._pytree import tree_map

import methods
from utils.errors import check_at_least


class Method(methods.Method):
    needs = {"whole_batch", "gates"}

    def __init__(self, greedy_tolerance=0.01, greedy_steps=5, greedy_start=1):
        check_at_least(0, greedy_tolerance=greedy_tolerance, greedy_start=greedy_start)
        check_at_least(1, greedy_steps=greedy_steps)
        self.tolerance, self.window, self.start = greedy_tolerance, greedy_steps, greedy_start
        self.memory = {}  # tensors, so that nothing waits for the device; see `_count_step`
        self._epoch, self._scale_per_sample = 0, 1.0
        # of the batch: how many samples, and their gates summed, per stage {modality: (C,)}
        self._samples, self._gates = None, []

    @staticmethod
    def add_options(parser):
        add = parser.add_argument
        add("--greedy_tolerance", type=float, default=0.01, help="difference of speeds, at least 0")
        add("--greedy_steps", type=int, default=5, metavar="N", help="steps with held gates")
        add("--greedy_start", type=int, default=1, metavar="EPOCHS", help="epochs without")

    def start_epoch(self, epoch, model, loaders, seed=0):
        device = next(model.parameters()).device
        self.memory = tree_map(lambda x: x.to(device) if torch.is_tensor(x) else x, self.memory)
        self._hold_gates(model)  # which after a resume does not know

    def backward(self, forward, model):
        super().backward(forward, model)
        if model.fusion is not None:
            gates = model.fusion.last_gates
            any_gate = next(iter(gates[0].values()))
            wide = torch.promote_types(any_gate.dtype, torch.float32)  # not in half precision
            self._gates = tree_map(lambda gate: gate.sum(0, dtype=wide), gates)
            samples = len(forward.target)
            self._samples = torch.full((), samples, dtype=wide, device=any_gate.device)
            self._scale_per_sample = forward.scale / samples
            self._epoch = forward.epoch

    def to_sum(self, model):
        if model.fusion is None:
            return super().to_sum(model)
        gates = [x for stage in self._gates for x in stage.values()]
        return [*super().to_sum(model), self._samples, *gates]

    @torch.no_grad()
    def integrate(self, model):
        diagnostics = super().integrate(model)
        if model.fusion is not None:
            self._count_step(model)
            moves = self.memory["moves"]
            has_speed = (moves > 0).all(1)
            speeds = torch.where(has_speed, (moves[:, 0] / moves[:, 1]).log10(), 0)
            self._choose_held(speeds, has_speed)
            self._hold_gates(model)
            diagnostics |= {f"speed/{m}": s for m, s in zip(model.encoders, speeds)}
        return diagnostics

    def _count_step(self, model):
        """Counts gates and moves of this step in."""
        encoders, gates = model.encoder_parameters(), model.fusion.gate_parameters()
        at_rest = torch.zeros_like(self._samples)
        moves = [move(of[m], at_rest) for m in encoders for of in (gates, encoders)]
        # without the loss scale of fp16, which would weigh the steps
        mu = torch.stack(moves).view(-1, 2) / (self._scale_per_sample * self._samples) ** 2
        mu = torch.where(mu.isfinite(), mu, 0)  # theta = 0, or a gradient that overflowed in fp16
        if not self.memory:
            self.memory = {
                "steps": 0,
                "gates": tree_map(torch.zeros_like, self._gates),  # means over all steps
                "moves": torch.zeros_like(mu),  # (M, 2) sums of mu: of the gates, of the encoder
                "held": torch.zeros((), dtype=torch.long, device=mu.device),  # which modality
                "left": torch.zeros((), dtype=torch.long, device=mu.device),  # for how many steps
            }
        memory = self.memory
        memory["steps"] += 1
        for means, sums in zip(memory["gates"], self._gates):
            for modality, x in sums.items():
                means[modality] += (x / self._samples - means[modality]) / memory["steps"]
        is_regular = memory["left"] == 0
        memory["moves"] += torch.where(is_regular, mu, 0)

    def _choose_held(self, s, has_speed):
        """Whose gates to hold in the steps to come, and in how many of them. Both (M,)."""
        memory = self.memory
        is_regular = memory["left"] == 0
        fastest = torch.where(has_speed, s, -torch.inf)
        slowest = torch.where(has_speed, s, torch.inf).min()
        is_uneven = fastest.max() - slowest > self.tolerance  # -inf where none has a speed
        starts = is_regular & is_uneven & (self._epoch >= self.start)
        memory["held"] = torch.where(starts, fastest.argmax(), memory["held"])
        memory["left"] = torch.where(starts, self.window, (memory["left"] - 1).clamp(min=0))

    def _hold_gates(self, model):
        if self.memory:
            is_on, held = self.memory["left"] > 0, self.memory["held"]
            model.fusion.is_held = {m: is_on & (held == i) for i, m in enumerate(model.encoders)}
            model.fusion.held_gates = self.memory["gates"]


def move(parameters, at_rest):
    """mu = |g|^2 / |theta|^2 of all that have a gradient, together; `at_rest` where none has."""
    moved = [p for p in parameters if p.grad is not None]
    if not moved:
        return at_rest
    return (get_total_norm([p.grad for p in moved]) / get_total_norm(moved)) ** 2
