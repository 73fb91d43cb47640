"""Detectors: one file each, one line in the list below.

A detector looks at one picture at one scale. Pyramid, tiles and turns are `search`'s, the same for
every detector, so a newcomer brings only its network and its decoding.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from moretta.errors import UsageError, nearest

if TYPE_CHECKING:
    from moretta.faces.detect.search import Detector

DETECTORS = ("yunet", "centerface")


def detector(name: str) -> Detector:
    """Return a detector by name. Raises UsageError with the nearest name."""
    if name not in DETECTORS:
        raise UsageError(f"there is no detector {name!r}", hint=nearest(name, list(DETECTORS)))
    found: Detector = import_module(f"moretta.faces.detect.{name}").DETECTOR
    return found
