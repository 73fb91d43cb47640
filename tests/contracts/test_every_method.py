"""What every method must hold, present and future: add one line to METHODS and be judged."""

from __future__ import annotations

import ast
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from pydantic_core import PydanticUndefined

from moretta.errors import ReleaseRefused, UsageError
from moretta.faces import mask as masks
from moretta.faces.crop import points_of_box
from moretta.methods import METHODS, method, settings
from moretta.networks.backend import has_fast_bfloat16
from moretta.photos.manifest import as_line
from moretta.pipeline.options import options
from moretta.pipeline.protect import Picture, Protector
from moretta.pipeline.sealing import model_digest
from moretta.privacy.keys import Pseudonyms
from moretta.records import Box, Crop, Face, PhotoRecord

DISTINCT: dict[type, list[Any]] = {
    int: [1, 2, 3, 20],
    float: [0.03, 0.5, 0.9],
    str: ["ff0000", "a"],
    bool: [True, False],
}
#: Values of settings whose type does not say them all.
VALUES: dict[tuple[str, str], list[Any]] = {
    ("falco", "target"): [0.9],
    ("styleid", "variant"): ["pixel"],  # the swapper has weights of its own: tests/methods
}
#: Settings that no single crop shows, and which test of the method shows them.
SHOWN_ELSEWHERE = {
    ("falco", "unique"): "test_unique_gives_each_face_a_neighbour_of_its_own_until_none_is_left",
    # by chance that no seed repeats
    ("falco", "donor_epsilon"): "test_the_same_photo_and_person_cost_once_and_keep_their_neighbour",
    ("falco", "cap"): "test_a_choice_beyond_the_cap_is_a_fault_of_that_face_alone",
    # the other one needs official weights
    ("falco", "features"): "test_features_of_farl_are_refused_without_its_weights",
    ("falco", "pool"): "test_a_pool_of_other_networks_is_refused",
    ("identitydp", "pool"): "test_a_pool_on_disk_is_drawn_from_and_named_by_its_hash_and_size",
}
#: Settings that show only beside others. A refusal counts as a difference.
BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    ("identitydp", "accept_weak_epsilon"): {"epsilon": 20.0, "predictable": True},
    ("identitydp", "predictable"): {"epsilon": 1.0},
    ("identitydp", "epsilon"): {"predictable": True},
    ("identitydp", "cap"): {"epsilon": 0.6, "predictable": True},
}
#: Settings beside which others have no effect.
UNUSUAL: dict[str, tuple[dict[str, Any], ...]] = {
    "falco": ({"steps": 0}, {"donor_epsilon": 1}),
    "ifadit": ({"pseudonym": "flow"},),
    "styleid": ({"variant": "pixel"}, {"variant": "swapper"}, {"adapt": "auto"}),
}
#: What keeps a slow method's tests quick.
QUICK: dict[str, dict[str, Any]] = {"falco": {"steps": 3}}
#: Where a method's promise is proved: the tests of the epsilon it states.
PROVED = {"identitydp": "tests/privacy/test_mechanisms.py"}


def secret(seed: int) -> bytes:
    """A face's own secret, for methods that run with a key."""
    return hashlib.sha256(f"secret {seed}".encode()).digest()


#: What the faces of a whole photo get their secrets from.
PSEUDONYMS = Pseudonyms("record", salt=bytes(32), seed=hashlib.sha256(b"contract").digest())


def keyed(crop: Crop) -> Crop:
    return replace(crop, secret=secret(crop.seed))


def drawn_face(left: float, top: float, side: float) -> Face:
    box = Box(left, top, left + 0.82 * side, top + 1.09 * side)
    return Face(box=box, points=points_of_box(box), score=1.0, detector="manual")


