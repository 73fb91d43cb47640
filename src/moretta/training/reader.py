"""Train the reader, which reads a drawn face's identity back from its picture: `moretta-train reader`.

Faces are drawn with random identities into training crops, written through 8 bits and a real codec, and
looked at by dlib's network; ridge regression finds from what it sees which identity was drawn.

Promise   composer, encoder and dlib's network are frozen and no gradient exists: the pseudonymiser cannot
          learn to hide anything in its pictures (Chu et al. 2017), because nothing here trains it.
          The same data, weights, seed and count give the same file on the same machine, where the
          drawing is done before its minutes are over.
Assumes   `wide.zip` of docs/training.md; people of the evaluation are not in it.
Sources   facts of iFADIT 5.3 (phase 2, its carrier term) and 5.4 (channel).
Checked   tests/training/test_reader.py; figures in docs/ifadit.md.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from PIL import Image

from moretta.errors import UsageError, count_of
from moretta.networks.backend import pictures_of, pixels_of
from moretta.networks.pool import random_identities
from moretta.networks.reader import BIAS, WEIGHT, Reader, seen_in
from moretta.training import run as runs

if TYPE_CHECKING:
    from moretta.networks.backend import ComposerBackend
    from moretta.records import Pixels
    from moretta.training.crops import Crops

RIDGE = 0.05  # of the standardised inputs' own variance
SHAKE = 0.010  # standard deviation of the points, in sides: a detector finds them anew
BATCH = 16
LEAST = 300  # pairs that may train: the map has 256 inputs


@dataclass(frozen=True, slots=True)
class Pairs:
    """What was drawn, and what can be seen of it."""

    drawn: torch.Tensor  # (n, 48) unit vectors
    seen: torch.Tensor  # (n, 256) as networks.reader.seen_in gives it
    held: int  # the last so many are drawn into crops of people that train nothing

    def parts(self) -> tuple[Pairs, Pairs]:
        """Return what may train and what may not."""
        cut = len(self.drawn) - self.held
        return Pairs(self.drawn[:cut], self.seen[:cut], 0), Pairs(
            self.drawn[cut:], self.seen[cut:], self.held
        )


@torch.no_grad()
def pairs(
    backend: ComposerBackend,
    crops: Crops,
    *,
    seed: int,
    count: int,
    held: int = 0,
    minutes: float = float("inf"),
) -> Pairs:
    """Draw `count` faces into training crops and `held` into held-out ones, and look at them.

    Each has an identity of its own, uniform on the sphere, level 0 or 2 of the code, and a channel.
    After `minutes` the drawing ends, but not before the first batch; what was not drawn is missing at
    the end of the training part.
    """
    begun = time.monotonic()
    identities = torch.from_numpy(random_identities(held + count, seed))
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []
    rng = np.random.default_rng(seed)
    trained, done = crops.trained, 0
    for start in range(0, held + count, BATCH):  # held-out ones first
        if done and time.monotonic() - begun > minutes * 60:
            break
        end = min(start + BATCH, held + count)
        own = [
            trained + i % max(crops.held, 1) if i < held and crops.held else (i - held) % trained
            for i in range(start, end)
        ]
        asked = identities[start:end]
        parts.append((asked, seen_in(backend, *drawn(backend, crops, own, asked, rng)).cpu()))
        done = end
    together = [torch.cat(each) for each in zip(*parts, strict=True)]
    held = min(held, done)
    drawn_, seen = (torch.cat([each[held:], each[:held]]) for each in together)
    return Pairs(drawn_, seen, held)


def drawn(
    backend: ComposerBackend,
    crops: Crops,
    own: list[int],
    asked: torch.Tensor,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw identities into crops, send them through a channel -> pictures, and points found anew."""
    pictures = pictures_of([crops.pixels[i] for i in own], backend.device)
    points = torch.from_numpy(crops.points[own]).to(pictures)
    noise = torch.from_numpy(rng.standard_normal((len(own), 64))).to(pictures)
    level = 2 if rng.uniform() < 0.15 else 0
    rows = backend.rows(asked.to(pictures), backend.known(pictures, noise, level=level))
    faces = backend.draw(backend.context(pictures), points, rows)
    written = [channel(one, rng) for one in pixels_of(backend.composed(pictures, faces))]
    shaken = torch.from_numpy(rng.normal(0, SHAKE, points.shape)).to(points)
    return pictures_of(written, backend.device), points + shaken


