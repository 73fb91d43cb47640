"""Train iFADIT's flow as a baseline for the comparison: `moretta-train flow`.

Promise   no photo is needed: identities are drawn from the sphere, keys from a normal distribution.
Not here  the published losses on pictures (parsing, SSIM): they train nothing at this level.
Sources   Yuan et al. 2025 as far as its code shows it (facts of iFADIT, 1.5): privacy, diversity, wrong
          key and recovery, without the margins that stop their gradient (D8).
Checked   tests/training/test_flow.py; figures in docs/ifadit.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from moretta.networks.flow import KEY, Flow
from moretta.networks.pool import LENGTH
from moretta.training.run import Clock, refuse_output, reseed, write

if TYPE_CHECKING:
    from pathlib import Path

BATCH = 256
RATE = 1e-3
READ = 0.7  # noise of a read-back, as long as a unit vector is: cosine about 0.82


def loss(flow: Flow, identities: torch.Tensor, keys: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the terms: identities (2n, 48) unit vectors, keys (2n, 48); the halves are each other's.

    privacy     pseudonym against identity       diversity  one identity under two keys
    wrong       the way back with another key    norm       what the way back assumes
    recovery    the way back from a noisy reading
    """
    raw = flow.raw(identities, keys)
    pseudonyms = functional.normalize(raw, dim=1)
    others = keys.roll(len(keys) // 2, 0)
    noise = torch.randn_like(pseudonyms) * (READ / LENGTH**0.5)
    read = functional.normalize(pseudonyms + noise, dim=1)
    cosine = functional.cosine_similarity
    return {
        "privacy": cosine(pseudonyms, identities).square().mean(),
        "diversity": cosine(pseudonyms, flow(identities, others)).square().mean(),
        "wrong": cosine(flow.back(pseudonyms, others), identities).square().mean(),
        "norm": (raw.norm(dim=1) / LENGTH**0.5 - 1).square().mean(),
        "recovery": (1 - cosine(flow.back(read, keys), identities)).mean(),
    }


def run(out: Path, *, minutes: float = 10, steps: int | None = None, seed: int = 0) -> Flow:
    """Train for some minutes or steps and write `out`, a safetensors file. Returns the flow.

    Raises UsageError, before it trains, where `out` cannot be written.
    """
    from safetensors.torch import save

    refuse_output(out)
    reseed(seed, 0)
    flow = Flow()
    optimiser = torch.optim.Adam(flow.parameters(), RATE)
    clock, step = Clock(minutes=minutes, steps=steps), 0
    with clock.listening():
        while clock.goes_on():
            step += 1
            reseed(seed, step)
            identities = functional.normalize(torch.randn(BATCH, LENGTH), dim=1)
            keys = torch.randn(BATCH, KEY)
            keys = keys / keys.square().mean(1, keepdim=True).sqrt()
            for group in optimiser.param_groups:
                group["lr"] = RATE * max(0.02, 1 - clock.share)
            terms = loss(flow, identities, keys)
            optimiser.zero_grad()
            torch.autograd.backward(torch.stack(list(terms.values())).sum())
            torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
            optimiser.step()
    tensors = {key: value.contiguous() for key, value in flow.state_dict().items()}
    write(out, save(tensors))
    return flow.eval()
