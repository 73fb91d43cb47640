"""A4-mlp: a small network that maps anonymised vectors to clear ones, taught by contrast.

One hidden layer beside the vector itself, so that it begins by doing nothing; the right clear vector must beat those of the other photos in the batch (InfoNCE).
Pairs of the same shot and of other shots of the person, both at once. Needs torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moretta.evaluation.attackers.attack import (
    Attacker,
    Candidate,
    Case,
    Floats,
    Ints,
    cosine,
    cross_shot,
    same_shot,
)
from moretta.evaluation.embed import unit
from moretta.evaluation.splits import derived_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

HIDDEN = 512
EPOCHS = 30
LEAST_STEPS = 300
BATCH = 256
RATE = 1e-3
TEMPERATURE = 0.07


def learnt(anon: Floats, clear: Floats, seed: int) -> Any:
    """Return a function (n, length) -> (n, length) unit vectors, learnt on pairs."""
    import torch
    from torch import nn
    from torch.nn import functional

    random = torch.Generator().manual_seed(seed % 2**63)
    length = anon.shape[1]
    network = nn.Sequential(
        nn.Linear(length, HIDDEN), nn.LayerNorm(HIDDEN), nn.GELU(), nn.Linear(HIDDEN, length)
    )
    for one in network:
        if isinstance(one, nn.Linear):
            nn.init.normal_(one.weight, std=one.in_features**-0.5, generator=random)
            nn.init.zeros_(one.bias)
            if one.out_features == length:
                nn.init.zeros_(one.weight)
    shift = torch.from_numpy(anon.mean(0)).float()
    x, y = torch.from_numpy(anon).float() - shift, torch.from_numpy(clear).float()
    whole = max(1, len(x) // BATCH)
    steps = max(LEAST_STEPS, EPOCHS * whole)
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        if step % whole == 0:
            order = torch.randperm(len(x), generator=random)
        batch = order[step % whole * BATCH : (step % whole + 1) * BATCH]
        drawn = functional.normalize(x[batch] + network(x[batch]), dim=1)
        scores = drawn @ y[batch].T / TEMPERATURE
        loss = functional.cross_entropy(scores, torch.arange(len(batch)))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    network.eval()

    def mapped(vectors: Floats) -> Floats:
        with torch.inference_mode():
            centred = torch.from_numpy(vectors).float() - shift
            return unit((centred + network(centred)).numpy())

    return mapped


def candidates(case: Case, rows: Ints) -> Iterator[Candidate]:
    """Yield the untrained twin, then one network an alignment."""
    for name, vectors in case.anon.items():
        yield Candidate(label=f"untrained, points from {name}", score=cosine(vectors, case.clear))
        pairs = [same_shot(case, rows, name), cross_shot(case, rows, name)]
        anon, clear = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
        mapped = learnt(anon, clear, derived_seed(case.seed, "A4-mlp", name))
        yield Candidate(
            label=f"network, points from {name}",
            score=cosine(mapped(vectors), case.clear),
            trained=True,
        )


PERCEPTRON = Attacker(
    name="A4-mlp",
    summary="a small network from anonymised to clear vectors",
    gallery="clear",
    candidates=candidates,
    trained=True,
    packages=("torch",),
)