def channel(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """What happens to a picture of 8 bits on its way: nothing, a JPEG, a smaller size, or noise."""
    lot = rng.uniform()
    if lot < 0.3:
        return pixels
    if lot < 0.7:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=int(rng.integers(50, 96)))
        return np.asarray(Image.open(file), np.uint8)
    if lot < 0.85:
        side = pixels.shape[0]
        small = cv2.resize(pixels, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
        back: Pixels = cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
        return back
    noisy = pixels.astype(np.int16) + rng.integers(-2, 3, pixels.shape)
    clipped: Pixels = np.clip(noisy, 0, 255).astype(np.uint8)
    return clipped


def fit(known: Pairs) -> dict[str, torch.Tensor]:
    """Fit the map to pairs by ridge regression on standardised inputs -> tensors of networks.reader."""
    seen, drawn_ = known.seen.double(), known.drawn.double()
    mean, deviation = seen.mean(0), seen.std(0).clamp_min(1e-6)
    x = (seen - mean) / deviation
    level = drawn_.mean(0)
    normal = x.t() @ x / len(x) + RIDGE * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(normal, x.t() @ (drawn_ - level) / len(x)).t() / deviation
    bias = level - weight @ mean
    return {WEIGHT: weight.float().contiguous(), BIAS: bias.float().contiguous()}


def figures(
    backend: ComposerBackend, tensors: Mapping[str, torch.Tensor], held: Pairs
) -> dict[str, float]:
    """Mean cosine of what is read to what was drawn, without and with the map."""
    plain = backend.identify.whiten(held.seen[:, :128].to(backend.device)).cpu()
    read = Reader.from_tensors(tensors)(held.seen)
    return {
        "uncorrected": float((plain * held.drawn).sum(1).mean()),
        "corrected": float((read * held.drawn).sum(1).mean()),
    }


def run(
    data: Path | None,
    out: Path,
    *,
    count: int = 6000,
    held: int = 600,
    minutes: float = 12,
    seed: int = 1,
    backend: ComposerBackend | None = None,
) -> dict[str, float]:
    """Draw, fit, and write `out`, a safetensors file that names the composer it reads.

    data: folder with wide.zip, or None for painted faces. Returns how many faces were drawn to train and
    how many were held out, and the figures of those held out; where none were, of those that trained.
    Raises UsageError, with nothing written, where `out` cannot be, and when `minutes` were over before
    `LEAST` faces were drawn that may train.
    """
    from safetensors.torch import save

    from moretta.training import crops as sources
    from moretta.weights import load
    from moretta.weights.backends import composer

    runs.refuse_output(out)
    backend = backend or composer()
    crops = (
        sources.drawn(backend.side, 64)
        if data is None
        else sources.steadied(sources.wide(data, backend.side, limit=count + sources.HELD))
    )
    all_pairs = pairs(
        backend, crops, seed=seed, count=count, held=held if crops.held else 0, minutes=minutes
    )
    trained, kept = all_pairs.parts()
    drawn_ = len(trained.drawn)
    if drawn_ < LEAST:
        raise UsageError(
            f"{count_of(drawn_, 'face')} drawn to train in {minutes:g} minutes, {LEAST} are needed",
            hint="give more --minutes" if count >= LEAST else f"give --count {LEAST} or more",
        )
    tensors = fit(trained)
    runs.write(out, save(tensors, {"composer": load.entry("composer").sha256}))
    return {"drawn": float(drawn_), "held": float(kept.held)} | figures(
        backend, tensors, kept if kept.held else trained
    )