def busy(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def outcome(name: str, photo: np.ndarray, face: Face, **given: Any) -> bytes | None:
    """Return what comes out, None for a refusal."""
    try:
        return edited(name, photo, face, **given).tobytes()
    except (UsageError, ReleaseRefused):
        return None


def edited(name: str, photo: np.ndarray, face: Face, seed: int = 1, **given: Any) -> np.ndarray:
    chosen = method(name)
    edit = chosen.build(settings(chosen, {**QUICK.get(name, {}), **given}), "cpu")
    return edit([crop_for(name, photo, face, seed)])[0].pixels


def accepted(name: str, key: str, value: Any) -> bool:
    try:
        settings(method(name), {key: value})
    except UsageError:
        return False
    return True


def crop_for(name: str, photo: np.ndarray, face: Face, seed: int) -> Crop:
    from moretta.faces import crop as crops

    chosen = method(name)
    if chosen.template == "window":
        alpha, bounds = masks.cover(
            face, photo.shape, scale=chosen.mask_scale, fills_view=chosen.fills_view
        )
        return keyed(crops.cut(photo, face, alpha, bounds, seed=seed))
    alpha, _ = masks.redraw(face, photo.shape, scale=chosen.mask_scale, feather=chosen.mask_feather)
    return keyed(
        crops.align(
            photo,
            face,
            alpha,
            template=chosen.template,
            side=chosen.side,
            seed=seed,
            identity=9 if settings(chosen).spends else None,
        )
    )


@pytest.fixture(scope="module", params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def protector(name: str) -> Protector:
    seed = None if method(name).keyed else 5  # a key's pseudonyms do not repeat by a seed
    return Protector(options({"method": name, "seed": seed, "settings": QUICK.get(name, {})}))


def test_the_list_is_what_it_says():
    assert len(METHODS) == len(set(METHODS)) >= 3
    for one in METHODS:
        assert method(one).name == one


def test_says_what_it_promises_and_what_not(name: str):
    chosen = method(name)
    for text in (chosen.summary, chosen.promises, chosen.excludes, chosen.source):
        assert len(text) > 15
        for word in ("anonymous", "GDPR", "safe to publish", "irreversible"):
            assert word not in text
    if chosen.promise == "proved":
        assert (Path(__file__).parents[2] / PROVED[name]).exists()


def test_a_keyed_method_refuses_to_run_without_a_key(name: str):
    chosen = method(name)
    crop = replace(crop_for(name, busy((150, 130)), drawn_face(40, 30, 60), 1), secret=None)
    edit = chosen.build(settings(chosen, QUICK.get(name)), "cpu")
    if chosen.keyed:
        assert chosen.reversible
        assert "pseudonymised" in chosen.summary + chosen.promises
        with pytest.raises(UsageError, match="key"):
            edit([crop])
    else:
        assert edit([crop])[0].pixels.shape == crop.pixels.shape


def test_same_shape_and_kind_and_the_input_is_untouched(name: str):
    photo, face = busy((150, 130)), drawn_face(40, 30, 60)
    before = photo.copy()
    crop = crop_for(name, photo, face, 1)
    pixels = crop.pixels.copy()
    result = method(name).build(settings(method(name), QUICK.get(name)), "cpu")([crop])[0]
    assert result.pixels.shape == crop.pixels.shape
    assert result.pixels.dtype == np.uint8
    np.testing.assert_array_equal(crop.pixels, pixels)
    np.testing.assert_array_equal(photo, before)


def test_same_seed_same_pixels_whatever_the_batch(name: str):
    chosen = method(name)
    edit = chosen.build(settings(chosen, QUICK.get(name)), "cpu")
    crops = [
        crop_for(name, busy((150, 130), i), drawn_face(35 + i, 30, 50 + i), i) for i in range(3)
    ]
    together = [one.pixels for one in edit(crops)]
    backwards = [one.pixels for one in edit(crops[::-1])][::-1]
    alone = [edit([crop])[0].pixels for crop in crops]
    # bfloat16, which hardware that has it draws in, sums a batch of another size in another order
    rounding = 4 if chosen.template != "window" and has_fast_bfloat16() else 1
    for a, b, c in zip(together, backwards, alone, strict=True):
        assert int(np.abs(a.astype(int) - b).max()) <= rounding
        assert int(np.abs(a.astype(int) - c).max()) <= rounding


def test_every_setting_changes_some_output(name: str):
    chosen = method(name)
    photo, face = busy((150, 130)), drawn_face(40, 30, 60)
    for key, info in chosen.settings.model_fields.items():
        assert info.description, f"{name}: {key} has no description"
        assert info.default is not PydanticUndefined, f"{name}: {key} has no default"
        if (name, key) in SHOWN_ELSEWHERE:
            assert key in given_in(name, SHOWN_ELSEWHERE[name, key]), f"{name}: {key} is not shown"
            continue
        beside = BESIDE.get((name, key), {})
        usual = outcome(name, photo, face, **beside)
        moved = False
        choices = (
            VALUES.get((name, key))
            or get_args(info.annotation)
            or DISTINCT.get(info.annotation or str, [])
        )
        for value in choices:
            moved |= outcome(name, photo, face, **{**beside, key: value}) != usual and (
                bool(beside) or accepted(name, key, value)
            )
        assert moved, f"{name}: {key} changes nothing"


def given_in(name, test):
    """Return the options that a method's own test gives: by keyword, by name or as on a command line."""
    path = Path(__file__).parents[1] / "methods" / f"test_{name}.py"
    body = ast.parse(path.read_text(encoding="utf-8")).body
    (found,) = (one for one in body if isinstance(one, ast.FunctionDef) and one.name == test)
    parts = list(ast.walk(found))
    words = {one.arg for one in parts if isinstance(one, ast.keyword)}
    words |= {str(one.value) for one in parts if isinstance(one, ast.Constant)}
    return {word.removeprefix("--").replace("-", "_") for word in words if word}


def test_a_record_of_its_settings_is_taken_back(name: str):
    """Records name every option, those without effect too: sidecars are bound to them."""
    for given in ({}, *UNUSUAL.get(name, ())):
        own = settings(method(name), given)
        assert type(own)(**own.model_dump()) == own
        assert len(model_digest(name, own.model_dump())) == 32


def test_strength_goes_from_weak_to_strong(name: str):
    chosen = method(name)
    if chosen.strength is None:
        return
    if chosen.draws_identity:
        pytest.skip("nothing of the noise is left in a drawn face: its own test looks at its scale")
    photo, face = busy((200, 200)), drawn_face(50, 40, 100)
    outs = [
        edited(name, photo, face, **chosen.strength(value)).astype(float) for value in (0, 0.5, 1)
    ]
    left = [float(out.std()) for out in outs]  # what is left of the noise's variation
    assert left[0] > left[2]


def test_nothing_outside_the_mask_changes(protector: Protector):
    photo, face = busy((160, 200)), drawn_face(70, 40, 50)
    (result,) = protector.protect([Picture(pixels=photo, faces=[face], pseudonyms=PSEUDONYMS)])
    outside = ~result.changed
    assert outside.mean() > 0.3
    np.testing.assert_array_equal(result.pixels[outside], photo[outside])
    assert result.changed.any()


def replaced(result: Any, photo: np.ndarray, box: Box, *, drawn: bool = False) -> float:
    """Share of the box's pixels that are not the original's; noise cannot stay by chance.

    drawn: only the ellipse inscribed in the box has to be replaced.
    """
    rows = slice(int(box.top), int(np.ceil(box.bottom)))
    columns = slice(int(box.left), int(np.ceil(box.right)))
    y, x = np.mgrid[rows, columns] + 0.5
    middle = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    radius = np.hypot(2 * (x - middle[0]) / box.width, 2 * (y - middle[1]) / box.height)
    held = radius <= (0.95 if drawn else np.inf)
    assert held.any()
    assert result.changed[rows, columns][held].all()
    return float((result.pixels[rows, columns] != photo[rows, columns]).any(axis=2)[held].mean())


def test_every_pixel_of_the_box_is_replaced(protector: Protector):
    if protector.method.template != "window":
        pytest.skip("a redrawing method covers the ellipse of its own mask")
    photo, face = busy((160, 160)), drawn_face(40, 40, 60)
    (result,) = protector.protect([Picture(pixels=photo, faces=[face], pseudonyms=PSEUDONYMS)])
    assert result.decision == "published"
    assert replaced(result, photo, face.box) > 0.99


@pytest.mark.parametrize("corner", [(-20, -20), (150, -25), (-25, 110), (150, 110)])
def test_a_face_cut_by_the_border_is_covered_to_the_last_row(protector: Protector, corner: Any):
    left, top = corner
    face = drawn_face(left, top, 70)
    box = Box(max(left, 0), max(top, 0), min(face.box.right, 200), min(face.box.bottom, 160))
    face = replace(face, box=box)
    photo = busy((160, 200))
    (result,) = protector.protect([Picture(pixels=photo, faces=[face], pseudonyms=PSEUDONYMS)])
    assert result.decision == "published"
    assert replaced(result, photo, box, drawn=protector.method.template != "window") > 0.97


def test_a_face_of_eight_pixels_works(protector: Protector):
    photo, face = busy((40, 40)), drawn_face(15, 15, 8)
    (result,) = protector.protect([Picture(pixels=photo, faces=[face], pseudonyms=PSEUDONYMS)])
    assert result.decision == "published"
    drawn = protector.method.template != "window"
    assert replaced(result, photo, face.box, drawn=drawn) > 0.95


def test_a_real_face_is_changed_and_the_record_is_whole(protector: Protector, small: np.ndarray):
    (result,) = protector.protect([Picture(pixels=small, name="a.png", pseudonyms=PSEUDONYMS)])
    assert result.decision == "published"
    (face,) = result.faces
    assert face.audit["passed"]
    assert face.audit["blank"] or face.audit["cosine"] <= face.audit["threshold"]
    record = PhotoRecord(name="a.png", decision="published", reason="", faces=tuple(result.faces))
    line = json.loads(json.dumps(as_line(record), allow_nan=False))
    assert line["faces"][0]["method"] in (*METHODS, "solid")
    assert not any(isinstance(v, list) and len(v) >= 64 for v in line["faces"][0].values())


def test_overlapping_faces_are_both_covered(protector: Protector):
    photo = busy((160, 220))
    faces = [drawn_face(50, 40, 60), drawn_face(80, 45, 60)]
    (result,) = protector.protect([Picture(pixels=photo, faces=faces, pseudonyms=PSEUDONYMS)])
    for face in faces:
        alpha, (left, top, right, bottom) = masks.cover(face, photo.shape, scale=1.2)
        inside = alpha >= 1
        now, was = (
            result.pixels[top:bottom, left:right][inside],
            photo[top:bottom, left:right][inside],
        )
        assert (now != was).any(axis=1).mean() > 0.95
        assert len(result.faces) == 2
