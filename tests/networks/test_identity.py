import csv
import hashlib
import io
import math
import zipfile
from collections import defaultdict

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from moretta.networks import identity, recogniser
from moretta.networks.identity import Identity, random_identities
from moretta.networks.traits import TraitsHead
from moretta.weights import load


@pytest.fixture(scope="module")
def whitening():
    """A drawn whitening of about the right scale: dlib's components spread by about 0.1."""
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.standard_normal((128, 48)))[0]
    lengths = np.linspace(5, 20, 48)
    mean = 0.1 * rng.standard_normal(128)
    return {
        "whitening.mean": mean.astype(np.float32),
        "whitening.directions": (turn * lengths).astype(np.float32),
        "traits.something": np.zeros(3, np.float32),
    }


@pytest.fixture(scope="module")
def network(whitening):
    return Identity.from_tensors(load.tensors("dlib"), whitening)


def drawn(count: int, side: int = 150, seed: int = 0):
    """Smooth colourful pictures, (count, 3, side, side), 0..255."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 9, 9, generator=generator) * 255
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 255)


def placed(scale: float, angle: float, x: float, y: float):
    """Return the chip's five points turned, scaled and shifted into a picture, (5, 2)."""
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    turn = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
    points = torch.tensor(recogniser.CHIP_POINTS, dtype=torch.float64)
    return points @ turn.T + torch.tensor([x, y], dtype=torch.float64)


# ---- the vectors -----------------------------------------------------------------------------


def test_vectors_are_the_whitened_ones_of_dlib(network, whitening):
    chips = drawn(3)
    found = network(chips)
    assert found.shape == (3, 48)
    assert found.dtype == torch.float32
    raw = network.recogniser(chips).numpy().astype(np.float64)
    projected = (raw - whitening["whitening.mean"]) @ whitening["whitening.directions"]
    expected = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


def test_the_network_is_frozen_and_the_pixels_are_not(network):
    assert not network.training
    assert not any(each.requires_grad for each in network.parameters())
    picture = drawn(1, 80).requires_grad_(True)
    points = placed(0.4, 0.1, 8, 6)[None].requires_grad_(True)
    network.of(picture, points)[0, 0].backward()
    for leaf in (picture, points):
        assert leaf.grad is not None
        assert bool(torch.isfinite(leaf.grad).all())
        assert float(leaf.grad.abs().sum()) > 0


def test_features_come_with_the_same_vectors(network):
    chips = drawn(2)
    vectors, maps = network.embed(chips, features=True)
    torch.testing.assert_close(vectors, network(chips), atol=0, rtol=0)
    torch.testing.assert_close(network.embed(chips), vectors, atol=0, rtol=0)
    assert [each.shape[1] for each in maps] == [32, 64, 128]


def test_of_is_the_chip_and_then_the_network(network):
    picture, points = drawn(2, 100), torch.stack([placed(0.5, 0.2, 20, 10), placed(0.4, 0, 10, 9)])
    expected = network(recogniser.chip(picture, points))
    torch.testing.assert_close(network.of(picture, points), expected, atol=2e-6, rtol=0)


def test_a_recogniser_in_bfloat16_gives_float32_vectors(whitening):
    half = Identity.from_tensors(load.tensors("dlib"), whitening)
    exact = half(drawn(2))
    half.recogniser.to(torch.bfloat16)
    rough = half(drawn(2))
    assert rough.dtype == torch.float32
    assert float((exact * rough).sum(1).min()) > 0.995


def test_a_whitening_of_another_shape_is_refused(whitening):
    other = {**whitening, "whitening.directions": np.zeros((128, 32), np.float32)}
    with pytest.raises(ValueError, match="not \\(128,\\) and \\(128, 48\\)"):
        Identity.from_tensors(load.tensors("dlib"), other)
    with pytest.raises(KeyError, match=r"whitening\.mean"):
        Identity.from_tensors(load.tensors("dlib"), {})


# ---- large pictures --------------------------------------------------------------------------


def test_large_pictures_are_shrunk_by_area_first():
    """Noise at six times the chip's scale: bilinear alone averages four pixels of 36."""
    noise = torch.rand(1, 3, 960, 900, generator=torch.Generator().manual_seed(1)) * 255
    points = placed(6.0, 0.0, 0, 0)[None]
    plain, shrunk = recogniser.chip(noise, points), identity.cut(noise, points)
    assert float(plain.std()) > 35
    assert float(shrunk.std()) < 16  # 73.6 / 6 = 12.3 for a mean of 36 pixels


