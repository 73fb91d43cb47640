"""The composer: what may reach it, its latent spaces, and modulation by a second route."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from moretta.networks import composer as composers
from moretta.networks.attributes import KEPT, AttributeEncoder, PointReader, bounded
from moretta.networks.composer import Composer, Modulated, Shape, ellipse, heat
from moretta.networks.critic import Critic

SMALL = {"widths": (8, 12, 16, 24)}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.manual_seed(3)


def asked(count: int, shape: Shape) -> tuple[torch.Tensor, ...]:
    pictures = torch.rand(count, 3, shape.side, shape.side) * 2 - 1
    points = torch.rand(count, 5, 2) * 0.3 + 0.35
    identity = functional.normalize(torch.randn(count, shape.identity), dim=1)
    return pictures, points, identity, torch.tanh(torch.randn(count, shape.attributes))


@pytest.mark.parametrize("side", [64, 96, 128, 256])
def test_every_side_has_its_shapes(side: int):
    shape = Shape.of(side) if side == 256 else Shape(side=side, **SMALL)
    composer = Composer(shape).eval()
    pictures, points, identity, code = asked(2, shape)
    with torch.no_grad():
        rows = composer.rows(identity, code)
        drawn = composer.draw(composer.context(pictures), points, rows)
    assert rows.shape == (2, len(composer.layers), shape.latent)
    assert drawn.shape == (2, 3, side, side)
    assert drawn.dtype == torch.float32
    assert bool(drawn.isfinite().all())
    assert composer.scales(rows).shape[1] == sum(layer.channels for layer in composer.layers)


def test_the_table_of_the_module_is_the_table_of_the_network():
    documented = [
        tuple(int(part.split()[0]) for part in (cells[1], cells[3], cells[4], cells[5]))
        for line in (composers.__doc__ or "").splitlines()
        if len(cells := line.split("|")) == 7 and cells[1].strip().isdigit()
    ]
    assert documented == [tuple(layer) for layer in Composer(Shape()).layers]
    assert len(documented) == 9


def test_the_blanked_face_does_not_reach_the_drawing():
    shape = Shape(side=96, **SMALL)
    composer = Composer(shape).eval()
    pictures, points, identity, code = asked(2, shape)
    rows = composer.rows(identity, code)
    hidden = composer.mask.expand_as(pictures) >= 1
    assert 0.25 < hidden.float().mean() < 0.5
    others = torch.where(hidden, torch.rand_like(pictures) * 2 - 1, pictures)
    outside = torch.where(hidden, pictures, torch.rand_like(pictures) * 2 - 1)
    with torch.no_grad():
        was, inside, around = (
            composer.draw(composer.context(x), points, rows) for x in (pictures, others, outside)
        )
    assert torch.equal(was, inside)
    assert float((was - around).abs().mean()) > 1e-3  # the surroundings do


def test_points_rows_and_code_all_move_the_drawing():
    shape = Shape(side=64, **SMALL)
    composer = Composer(shape).eval()
    pictures, points, identity, code = asked(1, shape)
    context = composer.context(pictures)

    def drawn(points: torch.Tensor, identity: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return composer.draw(context, points, composer.rows(identity, code))

    was = drawn(points, identity, code)
    for changed in (
        drawn(points + 0.05, identity, code),
        drawn(points, -identity, code),
        drawn(points, identity, -code),
    ):
        assert float((was - changed).abs().mean()) > 1e-4
    for row in range(len(composer.layers)):
        rows = composer.rows(identity, code)
        rows = rows.clone()
        rows[:, row] += 1
        with torch.no_grad():
            assert float((composer.draw(context, points, rows) - was).abs().max()) > 1e-5, row


def test_modulation_equals_scaled_weights_for_each_face():
    layer = Modulated(6, 10)
    x, scales = torch.randn(3, 6, 8, 8), torch.randn(3, 6)
    ours = layer(x, scales, noisy=False)
    for i in range(3):  # Karras et al. 2020, eqs. 1 and 3: weights instead of inputs and outputs
        weight = layer.weight * scales[i][None, :, None, None]
        weight = weight / weight.square().sum((1, 2, 3), keepdim=True).sqrt()
        slow = functional.conv2d(x[i : i + 1], weight * 2**0.5, padding=1)
        slow = functional.leaky_relu(slow + layer.bias[None, :, None, None], 0.2)
        torch.testing.assert_close(ours[i : i + 1], slow, rtol=1e-4, atol=1e-5)


def test_a_face_is_drawn_alike_alone_and_in_a_batch():
    shape = Shape(side=64, **SMALL)
    composer = Composer(shape).eval()
    pictures, points, identity, code = asked(5, shape)
    with torch.no_grad():
        rows = composer.rows(identity, code)
        context = composer.context(pictures)
        together = composer.draw(context, points, rows)
        alone = composer.draw(context[3:4], points[3:4], rows[3:4])
    torch.testing.assert_close(together[3:4], alone, rtol=1e-4, atol=1e-4)


def test_bfloat16_and_channels_last_draw_nearly_the_same():
    shape = Shape(side=64, **SMALL)
    composer = Composer(shape).eval()
    pictures, points, identity, code = asked(2, shape)
    with torch.no_grad():
        rows = composer.rows(identity, code)
        exact = composer.draw(composer.context(pictures), points, rows)
        composer.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = composer.draw(composer.context(pictures), points, rows)
    assert float((exact - rough).abs().mean()) < 0.05 * float(exact.abs().mean() + 0.1)


def test_grain_is_only_there_when_asked_for():
    shape = Shape(side=64, **SMALL)
    composer = Composer(shape)
    for draw in composer.draws:
        if draw.noise is not None:
            torch.nn.init.constant_(draw.noise, 0.5)
    pictures, points, identity, code = asked(1, shape)
    rows, context = composer.rows(identity, code), composer.context(pictures)
    with torch.no_grad():
        assert torch.equal(
            composer.draw(context, points, rows), composer.draw(context, points, rows)
        )
        first, second = (composer.draw(context, points, rows, noisy=True) for _ in range(2))
    assert not torch.equal(first, second)


def test_wrong_shapes_are_refused():
    for kwargs in ({"side": 100}, {"side": 64, "widths": (8,)}):
        with pytest.raises(ValueError, match=r"side is 100|do not halve"):
            Shape(**kwargs)
    composer = Composer(Shape(side=64, **SMALL))
    with pytest.raises(ValueError, match="rows of shape"):
        composer.scales(torch.zeros(1, 3, 24))
    with pytest.raises(ValueError, match="context of shape"):
        composer.draw_scaled(torch.zeros(1, 3, 64, 64), torch.zeros(1, 5, 2), torch.zeros(1, 1))


def test_the_mask_is_the_ellipse_that_the_pipeline_pastes_through():
    import numpy as np

    from moretta.faces.crop import WIDE
    from moretta.faces.mask import redraw
    from moretta.methods.newface import METHOD
    from moretta.records import Box, Face

    side = 192
    face = Face(box=Box(50, 40, 142, 160), points=WIDE * side, score=1.0, detector="manual")
    alpha, (left, top, right, bottom) = redraw(face, (side, side), scale=METHOD.mask_scale)
    pasted = np.zeros((side, side), np.float32)
    pasted[top:bottom, left:right] = alpha
    assert float(np.abs(pasted - ellipse(side)[0, 0].numpy()).mean()) < 0.005


def test_bumps_stand_at_their_points():
    points = torch.tensor([[[0.25, 0.75], [0.5, 0.5], [0.1, 0.1], [0.9, 0.2], [0.6, 0.4]]])
    maps = heat(points, 40)
    for i, (x, y) in enumerate(points[0].tolist()):
        row, column = divmod(int(maps[0, i].argmax()), 40)
        assert abs((row + 0.5) / 40 - y) <= 1 / 40
        assert abs((column + 0.5) / 40 - x) <= 1 / 40


def test_the_code_is_bounded_cut_and_noised():
    encoder = AttributeEncoder()
    code = encoder(torch.rand(4, 3, 128, 128) * 2 - 1).detach()
    assert code.shape == (4, 64)
    assert float(code.abs().max()) <= 1
    noise = torch.randn(4, 64)
    for kept in KEPT:
        known = bounded(code, noise, kept=kept)
        assert bool((known[:, kept:] == 0).all())
        torch.testing.assert_close(known[:, :kept], (code + 0.35 * noise)[:, :kept])
    each = bounded(code, noise, kept=torch.tensor([64, 16, 8, 0]))
    assert [int((row != 0).sum()) for row in each] == [64, 16, 8, 0]


def test_points_start_at_the_template_and_the_critic_judges_each_crop():
    reader = PointReader()
    torch.nn.init.zeros_(reader.output.weight)
    points = reader(torch.rand(2, 3, 96, 96))
    torch.testing.assert_close(points[0, 2], torch.tensor([0.5, 0.5 + (0.511 - 0.5) / 1.7]))
    whole, patches, features = Critic(64, (4, 6, 8, 10))(torch.rand(3, 3, 64, 64))
    assert whole.shape == (3,)
    assert patches.shape == (3, 8, 8)
    assert len(features) == 3
