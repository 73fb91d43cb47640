import hashlib
import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from moretta.networks import recogniser
from moretta.networks.recogniser import DlibResNet
from moretta.weights import load

REFERENCES = Path(__file__).parents[1] / "references"
SHARED = Path(__file__).parents[3] / "shared" / "data" / "train" / "wide.zip"


@pytest.fixture(scope="module")
def network():
    return DlibResNet.from_tensors(load.tensors("dlib"))


@pytest.fixture(scope="module")
def drawn():
    """Two drawn chips, (2, 3, 150, 150), and what dlib says of them."""
    reference = json.loads((REFERENCES / "dlib_chip.json").read_text())
    draw = runpy.run_path(str(REFERENCES / "make_dlib_chip.py"))["draw"]
    chips = [draw(index) for index in range(len(reference["chips"]))]
    for chip, recorded in zip(chips, reference["chips"], strict=True):
        assert hashlib.sha256(chip.tobytes()).hexdigest() == recorded["sha256"]
    pixels = torch.from_numpy(np.stack(chips)).permute(0, 3, 1, 2).float()
    return pixels, np.array([each["descriptor"] for each in reference["chips"]])


# ---- the network -----------------------------------------------------------------------------


def test_drawn_chips_get_dlibs_own_vectors(network, drawn):
    chips, theirs = drawn
    # what is left is float16 storage: docs/networks.md
    np.testing.assert_allclose(network.embed(chips).numpy(), theirs, atol=5e-4)


def test_shapes_and_stage_maps(network):
    vectors, maps = network.embed(torch.zeros(2, 3, 150, 150), features=True)
    assert vectors.shape == (2, 128)
    assert vectors.dtype == torch.float32
    assert [tuple(each.shape) for each in maps] == [
        (2, 32, 35, 35),
        (2, 64, 17, 17),
        (2, 128, 8, 8),
    ]
    assert sum(each.numel() for each in network.parameters()) == 5_614_592 - 7_104
    for shape in [(3, 150, 150), (1, 3, 112, 112), (1, 1, 150, 150)]:
        with pytest.raises(ValueError, match="chips of shape"):
            network.embed(torch.zeros(shape))


def test_a_chip_gets_the_same_vector_in_any_batch(network, drawn):
    chips, _ = drawn
    three = torch.cat([chips, chips.flip(3)[:1]])
    together = network(three)
    for at in range(3):
        torch.testing.assert_close(network(three[at : at + 1])[0], together[at], atol=2e-6, rtol=0)


def test_channels_last_changes_nothing(network, drawn):
    chips, _ = drawn
    other = DlibResNet.from_tensors(load.tensors("dlib")).to(memory_format=torch.channels_last)
    turned = chips.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(other(turned), network(chips), atol=2e-6, rtol=0)


def test_bfloat16_is_close(network, drawn):
    chips, _ = drawn
    half = DlibResNet.from_tensors(load.tensors("dlib")).to(torch.bfloat16)
    exact, rough = network(chips), half(chips)
    assert rough.dtype == torch.float32
    assert float(torch.cosine_similarity(exact, rough).min()) > 0.9995


def test_the_network_is_frozen_and_the_pixels_are_not(network, drawn):
    chips, _ = drawn
    chips = chips.clone().requires_grad_(True)
    network(chips).square().sum().backward()
    assert chips.grad is not None
    assert float(chips.grad.abs().sum()) > 0
    assert all(each.grad is None and not each.requires_grad for each in network.parameters())


def test_the_gradient_agrees_with_differences(drawn):
    chips, _ = drawn
    exact = DlibResNet.from_tensors(load.tensors("dlib")).double()
    chip = chips[:1].double().requires_grad_(True)
    direction = torch.randn(chip.shape, generator=torch.Generator().manual_seed(0)).double()
    wanted = torch.linspace(-1, 1, 128, dtype=torch.float64)
    exact(chip).matmul(wanted).sum().backward()
    step = 1e-5
    with torch.no_grad():
        ahead, behind = exact(chip + step * direction), exact(chip - step * direction)
    measured = float((ahead - behind).matmul(wanted)) / (2 * step)
    assert chip.grad is not None
    assert float((chip.grad * direction).sum()) == pytest.approx(measured, rel=1e-5)


def test_tensors_of_another_network_are_refused():
    tensors = load.tensors("dlib")
    del tensors["blocks.3.first.bias"]
    with pytest.raises(RuntimeError, match=r"blocks\.3\.first\.bias"):
        DlibResNet.from_tensors(tensors)


# ---- the chip --------------------------------------------------------------------------------


def placed(scale: float, angle: float, x: float, y: float):
    """dlib's chip points turned, scaled and shifted into a photo, with the matrix that does it."""
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    matrix = torch.tensor([[cosine, -sine, x], [sine, cosine, y]], dtype=torch.float64)
    points = torch.tensor(recogniser.CHIP_POINTS, dtype=torch.float64)
    return points @ matrix[:, :2].T + matrix[:, 2], matrix


