"""Float64 losses of 20 steps of every method, to hold one version of the code against another.

PYTHONPATH=. python tests/same_losses.py before.json      in the older checkout: writes them
PYTHONPATH=. python tests/same_losses.py before.json      in the newer one: compares

A change that should not alter results leaves them within 1e-10; status 1 where it does not. Two and
three modalities, momentum SGD, at a learning rate at which gradients are in and out of conflict.
"""

import json
import sys
from pathlib import Path

import torch
from steps import build_method, build_model, forward, start, take_step

from utils import registry

LIMIT = 1e-10
ARGUMENTS = {
    "mmpareto": [[], ["--rescale", "encoder"], ["--rescale", "none"]],
    "uniform": [[], ["--encoder_grad_scale", "1.5"], ["--measure_conflict"]],
    "pcgrad": [[], ["--groups", "together"]],
}


def losses_of(modalities: tuple[str, ...], name: str, argv: list[str]) -> list[list[float]]:
    """(20, 1 + M) losses."""
    torch.manual_seed(0)
    model, method = build_model(name, modalities).double(), build_method(name, *argv)
    start(method, model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    history, conflicts = [], []
    for step in range(20):
        optimizer.zero_grad()
        given = forward(model, seed=step % 5)
        diagnostics = take_step(method, model, given)
        optimizer.step()
        history.append([loss.item() for loss in given.losses.values()])
        conflicts += [v.item() <= 0 for k, v in diagnostics.items() if k.startswith("cosine/")]
    share = 100 * sum(conflicts) / max(1, len(conflicts))
    print(f"{name} {' '.join(argv)}: last {history[-1][0]:.6f}, {share:.0f} % in conflict")
    return history


def main(file: Path) -> int:
    now = {}
    for modalities in (("audio", "visual"), ("audio", "visual", "flow")):
        for name in registry.names("methods"):
            for argv in ARGUMENTS.get(name, [[]]):
                key = f"{' '.join([name, *argv])}, {len(modalities)} modalities"
                now[key] = losses_of(modalities, name, argv)
    if not file.exists():
        file.write_text(json.dumps(now))
        return 0
    before, differs = json.loads(file.read_text()), 0
    for key in sorted(before.keys() & now.keys()):
        a, b = (torch.tensor(x[key], dtype=torch.float64) for x in (before, now))
        worst = ((a - b).abs() / a.abs().clamp(min=1)).max().item()
        print(f"{'same' if worst <= LIMIT else 'DIFFERS'} {worst:.1e} {key}")
        differs += not worst <= LIMIT
    print("new:", sorted(now.keys() - before.keys()), "gone:", sorted(before.keys() - now.keys()))
    return int(differs > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
