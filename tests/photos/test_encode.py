import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from moretta.errors import PhotoError, UsageError
from moretta.photos import encode
from moretta.photos.decode import decode
from moretta.photos.encode import as_written, encode_photo, merge, shows_all
from moretta.photos.metadata import leftovers
from moretta.photos.photo import HOLDS, Photo

CHANNELS = {"grey": 1, "grey+alpha": 2, "rgb": 3, "rgba": 4}
LOSSLESS = [
    (container, kind, depth)
    for container in ("png", "tiff", "bmp", "webp")
    for kind, depth in sorted(HOLDS[container])
]


def photo_of(kind, depth, height, width, container="png", seed=0, **more):
    rng = np.random.default_rng(seed)
    dtype = np.uint8 if depth == 8 else np.uint16
    native = rng.integers(0, 2**depth, (height, width, CHANNELS[kind]), dtype=dtype)
    seen = native if depth == 8 else (native >> 8).astype(np.uint8)
    pixels = np.repeat(seen[..., :1], 3, axis=2) if CHANNELS[kind] < 3 else seen[..., :3].copy()
    native = native[..., 0] if kind == "grey" else native
    return Photo(pixels=pixels, native=native, kind=kind, depth=depth, format=container, **more)


def read(data, metadata="none"):
    return decode(data, name="a", metadata=metadata, max_pixels=10**7)


def planes(samples, kind):
    return samples[..., None] if samples.ndim == 2 else samples


@settings(max_examples=120, deadline=None)
@given(
    case=st.sampled_from(LOSSLESS),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    seed=st.integers(0, 99),
    share=st.sampled_from([0.0, 0.2, 1.0]),
)
def test_outside_the_edit_every_sample_stays_and_inside_none_is_kept(
    case, height, width, seed, share
):
    container, kind, depth = case
    photo = photo_of(kind, depth, height, width, container, seed, lossless=True)
    rng = np.random.default_rng(seed + 1)
    changed = rng.random((height, width)) < share
    edited = np.full_like(photo.pixels, 77)
    again = read(encode_photo(photo, edited, changed))
    was, now = planes(photo.native, kind), planes(again.native, again.kind)
    if container == "webp" and CHANNELS[kind] < 3:  # stored as colours
        now = now[..., [0, 3]] if kind == "grey+alpha" and now.shape[2] == 4 else now
        was = was if was.shape[2] == now.shape[2] else was[..., :1]
        now = now[..., : was.shape[2]]
    colours = min(was.shape[2], {2: 1, 4: 3}.get(was.shape[2], was.shape[2]))
    if now.shape[2] < was.shape[2]:  # WebP drops transparency when nothing is transparent
        assert (was[..., -1][~changed] == 255).all()
        was = was[..., :-1]
    assert np.array_equal(now[~changed], was[~changed])
    assert (now[changed][:, :colours] == 77 * (257 if depth == 16 else 1)).all()
    opaque = 257 * 255 if depth == 16 else 255
    assert (now[changed][:, colours:] == opaque).all()  # transparency cannot draw a face


@pytest.mark.parametrize("kind", ["grey+alpha", "rgba"])
@pytest.mark.parametrize("container", ["png", "tiff", "webp", "avif"])
def test_transparency_that_nothing_uses_does_no_harm(container, kind):
    photo = photo_of(kind, 8, 9, 7, container, lossless=True)
    native = photo.native.copy()
    native[..., -1] = 255
    photo = replace(photo, native=native)
    again = read(encode_photo(photo, photo.pixels, np.zeros((9, 7), bool)))
    assert again.pixels.shape == photo.pixels.shape
    assert container == "avif" or np.array_equal(again.pixels, photo.pixels)


@pytest.mark.parametrize("kind", list(CHANNELS))
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("container", list(HOLDS))
def test_our_files_hold_pixels_only_and_the_rest_is_refused(container, kind, depth):
    photo = photo_of(kind, depth, 17, 23)
    changed = np.zeros((17, 23), bool)
    changed[3:9, 4:15] = True
    edited = 255 - photo.pixels
    if (kind, depth) not in HOLDS[container]:
        with pytest.raises(PhotoError, match=f"cannot hold {depth}-bit") as caught:
            encode_photo(photo, edited, changed, format=container)
        assert "png" in caught.value.hint
        return
    if container == "heic":
        pytest.importorskip("pillow_heif", reason="an extra")
    data = encode_photo(photo, edited, changed, format=container)
    assert leftovers(data, metadata="none") == []
    again = read(data)
    assert again.format == container
    assert again.pixels.shape == (17, 23, 3)


def test_grey_takes_the_luma_of_the_edit():
    photo = photo_of("grey", 8, 4, 4)
    edited = np.zeros_like(photo.pixels)
    edited[..., 1] = 255  # green
    merged = merge(photo, edited, np.ones((4, 4), bool))
    assert (merged == np.asarray(Image.fromarray(edited).convert("L"))).all()


