"""The judge: same face, other face, batches, and any ONNX recogniser with its preprocessing."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from moretta.errors import WeightsRejected
from moretta.faces.crop import points_of_box
from moretta.faces.detect import detector
from moretta.faces.detect.search import Eye, find_faces
from moretta.faces.recognise import Preprocessing, Recogniser, threshold
from moretta.records import Box, Face
from moretta.weights import load


@pytest.fixture(scope="module")
def judge() -> Recogniser:
    return Recogniser()


@pytest.fixture(scope="module")
def face(astronaut: np.ndarray) -> Face:
    chosen = detector("yunet")
    return find_faces(
        astronaut, [Eye(detector=chosen, look=chosen.build("cpu", 1), least_score=0.6)]
    )[0]


def test_unit_vectors_and_batches_do_not_matter(
    judge: Recogniser, astronaut: np.ndarray, face: Face
):
    one = judge.embed(astronaut, [face])
    many = judge.embed(astronaut, [face] * 11)
    assert one.shape == (1, 128)
    np.testing.assert_allclose(np.linalg.norm(many, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(many, np.repeat(one, 11, axis=0), atol=2e-3)
    assert judge.embed(astronaut, []).shape[0] == 0


def test_knows_the_person_again_smaller_darker_and_flipped(
    judge: Recogniser, astronaut: np.ndarray, face: Face
):
    clear = judge.embed(astronaut, [face])[0]
    half = cv2.resize(astronaut, (256, 256), interpolation=cv2.INTER_AREA)
    box = Box(face.box.left / 2, face.box.top / 2, face.box.right / 2, face.box.bottom / 2)
    at_half = Face(box=box, points=face.points / 2, score=1, detector="t")
    dark = (astronaut * 0.6).astype(np.uint8)
    assert clear @ judge.embed(half, [at_half])[0] > threshold("1e-4")
    assert clear @ judge.embed(dark, [face])[0] > threshold("1e-4")


def test_does_not_know_something_else(judge: Recogniser, astronaut: np.ndarray, face: Face):
    clear = judge.embed(astronaut, [face])[0]
    noise = np.random.default_rng(0).integers(0, 256, astronaut.shape, np.uint8)
    elsewhere = Box(350, 380, 432, 489)
    there = Face(box=elsewhere, points=points_of_box(elsewhere), score=1, detector="t")
    assert clear @ judge.embed(noise, [face])[0] < threshold("1e-2")
    assert clear @ judge.embed(astronaut, [there])[0] < threshold("1e-2")


def test_thresholds_are_ordered():
    assert 0 < threshold("1e-2") < threshold("1e-3") < threshold("1e-4") < 1


def test_any_onnx_file_by_path_with_its_own_preprocessing(
    judge: Recogniser, astronaut: np.ndarray, face: Face
):
    path = load.locate("sface")
    plain = Recogniser(path)
    np.testing.assert_allclose(
        plain.embed(astronaut, [face]), judge.embed(astronaut, [face]), atol=2e-3
    )
    swapped = Recogniser(path, preprocessing=Preprocessing(bgr=True))
    assert np.abs(swapped.embed(astronaut, [face]) - plain.embed(astronaut, [face])).max() > 1e-3


def test_a_detector_is_no_recogniser():
    with pytest.raises(WeightsRejected, match="outputs"):
        Recogniser("yunet")