@pytest.mark.parametrize("sides", [(301, 299), (300, 300)])
def test_shrinking_keeps_every_place(sides):
    """A picture that holds its own coordinates, of sides that the factor does not divide."""
    y, x = torch.meshgrid(torch.arange(sides[0]) + 0.5, torch.arange(sides[1]) + 0.5, indexing="ij")
    picture = torch.stack([x, y, torch.zeros_like(x)])[None].double()
    points = placed(1.9, 0.05, 10, 2)[None]
    assert round(float(recogniser.chip_matrix(points)[0, :, 0].norm())) == 2
    plain, shrunk = recogniser.chip(picture, points), identity.cut(picture, points)
    middle = slice(8, -8)  # the picture's edge is repeated in steps of another size
    torch.testing.assert_close(
        plain[..., middle, middle], shrunk[..., middle, middle], atol=1e-2, rtol=0
    )


def test_faces_of_mixed_scales_get_what_they_get_alone():
    pictures = drawn(3, 400)
    points = torch.stack([placed(2.5, 0, 0, 0), placed(1.0, 0.3, 60, 50), placed(1.8, 0, 9, 9)])
    together = identity.cut(pictures, points)
    for at in range(3):
        alone = identity.cut(pictures[at : at + 1], points[at : at + 1])[0]
        torch.testing.assert_close(together[at], alone, atol=1e-4, rtol=0)


def test_the_bundled_whitening_knows_a_face_at_any_scale(astronaut):
    """The public-domain portrait, enlarged four times with noise that no chip could show."""
    tensors = load.tensors("identity")
    network = Identity.from_tensors(load.tensors("dlib"), tensors)
    picture = torch.from_numpy(astronaut.astype(np.float32)).permute(2, 0, 1)[None]
    marks = [[200.3, 101.6], [247.3, 102.4], [220.2, 124.6], [198.8, 143.2], [239.6, 143.9]]
    points = torch.tensor(marks)[None]  # as YuNet gives them
    large = torch.nn.functional.interpolate(picture, scale_factor=4, mode="bilinear")
    noise = torch.randn(large.shape, generator=torch.Generator().manual_seed(0)) * 60
    plain, noisy = network.of(picture, points), network.of(large + noise, points * 4)
    assert float((plain * noisy).sum()) > 0.9
    traits = TraitsHead.from_tensors(tensors).read(plain[0].numpy())
    assert (traits.band, traits.gender) == ("adult", "female")


def test_people_are_nearer_to_themselves_than_to_others(shared):
    network = Identity.from_tensors(load.tensors("dlib"), load.tensors("identity"))
    people = defaultdict(list)
    with (shared / "data/train/wide.csv").open(newline="") as table:
        for row in csv.DictReader(table):
            if row["source"] == "lfw":
                people[row["person"]].append(row)
    pairs = [rows[:2] for rows in people.values() if len(rows) > 1][:12]
    assert len(pairs) == 12
    vectors = []
    with zipfile.ZipFile(shared / "data/train/wide.zip") as archive:
        for row in (row for pair in pairs for row in pair):
            with Image.open(io.BytesIO(archive.read(row["file"]))) as crop:
                pixels = np.array(crop.convert("RGB"), np.float32)
            points = torch.tensor([float(value) for value in list(row.values())[-10:]])
            picture = torch.from_numpy(pixels).permute(2, 0, 1)[None]
            vectors.append(network.of(picture, points.view(1, 5, 2)))
    cosine = torch.cat(vectors[::2]) @ torch.cat(vectors[1::2]).T
    assert float(cosine.diag().mean()) > 0.5
    assert abs(float(cosine[~torch.eye(12, dtype=torch.bool)].mean())) < 0.1


# ---- random identities -----------------------------------------------------------------------


def test_random_identities_are_the_same_everywhere():
    drawn = random_identities(1000, 5)
    assert drawn.dtype == np.float32
    assert drawn.shape == (1000, 48)
    assert hashlib.sha256(drawn.tobytes()).hexdigest().startswith("6d194e78619fd4ae")
    assert not np.array_equal(drawn, random_identities(1000, 6))
    assert random_identities(3, 0, length=7).shape == (3, 7)


def test_random_identities_are_uniform_on_the_sphere():
    drawn = random_identities(20_000, 1).astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, atol=2e-6)
    # every component has mean 0 and variance 1/48; five standard errors
    assert np.abs(drawn.mean(0)).max() < 5 / math.sqrt(48 * 20_000)
    assert np.abs(drawn.var(0) * 48 - 1).max() < 5 * math.sqrt(2 / 20_000)
    covariance = np.cov(drawn.T) * 48
    assert np.abs(covariance - np.eye(48)).max() < 6 * math.sqrt(2 / 20_000)