def test_the_input_arrays_stay_as_they_were():
    photo = photo_of("rgba", 8, 6, 6)
    before = photo.native.copy()
    encode_photo(photo, 255 - photo.pixels, np.ones((6, 6), bool))
    assert np.array_equal(photo.native, before)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", None])
def test_jpeg_keeps_its_subsampling(subsampling):
    photo = photo_of("rgb", 8, 32, 32, "jpeg", subsampling=subsampling)
    data = encode_photo(photo, photo.pixels, np.zeros((32, 32), bool))
    assert read(data).subsampling == (subsampling or "4:2:0")


def test_quality_changes_the_size():
    photo = photo_of("rgb", 8, 64, 64, "jpeg")
    nothing = np.zeros((64, 64), bool)
    for container in ("jpeg", "webp", "avif"):
        high, low = (
            len(encode_photo(photo, photo.pixels, nothing, format=container, quality=quality))
            for quality in (95, 30)
        )
        assert low < high


def test_a_lossy_webp_stays_lossy():
    photo = photo_of("rgb", 8, 32, 32, "webp", lossless=False)
    assert not read(encode_photo(photo, photo.pixels, np.zeros((32, 32), bool))).lossless


@pytest.mark.parametrize(
    "wrong", [{"format": "gif"}, {"format": "jpg2"}, {"quality": 0}, {"quality": 101}]
)
def test_wrong_wishes_are_usage_errors(wrong):
    photo = photo_of("rgb", 8, 4, 4)
    with pytest.raises(UsageError):
        encode_photo(photo, photo.pixels, np.zeros((4, 4), bool), **wrong)


def test_wrong_shapes_are_our_bugs():
    photo = photo_of("rgb", 8, 4, 5)
    with pytest.raises(ValueError, match="edited"):
        encode_photo(photo, photo.pixels[:3], np.zeros((4, 5), bool))
    with pytest.raises(ValueError, match="changed"):
        encode_photo(photo, photo.pixels, np.zeros((5, 4), bool))


def test_too_large_for_webp_is_a_photo_error():
    photo = photo_of("rgb", 8, 1, 16384)
    with pytest.raises(PhotoError, match="cannot be written as WEBP"):
        encode_photo(photo, photo.pixels, np.zeros((1, 16384), bool), format="webp")


def test_what_an_encoder_adds_never_leaves(monkeypatch):
    photo = photo_of("rgb", 8, 8, 8, "jpeg")
    true_save = Image.Image.save

    def chatty(self, stream, container, **options):
        true_save(self, stream, container, comment=b"made by me", **options)

    monkeypatch.setattr(Image.Image, "save", chatty)
    with pytest.raises(PhotoError, match="comment"):
        encode_photo(photo, photo.pixels, np.zeros((8, 8), bool))


def test_an_encoder_that_alters_samples_never_leaves(monkeypatch):
    photo = photo_of("rgb", 8, 8, 8, "tiff")
    monkeypatch.setattr(encode, "tiff", lambda samples, icc: true_tiff(samples ^ 1, icc))
    from moretta.photos.wide import tiff as true_tiff

    with pytest.raises(PhotoError, match="does not show what was meant"):
        encode_photo(photo, photo.pixels, np.zeros((8, 8), bool))


def test_heic_round_trip():
    pytest.importorskip("pillow_heif", reason="an extra")
    photo = photo_of("rgb", 8, 64, 80, "heic")
    nothing = np.zeros((64, 80), bool)
    again = read(encode_photo(photo, photo.pixels, nothing))
    assert (again.format, again.kind, again.pixels.shape) == ("heic", "rgb", (64, 80, 3))
    written = io.BytesIO()
    Image.fromarray(photo.pixels).save(written, "JPEG")
    assert leftovers(written.getvalue(), metadata="none") == []


@pytest.mark.parametrize(
    ("kind", "came", "goes", "all_of_it"),
    [
        ("rgb", "png", None, True),
        ("rgba", "tiff", "png", True),
        ("rgb", "jpeg", "bmp", True),
        ("rgb", "jpeg", None, False),
        ("rgb", "png", "jpeg", False),
        ("rgb", "png", "webp", False),
        ("grey", "png", None, False),  # a drawing loses its colours
        ("grey+alpha", "png", None, False),
    ],
)
def test_what_a_reader_of_the_file_sees(kind, came, goes, all_of_it):
    photo = photo_of(kind, 8, 40, 30, container=came)
    rng = np.random.default_rng(1)
    edited = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    changed = np.zeros((40, 30), bool)
    changed[10:30, 5:25] = True
    assert shows_all(photo, goes) == all_of_it
    seen, file = as_written(photo, edited, changed, format=goes)
    assert file == encode_photo(photo, edited, changed, format=goes)
    assert (seen == read(file).pixels).all()
    assert (seen[changed] == edited[changed]).all() == all_of_it


def test_webp_that_was_lossless_stays_so():
    photo = photo_of("rgb", 8, 8, 8, container="webp", lossless=True)
    assert shows_all(photo)
    assert not shows_all(replace(photo, lossless=False))
