"""A2-whole: a recogniser itself trained further, on anonymised and clear faces of other people.

The last blocks of dlib's network (the one that is here with gradients), taught by CosFace on all released
faces of part T and every second clear one; the blocks before are computed once. Both galleries are tried.
Sources  Wang et al. 2018 (CosFace: scale 64, margin 0.4). Needs torch; profile full.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moretta.evaluation.attackers.attack import Attacker, Candidate, Case, Floats, Ints, cosine
from moretta.evaluation.embed import unit
from moretta.evaluation.splits import derived_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moretta.records import Pixels

EPOCHS = 12
LEAST_STEPS = 60
BATCH = 48
RATE = 0.01
SCALE, MARGIN = 64.0, 0.4
TUNED = 6  # blocks at the end that learn


def tuned(network: Any, inputs: Any, people: Ints, seed: int) -> Any:
    """Return `network` (inputs -> vectors) after CosFace on `people`; it is changed in place.

    inputs: (n, ...) tensor. people: (n,).
    """
    import torch
    from torch import nn
    from torch.nn import functional

    random = torch.Generator().manual_seed(seed % 2**63)
    _, index = np.unique(people, return_inverse=True)
    labels = torch.from_numpy(index.astype(np.int64))
    with torch.inference_mode():
        start = torch.cat([network(part) for part in inputs.split(64)])
    means = torch.zeros(int(labels.max()) + 1, start.shape[1])
    means.index_add_(0, labels, functional.normalize(start.clone(), dim=1))
    centres = nn.Parameter(functional.normalize(means, dim=1))
    optimiser = torch.optim.SGD(
        [*network.parameters(), centres], lr=RATE, momentum=0.9, weight_decay=5e-4
    )
    whole = max(1, len(inputs) // BATCH)
    steps = max(LEAST_STEPS, EPOCHS * whole)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        if step % whole == 0:
            order = torch.randperm(len(inputs), generator=random)
        batch = order[step % whole * BATCH : (step % whole + 1) * BATCH]
        vectors = functional.normalize(network(inputs[batch]), dim=1)
        cosines = vectors @ functional.normalize(centres, dim=1).T
        less = MARGIN * functional.one_hot(labels[batch], cosines.shape[1])
        loss = functional.cross_entropy(SCALE * (cosines - less), labels[batch])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        schedule.step()
    return network


def _halves() -> tuple[Any, Any]:
    """Return dlib's network cut in two: chips -> maps, and maps -> vectors."""
    import torch
    from torch import nn

    from moretta.networks.recogniser import DlibResNet
    from moretta.weights import load

    whole = DlibResNet.from_tensors(load.tensors("dlib")).float()

    class Front(nn.Module):
        def forward(self, chips: torch.Tensor) -> torch.Tensor:
            x = (chips - whole.means) / 256
            x = nn.functional.max_pool2d(nn.functional.relu(whole.stem(x)), 3, 2)
            for block in whole.blocks[:-TUNED]:
                x = block(x)
            return x

    class Back(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks, self.output = whole.blocks[-TUNED:], whole.output

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = block(x)
            return self.output(x.mean((2, 3)))  # type: ignore[no-any-return]

    return Front(), Back()


def candidates(case: Case, rows: Ints) -> Iterator[Candidate]:
    """Yield the untrained twins, then the tuned network against both galleries."""
    import torch

    if case.clear_crops is None or case.anon_crops is None:
        raise ValueError("a recogniser needs crops")
    released = case.anon["clear"]
    yield Candidate(label="untrained, anonymised gallery", score=cosine(released, released))
    yield Candidate(label="untrained, clear gallery", score=cosine(released, case.clear))
    front, back = _halves()

    def maps(crops: Pixels) -> Any:
        parts = []
        with torch.inference_mode():
            for start in range(0, len(crops), 32):
                chips = np.ascontiguousarray(crops[start : start + 32].transpose(0, 3, 1, 2))
                parts.append(front(torch.from_numpy(chips).float()))
        return torch.cat(parts).clone()

    needed = np.flatnonzero(~case.training)
    for parameter in back.parameters():
        parameter.requires_grad_(requires_grad=True)
    inputs = torch.cat([maps(case.anon_crops["clear"][rows]), maps(case.clear_crops[rows[::2]])])
    people = np.concatenate([case.people[rows], case.people[rows[::2]]])
    network = tuned(back, inputs, people, derived_seed(case.seed, "A2-whole"))

    def vectors(crops: Pixels) -> Floats:
        made = np.zeros((len(crops), 128))
        with torch.inference_mode():
            for start in range(0, len(needed), 64):
                some = needed[start : start + 64]
                made[some] = network(maps(crops[some])).numpy()
        return unit(made)

    anon, clear = vectors(case.anon_crops["clear"]), vectors(case.clear_crops)
    label = f"last {TUNED} blocks tuned"
    yield Candidate(label=f"{label}, anonymised gallery", score=cosine(anon, anon), trained=True)
    yield Candidate(label=f"{label}, clear gallery", score=cosine(anon, clear), trained=True)


WHOLE = Attacker(
    name="A2-whole",
    summary="dlib's network trained further on anonymised faces",
    gallery="anon",
    candidates=candidates,
    trained=True,
    pixels=True,
    packages=("torch",),
    since="full",
    only=("dlib",),
)
