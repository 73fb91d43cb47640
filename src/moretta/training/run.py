"""What every recipe needs around its loop: clock, checkpoint, moving average, log. Nothing else.

Promise   a run that is stopped and resumed makes the same steps as one that was not: all chance of a
          step comes from the seed and the step's number (`reseed`), all else from the checkpoint.
          A checkpoint is written whole or not at all.
Checked   tests/training/test_composer.py: resumed equals straight, to the bit.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from moretta.errors import UsageError
from moretta.networks.backend import has_fast_bfloat16
from moretta.photos.files import write_whole
from moretta.photos.manifest import make_folder


class Clock:
    """When a call of a recipe ends: after its minutes, after its steps, or at Ctrl-C."""

    def __init__(self, *, minutes: float, steps: int | None = None) -> None:
        self._start = time.monotonic()
        self._seconds = minutes * 60
        self._steps = steps
        self._done = 0
        self._stopped = False

    @property
    def share(self) -> float:
        """How much of this call is over, 0..1: of its steps, the one under way too, else of its time."""
        if self._steps is not None:
            return self._done / self._steps if self._done < self._steps else 1.0
        return min(1.0, (time.monotonic() - self._start) / max(self._seconds, 1e-9))

    def goes_on(self) -> bool:
        """Count one more step; False when the call is over."""
        over = self.share >= 1
        self._done += 1
        return not (over or self._stopped)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the call after the step under way, and its state is saved."""

        def stop(*_: Any) -> None:
            self._stopped = True

        kept = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in kept.items():
                signal.signal(one, handler)


class Average:
    """An exponential moving average of networks' parameters: what is shipped.

    Buffers stay as they were taken over: those of our networks are constants.
    """

    def __init__(self, networks: Mapping[str, nn.Module], copies: Mapping[str, nn.Module]) -> None:
        self._pairs = []
        for name, copy in copies.items():
            copy.load_state_dict(networks[name].state_dict())
            copy.requires_grad_(False).eval()
            ours, theirs = list(copy.parameters()), list(networks[name].parameters())
            self._pairs += list(zip(ours, theirs, strict=True))

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move towards the networks: average = decay * average + (1 - decay) * network."""
        for ours, theirs in self._pairs:
            ours.lerp_(theirs, 1 - decay)


def refuse_output(out: Path, *, folder: bool = False) -> None:
    """Raise UsageError where `out` can be no file, or no folder, that we may write; nothing is made.

    Called before the work, which would be lost.
    """
    if not folder and out.is_dir():
        raise UsageError(f"{out} is a folder", hint="choose another --output: a file")
    inside = out if folder else out.absolute().parent
    there = next(part for part in (inside, *inside.absolute().parents) if os.path.lexists(part))
    if not there.is_dir():
        raise UsageError(f"{inside} is no folder", hint="choose another --output")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{there} may not be written to", hint="choose another --output")


def write(out: Path, content: bytes) -> None:
    """Write a file whole or not at all, and make its folder. Raises UsageError and PhotoError."""
    make_folder(out.parent)
    write_whole(out, content)


def reseed(seed: int, step: int) -> np.random.Generator:
    """Seed torch for one step and return the generator for everything that numpy draws in it."""
    mixed = np.random.SeedSequence([seed, step]).generate_state(2, np.uint64)
    torch.manual_seed(int(mixed[0] >> np.uint64(1)))
    return np.random.default_rng(int(mixed[1]))


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a resumable state so that `path` holds all of it or is left as it was."""
    part = path.with_suffix(".part")
    torch.save(dict(state), part)
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)


def load(path: Path, device: str) -> dict[str, Any]:
    """Read a resumable state; tensors and plain values only, nothing in it is run."""
    try:
        state: dict[str, Any] = dict(torch.load(path, map_location=device, weights_only=True))
    except Exception as error:  # torch's faults share no base
        raise UsageError(
            f"{path} cannot be resumed: {type(error).__name__}",
            hint="remove it to begin anew, or give another --output",
        ) from error
    return state


def note(path: Path, line: Mapping[str, Any]) -> None:
    """Append one JSON line to the log of a run."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def fast_dtype(device: str) -> torch.dtype:
    """The precision in which convolutions are fastest here: bfloat16 on CUDA and AMX, else float32."""
    if device.startswith("cuda"):
        return torch.bfloat16
    return torch.bfloat16 if has_fast_bfloat16() else torch.float32
