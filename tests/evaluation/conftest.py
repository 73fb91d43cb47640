"""Drawn people in folders, a finder that knows where their faces are, and a recogniser of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from moretta.evaluation import faces, gates
from moretta.evaluation.attackers import ATTACKERS
from moretta.faces.crop import points_of_box
from moretta.records import Box, Face

SIDE = 64
BOX = Box(16, 12, 48, 54)
PEOPLE = 28
SLOW = (
    "A3-op",
    "A3-perm",
    "A3-net",
    "A2-whole",
    "A4-mlp",
)  # their own tests are in test_attackers.py and test_gates.py


@dataclass
class Projection:
    """A recogniser without a network: a fixed random projection of small pixels."""

    name: str = "sface"
    template: str = "tight"
    side: int = 32
    sha256: str = "0" * 64

    def raw(self, crops):
        return gates.seeing(crops).astype(np.float32)


class Knowing:
    """A finder that always finds the face in the middle, but not on a photo of one colour."""

    def __init__(self, name, cache):
        self.name = name

    def find(self, photo, key, *, turned=True):
        if np.ptp(photo[20:44, 20:44]) < 10:
            return []
        return [Face(box=BOX, points=points_of_box(BOX), score=0.9, detector=self.name)]


@pytest.fixture
def drawn_networks(monkeypatch):
    """Replace detectors and recognisers by the drawn ones; leave the slowest attackers out."""
    fast = tuple(a for a in ATTACKERS if a.name not in SLOW)
    monkeypatch.setattr("moretta.evaluation.protocol.ATTACKERS", fast)
    monkeypatch.setattr("moretta.evaluation.utility.SAMPLE", 40)
    monkeypatch.setattr(faces, "Finder", Knowing)
    monkeypatch.setattr(
        "moretta.evaluation.protocol.embedder", lambda name, **_: Projection(name=name)
    )


def portraits(people=PEOPLE, photos=3, seed=0):
    """{person: (photos, SIDE, SIDE, 3)}: smooth patterns in the middle, other ones around."""
    import cv2

    rng = np.random.default_rng(seed)
    found = {}
    for person in range(people):
        base = rng.normal(size=(10, 10, 3))
        own = []
        for _ in range(photos):
            small = base + 0.3 * rng.normal(size=base.shape)
            around = rng.normal(size=(8, 8, 3))
            face = cv2.resize(small.astype(np.float32), (36, 46), interpolation=cv2.INTER_CUBIC)
            picture = cv2.resize(around.astype(np.float32), (SIDE, SIDE))
            picture[10:56, 14:50] = face
            own.append(np.clip(np.rint(128 + 45 * picture), 0, 255).astype(np.uint8))
        found[f"person {person}"] = np.stack(own)
    return found


@pytest.fixture
def people_on_disk(tmp_path):
    """Write originals and what `change` makes of each: (change, **portraits) -> (original, after)."""

    def write(change, *, name="after", **more):
        for person, own in portraits(**more).items():
            for i, picture in enumerate(own):
                for folder, pixels in (("before", picture), (name, change(picture))):
                    path = tmp_path / folder / person / f"{i}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if pixels is not None and not path.exists():
                        Image.fromarray(pixels).save(path)
        return tmp_path / "before", tmp_path / name

    return write


def blocked(picture):
    """A black face."""
    covered = picture.copy()
    covered[8:58, 12:52] = 0
    return covered


def pixelated(picture):
    """A face of 4 x 5 cells."""
    import cv2

    covered = picture.copy()
    small = cv2.resize(picture[8:58, 12:52], (4, 5), interpolation=cv2.INTER_AREA)
    covered[8:58, 12:52] = cv2.resize(small, (40, 50), interpolation=cv2.INTER_NEAREST)
    return covered
