"""A3-net: a restoration network, learnt on pairs of released and clear crops of other people.

A small U-Net with a dense bottleneck, so that a shuffle across the whole picture can be undone too. Loss:
L1 and half of 1 - SSIM, no recogniser in it. Snapshots during training are candidates; V chooses.
Sources  Ronneberger et al. 2015; the bottleneck after SEBA's convlinae. Needs torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moretta.evaluation.attackers.attack import Attacker, Candidate, Case, Ints, cosine
from moretta.evaluation.attackers.restorer import ALIGNMENT, drawn, lazily, small
from moretta.evaluation.splits import derived_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moretta.evaluation.attackers.attack import Floats
    from moretta.records import Pixels

SIDE = 64  # px
WIDTH = 24
CODE = 256  # numbers in the bottleneck
EPOCHS = 8
LEAST_STEPS = 120
BATCH = 16
RATE = 3e-3
SNAPSHOTS = (0.5, 1.0)  # of the training


def _network(side: int) -> Any:
    import torch
    from torch import nn

    def block(into: int, out: int, stride: int = 1) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(into, out, 3, stride, 1), nn.LeakyReLU(0.2))

    class Restoring(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            a, b, c = WIDTH, 2 * WIDTH, 4 * WIDTH
            self.down_1, self.down_2 = block(3, a), block(a, b, 2)
            self.down_4, self.down_8 = block(b, c, 2), block(c, c, 2)
            flat = c * (side // 8) ** 2
            self.code, self.back = nn.Linear(flat, CODE), nn.Linear(CODE, flat)
            self.up = nn.Upsample(scale_factor=2, mode="nearest")
            self.up_4, self.up_2 = block(2 * c, b), block(2 * b, a)
            self.up_1, self.last = block(2 * a, a), nn.Conv2d(a, 3, 3, 1, 1)
            for one in self.modules():
                if isinstance(one, nn.Conv2d | nn.Linear):
                    nn.init.kaiming_normal_(one.weight, a=0.2)
                    one.bias.data.zero_()  # type: ignore[union-attr]
            nn.init.normal_(self.last.weight, std=0.01)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            one = self.down_1(x)
            two = self.down_2(one)
            four = self.down_4(two)
            eight = self.down_8(four)
            deep = eight + self.back(self.code(eight.flatten(1))).view_as(eight)
            y = self.up_4(torch.cat([self.up(deep), four], 1))
            y = self.up_2(torch.cat([self.up(y), two], 1))
            y = self.up_1(torch.cat([self.up(y), one], 1))
            return self.last(y)  # type: ignore[no-any-return]

    return Restoring()


def _unlike(a: Any, b: Any) -> Any:
    """1 - SSIM with a flat window of 7 px, pictures in -1..1."""
    from torch.nn import functional

    def mean(x: Any) -> Any:
        return functional.avg_pool2d(x, 7, 1)

    mu_a, mu_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mu_a**2, mean(b * b) - mu_b**2
    both = mean(a * b) - mu_a * mu_b
    c1, c2 = 0.02**2, 0.06**2
    top = (2 * mu_a * mu_b + c1) * (2 * both + c2)
    return 1 - (top / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))).mean()


def learnt(anon: Floats, clear: Floats, side: int, seed: int) -> Iterator[tuple[float, Any]]:
    """Yield (share of the training, function of flat pictures) at each snapshot.

    anon, clear: (pairs, side * side * 3) in 0..1. The function maps (n, same) to (n, same).
    """
    import torch

    state = torch.random.get_rng_state()
    torch.manual_seed(seed % 2**63)
    network = _network(side)
    torch.random.set_rng_state(state)
    random = torch.Generator().manual_seed(seed % 2**63)

    def tensor(flat: Floats) -> Any:
        pictures = torch.from_numpy(flat.reshape(-1, side, side, 3).transpose(0, 3, 1, 2))
        return pictures.float() * 2 - 1

    x, y = tensor(anon), tensor(clear)
    whole = max(1, len(x) // BATCH)
    steps = max(LEAST_STEPS, EPOCHS * whole)
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    marks = {round(share * steps): share for share in SNAPSHOTS}

    def restored(flat: Floats) -> Floats:
        with torch.inference_mode():
            parts = [network(tensor(flat[i : i + 64])) for i in range(0, len(flat), 64)]
        made = torch.cat(parts).numpy().transpose(0, 2, 3, 1).reshape(len(flat), -1)
        found: Floats = np.clip((made.astype(np.float64) + 1) / 2, 0, 1)
        return found

    for step in range(steps):
        if step % whole == 0:
            order = torch.randperm(len(x), generator=random)
        batch = order[step % whole * BATCH : (step % whole + 1) * BATCH]
        drawn_now = network(x[batch])
        loss = (drawn_now - y[batch]).abs().mean() + 0.5 * _unlike(drawn_now, y[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step + 1 in marks:
            yield marks[step + 1], restored


def candidates(case: Case, rows: Ints) -> Iterator[Candidate]:
    """Yield the untrained twin, then the network at each snapshot."""
    if case.clear_crops is None or case.anon_crops is None:
        raise ValueError("a restorer needs crops")
    for name, vectors in case.anon.items():
        yield Candidate(label=f"untrained, points from {name}", score=cosine(vectors, case.clear))
    released, big = case.anon_crops[ALIGNMENT], case.clear_crops.shape[1]
    side = min(SIDE, big // 8 * 8)
    inputs = small(released, side)
    targets = small(case.clear_crops[rows], side)
    for share, restored in learnt(inputs[rows], targets, side, derived_seed(case.seed, "A3-net")):
        needed = np.flatnonzero(~case.training)  # V and E: the network goes on learning meanwhile
        pictures = dict(
            zip(needed.tolist(), drawn(restored(inputs[needed]), side, big), strict=True)
        )

        def restore(wanted: Ints, pictures: dict[int, Pixels] = pictures) -> Pixels:
            return np.stack([pictures[int(row)] for row in wanted])

        label = f"{side} px, {share:.0%} of the training"
        yield Candidate(label=label, score=lazily(case, restore), trained=True)


UNET = Attacker(
    name="A3-net",
    summary="pixels restored by a network",
    gallery="clear",
    candidates=candidates,
    trained=True,
    pixels=True,
    packages=("torch",),
    since="standard",
)
