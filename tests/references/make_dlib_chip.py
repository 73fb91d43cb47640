"""Write dlib_chip.json: what dlib's face ResNet says of drawn chips.

python tests/references/make_dlib_chip.py dlib_face_recognition_resnet_model_v1.dat

The chips are drawn with whole numbers only, so that they are the same everywhere; nobody real is
in them. Made with dlib-bin 20.0.1 on 2026-11-21; the test checks the drawing by its sha256.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

SKINS = [(224, 172, 138), (120, 78, 54)]


def draw(index: int) -> np.ndarray:
    """(150, 150, 3) uint8: a head with hair, brows, eyes, nose and mouth under a slanted light."""
    y, x = np.mgrid[0:150, 0:150].astype(np.int64)
    picture = np.empty((150, 150, 3), np.int64)
    picture[:] = (90 + 20 * index, 110, 140)

    def ellipse(cx: int, cy: int, rx: int, ry: int, colour: tuple[int, int, int]) -> None:
        inside = (x - cx) ** 2 * ry**2 + (y - cy) ** 2 * rx**2 <= rx**2 * ry**2
        picture[inside] = colour

    skin = SKINS[index]
    dark = (60 - 25 * index, 40 - 15 * index, 30 - 10 * index)
    ellipse(75, 60, 66, 74, dark)
    ellipse(75, 82, 54, 68, skin)
    for cx in (48, 100):
        ellipse(cx, 34, 15, 4, dark)
        ellipse(cx, 47, 11, 6, (245, 240, 235))
        ellipse(cx, 47, 5, 5, (70, 95 - 30 * index, 60))
        ellipse(cx, 47, 2, 2, (10, 10, 10))
    nose = tuple(channel * 9 // 10 for channel in skin)
    ellipse(74, 80, 10, 7, (nose[0], nose[1], nose[2]))
    ellipse(74, 70, 5, 16, skin)
    ellipse(74, 103 + 2 * index, 22, 8 - index, (160, 70, 70))
    ellipse(74, 102 + 2 * index, 19, 2, (90, 30, 35))
    light = 220 + (150 - x) // 5 + (x * 7 + y * 13) % 11
    return np.clip(picture * light[..., None] // 256, 0, 255).astype(np.uint8)


def main() -> None:
    """Ask dlib and write what it says."""
    import dlib

    model = dlib.face_recognition_model_v1(sys.argv[1])
    chips = [
        {
            "sha256": hashlib.sha256(draw(index).tobytes()).hexdigest(),
            "descriptor": [round(v, 6) for v in model.compute_face_descriptor(draw(index))],
        }
        for index in range(len(SKINS))
    ]
    record = {"made_by": "make_dlib_chip.py", "dlib": dlib.__version__, "chips": chips}
    Path(__file__).with_name("dlib_chip.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
