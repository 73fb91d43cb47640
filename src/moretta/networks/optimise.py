"""FALCO's optimisation: some rows of W+ move from a neighbour's to a wanted distance from the old face.

Promise   faces do not influence each other: many at once give what each alone gives, within rounding.
          Networks are frozen: no gradient of a weight is kept. A face whose loss is not finite is
          marked lost and left out; the others go on.
Sources   Barattin et al. 2023 (FALCO): losses and schedule as in its published code; facts of FALCO 1.6.
          Kingma and Ba 2015 (Adam), written out so that faces can leave a batch.
Checked   tests/networks/test_optimise.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moretta.errors import UsageError
from moretta.networks.features import Seen, distance

if TYPE_CHECKING:
    from moretta.networks.backend import Backend
    from moretta.networks.features import Features

RATE, MILESTONES, GAMMA = 0.01, (0.75, 0.9), 0.8
IDENTITY, ATTRIBUTES = 10.0, 0.1  # weights of the two losses
PATIENCE = 10  # steps without progress after which a face stops
PROGRESS = 0.002  # of its loss: less is none
_BETAS, _TINY = (0.9, 0.999), 1e-8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """n faces to be moved."""

    pictures: torch.Tensor  # (n, 3, side, side) -1..1
    points: torch.Tensor  # (n, 5, 2) in sides
    rows: (
        torch.Tensor
    )  # (n, rows, latent): the photo's own code, the neighbour's rows already in it
    moved: Sequence[int]  # the rows that are trained
    old: torch.Tensor  # (n, length): unit vectors of the old faces
    truth: torch.Tensor  # (n, tokens, channels): attribute tokens of the old faces
    targets: torch.Tensor  # (n,): the cosine to reach

    def __len__(self) -> int:
        return len(self.pictures)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moved:
    """What became of them."""

    rows: torch.Tensor  # (n, rows, latent)
    pictures: torch.Tensor  # (n, 3, side, side): the drawn face in its crop, not clamped
    cosines: torch.Tensor  # (n,): to the old face, in the recogniser of the loss
    attributes: torch.Tensor  # (n,): distance of attribute features
    steps: torch.Tensor  # (n,): taken
    lost: torch.Tensor  # (n,) bool: not finite; such a face must not be shown


def rates(steps: int) -> list[float]:
    """Return the learning rate of each step.

    >>> rates(50)[36], rates(50)[37], rates(50)[45]
    (0.01, 0.008, 0.0064)
    """
    turns = [int(share * steps) for share in MILESTONES]
    return [round(RATE * GAMMA ** sum(step >= turn for turn in turns), 10) for step in range(steps)]


def require_gradient(backend: Backend) -> None:
    """Raise UsageError when no gradient comes back from the backend's recogniser to a picture."""
    from moretta.networks.attributes import WIDE_POINTS

    points = torch.tensor(WIDE_POINTS, device=backend.device)[None]
    pattern = torch.linspace(-0.5, 0.5, backend.side, device=backend.device)
    picture = (pattern[:, None] * pattern).expand(1, 3, -1, -1).clone().requires_grad_(True)
    with torch.enable_grad():
        try:
            vectors, _ = backend.seen(picture, points)
            (gradient,) = torch.autograd.grad(vectors[:, 0].sum(), picture)
        except RuntimeError:
            gradient = None
    if gradient is None or not torch.isfinite(gradient).all() or not gradient.abs().sum():
        raise UsageError(
            "the backend's recogniser gives no gradient, so no face can be moved away from it",
            hint="falco needs a recogniser in torch; one that runs in onnxruntime can only judge",
        )


def move(
    task: Task, backend: Backend, features: Features, *, steps: int, stops: bool = True
) -> Moved:
    """Lower IDENTITY * |cosine - target| + ATTRIBUTES * distance of features over the moved rows.

    stops: a face that gets no better for PATIENCE steps leaves the batch, and the best of its steps
    counts; otherwise all steps are taken and the last one counts, as published. 0 steps only draw.
    """
    n, device = len(task), task.rows.device
    columns = list(task.moved)
    first_moved = min(columns)  # what comes before it is drawn once
    with torch.no_grad():
        context = backend.context(task.pictures)
        _, begun = backend.begun(context, task.points, backend.styles(task.rows))
    theta = task.rows[:, columns].clone()
    first, second = torch.zeros_like(theta), torch.zeros_like(theta)
    best = theta.clone()
    least = torch.full((n,), torch.inf, dtype=theta.dtype, device=device)
    mark = least.clone()  # the loss from which progress is counted
    since = torch.zeros(n, dtype=torch.long, device=device)
    taken, lost = since.clone(), torch.zeros(n, dtype=torch.bool, device=device)
    active = torch.arange(n, device=device)

    def look(which: torch.Tensor, moved: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows = task.rows[which].clone()
        rows[:, columns] = moved
        shown, points = task.pictures[which], task.points[which]
        styles = backend.styles(rows)
        drawn = backend.composed(shown, backend.continued(begun.of(which), styles, first_moved))
        vectors, maps = backend.seen(drawn, points)
        seen: Seen = features.of(drawn, points, maps=maps)
        cosines = (vectors * task.old[which]).sum(1)
        return rows, drawn, cosines, distance(seen.tokens, task.truth[which])

    for step, rate in enumerate(rates(steps)):
        if not len(active):
            break
        with torch.enable_grad():
            moving = theta[active].detach().requires_grad_(True)
            _, _, cosines, apart = look(active, moving)
            loss = IDENTITY * (cosines - task.targets[active]).abs() + ATTRIBUTES * apart
            sound = torch.isfinite(loss)
            total = torch.where(sound, loss, 0.0).sum()
            (gradient,) = torch.autograd.grad(total, moving)
        loss = loss.detach()
        sound &= torch.isfinite(gradient).flatten(1).all(1)
        lost[active[~sound]] = True
        active, loss, gradient = active[sound], loss[sound], gradient[sound]
        better = loss < least[active]
        best[active[better]] = theta[active[better]]
        least[active] = torch.minimum(least[active], loss)
        gained = loss < mark[active] * (1 - PROGRESS)
        mark[active] = torch.where(gained, loss, mark[active])
        since[active] = torch.where(gained, 0, since[active] + 1)
        first[active] = first[active] * _BETAS[0] + gradient * (1 - _BETAS[0])
        second[active] = second[active] * _BETAS[1] + gradient.square() * (1 - _BETAS[1])
        up = first[active] / (1 - _BETAS[0] ** (step + 1))
        down = (second[active] / (1 - _BETAS[1] ** (step + 1))).sqrt() + _TINY
        theta[active] -= rate * up / down
        taken[active] += 1
        if stops:
            active = active[since[active] < PATIENCE]
    final = theta
    with torch.no_grad():
        every = torch.arange(n, device=device)
        rows, drawn, cosines, apart = look(every, final)
        loss = IDENTITY * (cosines - task.targets).abs() + ATTRIBUTES * apart
        worse = ~(loss <= least) & ~lost
        if stops and steps and worse.any():
            which = every[worse]
            parts = look(which, best[which])
            for whole, part in zip((rows, drawn, cosines, apart), parts, strict=True):
                whole[which] = part
        lost |= ~torch.isfinite(drawn).flatten(1).all(1) | ~torch.isfinite(cosines)
        lost |= ~torch.isfinite(apart)
    return Moved(
        rows=rows, pictures=drawn, cosines=cosines, attributes=apart, steps=taken, lost=lost
    )
