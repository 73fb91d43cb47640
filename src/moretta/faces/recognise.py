"""Recognisers behind one call: photo and faces in, unit vectors out. The judge is one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moretta.errors import WeightsRejected, count_of
from moretta.faces.crop import to_template, warp
from moretta.weights import load

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from moretta.records import Face, Pixels

JUDGE = "sface"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How a recogniser wants its crops: value = (pixel - mean) / scale."""

    template: str = "arcface"
    side: int = 112
    mean: float = 0.0
    scale: float = 1.0
    bgr: bool = False


#: How the catalogue's recognisers want their crops; any other network gets what the caller states.
KNOWN = {"sface": Preprocessing(), "facenet": Preprocessing(template="facenet", side=160)}


class Recogniser:
    """Any ONNX recogniser with one image input and one vector output.

    network: a name in the catalogue, or the path of an ONNX file. preprocessing: the catalogue's
    recognisers have their own in KNOWN.
    Raises WeightsRejected for a file that is missing, altered or not of this form.
    """

    def __init__(
        self,
        network: str | Path = JUDGE,
        *,
        preprocessing: Preprocessing | None = None,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        self.name = str(network)
        self.preprocessing = preprocessing or KNOWN.get(self.name, Preprocessing())
        self._session: Any = load.open_onnx(network, device=device, threads=threads)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(self._session.get_outputs()) != 1:
            raise WeightsRejected(
                f"{self.name}: {count_of(len(inputs), 'input')}, "
                f"{count_of(len(self._session.get_outputs()), 'output')}",
                hint="a recogniser has one image input and one vector output",
            )
        self._input = inputs[0].name

    def embed(self, photo: Pixels, faces: Sequence[Face]) -> npt.NDArray[np.float32]:
        """Return one unit vector a face, (faces, length)."""
        crops = [self.crop(photo, face) for face in faces]
        return self.embed_crops(np.stack(crops)) if crops else np.zeros((0, 1), np.float32)

    def crop(self, photo: Pixels, face: Face) -> Pixels:
        """Return the (side, side, 3) RGB crop on the recogniser's own template."""
        side = self.preprocessing.side
        matrix = to_template(face, self.preprocessing.template, side)
        return warp(photo, matrix, side, border="edge")

    def embed_crops(self, crops: Pixels) -> npt.NDArray[np.float32]:
        """Return one unit vector a crop; crops: (n, side, side, 3) RGB 0..255."""
        vectors = self.raw(crops)
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: npt.NDArray[np.float32] = (vectors / np.maximum(length, 1e-12)).astype(np.float32)
        return unit

    def raw(self, crops: Pixels) -> npt.NDArray[np.float32]:
        """Return the network's own vectors, whose length tells how sure it is; crops as above."""
        wanted = self.preprocessing
        batch: Any = crops[..., ::-1] if wanted.bgr else crops
        batch = np.ascontiguousarray(batch.transpose(0, 3, 1, 2), np.float32)
        if wanted.mean or wanted.scale != 1:
            batch = (batch - wanted.mean) / wanted.scale
        vectors: npt.NDArray[np.float32] = np.concatenate(
            [
                self._session.run(None, {self._input: batch[i : i + 8]})[0]
                for i in range(0, len(batch), 8)
            ]
        )
        return vectors.reshape(len(crops), -1)


def threshold(far: str, network: str = JUDGE) -> float:
    """Cosine above which `network` calls two faces the same person, at a false-accept rate.

    far: "1e-2", "1e-3" or "1e-4"; the catalogue says how each was measured.
    """
    return load.catalogue()[network].thresholds[f"far_{far}"]