def test_the_eyes_lie_where_dlib_has_them():
    corners = np.array(recogniser.DLIB_TEMPLATE)
    points = np.array(recogniser.CHIP_POINTS)
    np.testing.assert_allclose(points[0], corners[2:4].mean(0), atol=0.02)
    np.testing.assert_allclose(points[1], corners[0:2].mean(0), atol=0.02)


def test_chip_matrix_gives_back_the_similarity():
    cases = [placed(0.5, 0.3, 20, 30), placed(2.0, -2.5, 400, 500), placed(1.0, 0.0, 0, 0)]
    found = recogniser.chip_matrix(torch.stack([points for points, _ in cases]))
    torch.testing.assert_close(found, torch.stack([matrix for _, matrix in cases]))


def test_chip_matrix_agrees_with_a_linear_solve():
    points = np.random.default_rng(0).uniform(0, 200, (5, 2))
    x, y = np.array(recogniser.CHIP_POINTS).T
    one, zero = np.ones(5), np.zeros(5)
    rows = np.block([[np.c_[x, -y, one, zero]], [np.c_[y, x, zero, one]]])
    (a, b, u, v), *_ = np.linalg.lstsq(rows, np.r_[points[:, 0], points[:, 1]], rcond=None)
    found = recogniser.chip_matrix(torch.from_numpy(points)[None])[0]
    np.testing.assert_allclose(found, [[a, -b, u], [b, a, v]], rtol=1e-9)


def test_points_that_coincide_are_refused():
    with pytest.raises(ValueError, match="coincide"):
        recogniser.chip_matrix(torch.ones(1, 5, 2))


def test_a_chip_of_a_chip_is_the_chip(drawn):
    chips, _ = drawn
    points = torch.tensor(recogniser.CHIP_POINTS).expand(2, 5, 2)
    torch.testing.assert_close(recogniser.chip(chips, points), chips, atol=2e-2, rtol=0)


def test_chip_takes_what_lies_at_each_place():
    """A picture that holds its own coordinates: the chip must then hold the matrix's."""
    y, x = torch.meshgrid(torch.arange(80) + 0.5, torch.arange(100) + 0.5, indexing="ij")
    picture = torch.stack([x, y, torch.zeros_like(x)])[None].double()
    points, matrix = placed(0.4, 0.2, 25, 8)
    cut = recogniser.chip(picture, points[None])[0]
    for row, column in [(0, 0), (0, 149), (149, 0), (149, 149), (60, 75)]:
        expected = matrix @ torch.tensor([column + 0.5, row + 0.5, 1.0], dtype=torch.float64)
        torch.testing.assert_close(cut[:2, row, column], expected, atol=1e-3, rtol=0)


def test_a_smaller_grid_covers_the_same_chip():
    points, _ = placed(0.4, 0.2, 25, 8)
    whole = recogniser.chip_grid(points[None], (80, 100))
    small = recogniser.chip_grid(points[None], (80, 100), side=75)
    pooled = torch.nn.functional.avg_pool2d(whole.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    torch.testing.assert_close(small, pooled, atol=1e-6, rtol=0)


def test_gradients_reach_pixels_and_points_through_the_chip(network):
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    picture.requires_grad_(True)
    points = placed(0.4, 0.1, 5, 2)[0][None].requires_grad_(True)
    network(recogniser.chip(picture, points)).square().sum().backward()
    for leaf in (picture, points):
        assert leaf.grad is not None
        assert bool(torch.isfinite(leaf.grad).all())
        assert float(leaf.grad.abs().sum()) > 0


def test_a_bfloat16_picture_is_cut_at_the_right_place(drawn):
    chips, _ = drawn
    points = torch.tensor(recogniser.CHIP_POINTS).expand(2, 5, 2) + 3.3
    exact = recogniser.chip(chips, points)
    rough = recogniser.chip(chips.to(torch.bfloat16), points)
    assert rough.dtype == torch.bfloat16
    assert float((rough.float() - exact).abs().max()) <= 1.5  # the rounding of 128..255


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data/train/wide.zip")
def test_people_are_nearer_to_themselves_than_to_others(network):
    import csv
    import io
    import zipfile
    from collections import defaultdict

    from PIL import Image

    people = defaultdict(list)
    with SHARED.with_suffix(".csv").open(newline="") as table:
        for row in csv.DictReader(table):
            if row["source"] == "lfw":
                people[row["person"]].append(row)
    pairs = [rows[:2] for rows in people.values() if len(rows) > 1][:20]
    assert len(pairs) == 20
    cut = []
    with zipfile.ZipFile(SHARED) as archive:
        for row in (row for pair in pairs for row in pair):
            with Image.open(io.BytesIO(archive.read(row["file"]))) as photo:
                pixels = np.asarray(photo.convert("RGB"), np.float32)
            numbers = [float(value) for value in list(row.values())[-10:]]
            picture = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
            cut.append(recogniser.chip(picture, torch.tensor(numbers).view(1, 5, 2)))
    distance = torch.cdist(network(torch.cat(cut)), network(torch.cat(cut)))
    same = distance[range(0, 40, 2), range(1, 40, 2)]
    other = distance[::2, 1::2][~torch.eye(20, dtype=torch.bool)]
    assert float((same < 0.6).float().mean()) >= 0.9
    assert float((other > 0.6).float().mean()) >= 0.95
