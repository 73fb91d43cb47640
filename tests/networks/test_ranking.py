"""Ranking: swaps by a second route, drawing from the middle, the metric's known values."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional

from moretta.networks import ranking as ranks
from moretta.networks.attributes import AttributeEncoder
from moretta.networks.backend import ComposerBackend
from moretta.networks.composer import Composer, Shape
from moretta.networks.ranking import SPACES, BundledPanel, Pairs, Readers
from moretta.networks.traits import TENSORS

SHAPE = Shape(side=64, widths=(8, 8, 12, 16), identity=48, attributes=6, finish=4)


class Colours(torch.nn.Module):
    """A stand-in for the recogniser: 48 unit numbers of a picture, smooth in it."""

    def __init__(self) -> None:
        super().__init__()
        self.project = torch.randn(3 * 64, 48)

    def of(self, pictures: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        small = functional.adaptive_avg_pool2d(pictures / 127.5 - 1, 8)
        return functional.normalize(small.flatten(1) @ self.project, dim=1)


@pytest.fixture(scope="module")
def readers() -> Readers:
    torch.manual_seed(0)
    composer = Composer(SHAPE).eval().requires_grad_(False)
    torch.nn.init.normal_(composer.touch.weight)
    encoder = AttributeEncoder(6).eval().requires_grad_(False)
    backend = ComposerBackend(composer, encoder, Colours(), SimpleNamespace())
    shapes = ((8, 48), (8,), (6, 8), (6,))
    head = {name: torch.randn(shape) for name, shape in zip(TENSORS, shapes, strict=True)}
    panel = BundledPanel.of(backend, head, code=6)
    with torch.no_grad():
        return Readers.fitted(backend, panel, pairs_of(backend, 6))


def pairs_of(backend: ComposerBackend, n: int, seed: int = 1) -> Pairs:
    rng = torch.Generator().manual_seed(seed)
    identity = functional.normalize(torch.randn(2 * n, 48, generator=rng), dim=1)
    code = torch.tanh(torch.randn(2 * n, 6, generator=rng))
    rows = backend.rows(identity, code)
    pictures = torch.rand(n, 3, 64, 64, generator=rng) * 2 - 1
    points = torch.rand(n, 5, 2, generator=rng) * 0.3 + 0.35
    return Pairs(pictures, points, rows[:n], rows[n:])


def test_the_panel_lies_where_the_backend_does():
    """ "meta" stands for a GPU: tensors of two devices do not go together."""
    head = {name: torch.ones(1) for name in TENSORS}
    panel = BundledPanel.of(SimpleNamespace(device="meta"), head)
    assert {one.device.type for one in panel.head} == {"meta"}


@pytest.fixture(scope="module")
def pairs(readers: Readers) -> Pairs:
    return pairs_of(readers.backend, 4)


@pytest.mark.parametrize("space", SPACES)
def test_nothing_swapped_is_the_source_and_all_is_the_target(readers, pairs, space):
    backend = readers.backend
    n = ranks.count(backend.layers, SHAPE.latent, space)
    styles = [
        ranks.swapped_styles(
            backend, pairs.sources, pairs.targets, torch.full((len(pairs), n), weight), space
        )
        for weight in (0.0, 1.0)
    ]
    assert torch.equal(styles[0], backend.styles(pairs.sources))
    assert torch.equal(styles[1], backend.styles(pairs.targets))


@pytest.mark.parametrize("space", SPACES)
def test_a_swap_is_the_other_ones_swap_of_the_rest(readers, pairs, space):
    backend = readers.backend
    n = ranks.count(backend.layers, SHAPE.latent, space)
    chosen = (torch.rand(len(pairs), n, generator=torch.Generator().manual_seed(2)) < 0.5).float()
    one = ranks.swapped_styles(backend, pairs.sources, pairs.targets, chosen, space)
    other = ranks.swapped_styles(backend, pairs.targets, pairs.sources, 1 - chosen, space)
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_drawing_from_styles_is_drawing_from_rows(readers, pairs):
    backend = readers.backend
    context = backend.context(pairs.pictures)
    by_rows = backend.draw(context, pairs.points, pairs.sources)
    by_styles = backend.draw_styles(context, pairs.points, backend.styles(pairs.sources))
    assert torch.equal(by_rows, by_styles)


@pytest.mark.parametrize("row", range(9))
def test_drawing_again_from_a_row_is_drawing_all_of_it(readers, pairs, row):
    backend, pair = readers.backend, pairs[:1]
    context = backend.context(pair.pictures)
    styles = backend.styles(pair.sources)
    drawn, begun = backend.begun(context, pair.points, styles)
    assert torch.equal(drawn, backend.draw_styles(context, pair.points, styles))
    layer = backend.layers[row]
    changed = styles.repeat(3, 1)
    changed[:, layer.offset :] += torch.randn(3, styles.shape[1] - layer.offset)
    many = (context.expand(3, -1, -1, -1), pair.points.expand(3, -1, -1))
    naive = backend.draw_styles(*many, changed)
    torch.testing.assert_close(backend.continued(begun, changed, row), naive, atol=1e-4, rtol=1e-4)
    if row:
        with pytest.raises(ValueError, match="what enters it"):
            backend.composer.drawn_from(begun.maps, changed, row=row)


def test_first_row_and_spread_are_the_table(readers):
    layers, latent = readers.backend.layers, SHAPE.latent
    for space in SPACES:
        n = ranks.count(layers, latent, space)
        for feature in range(n):
            parts = ranks.spread(torch.eye(n)[feature : feature + 1], layers, latent, space)
            if space == "channels":
                row = next(
                    one.row for one in layers if one.offset <= feature < one.offset + one.channels
                )
            else:
                assert parts.sum() == {"numbers": 1, "groups": latent // 2, "rows": latent}[space]
                row = int(parts[0].sum(1).argmax())
            assert ranks.first_row(layers, latent, space, feature) == row


def test_a_rankings_changes_are_those_of_one_swap_at_a_time(readers, pairs):
    """By the plain route: swap, draw everything, compare."""
    features = [0, 3, 20, 41]
    found = list(ranks.exact(readers, pairs, "channels", features, batch=3))
    again = list(ranks.exact(readers, pairs, "channels", features, batch=1))
    backend = readers.backend
    n = ranks.count(backend.layers, SHAPE.latent, "channels")
    for at, (did, dat, columns, other) in enumerate(found):
        pair = pairs[at : at + 1]
        was, had = readers(readers.drawn(pair, backend.styles(pair.sources)), pair.points)
        for place, feature in enumerate(features):
            weights = torch.eye(n)[feature : feature + 1]
            mixed = ranks.swapped_styles(backend, pair.sources, pair.targets, weights, "channels")
            now, have = readers(readers.drawn(pair, mixed), pair.points)
            cosine = float((now * was).sum())
            assert did[place] == pytest.approx(max(2 - 2 * cosine, 0) ** 0.5, abs=2e-3)
            assert dat[place] == pytest.approx(float(((have - had) ** 2).mean() ** 0.5), abs=1e-3)
            assert columns[place] == pytest.approx((have - had).abs()[0].numpy(), abs=2e-3)
        assert np.isnan(other).all()
        np.testing.assert_allclose(did, again[at][0], atol=1e-4)
        np.testing.assert_allclose(dat, again[at][1], atol=1e-4)


def test_the_shortcut_is_the_jacobian_and_orders_as_small_swaps_do(readers, pairs):
    near = Pairs(
        pairs.pictures,
        pairs.points,
        pairs.sources,
        torch.lerp(pairs.sources, pairs.targets, 0.02),
    )
    quick = ranks.sketch(readers, near, projections=64, seed=3)
    for space in ("channels", "numbers"):
        true = np.stack([row[:2] for row in ranks.exact(readers, near, space)])
        for place, name in enumerate(("did", "dat")):
            a, b = quick[f"{space} {name}"].mean(0), true[:, place].mean(0)
            assert ranks.spearman(a, b) > 0.9
            assert float(np.median(a[b > 1e-6] / b[b > 1e-6])) == pytest.approx(1, abs=0.2)
    columns = ranks.sketch_columns(readers, near)
    exact = np.mean([row[2] for row in ranks.exact(readers, near, "channels")], 0)
    assert np.corrcoef(columns["channels"].ravel(), exact.ravel())[0, 1] > 0.95


def test_distances_have_their_known_values():
    a = functional.normalize(torch.randn(5, 48), dim=1)
    assert ranks.identity_distance(a, a).tolist() == [0] * 5
    torch.testing.assert_close(ranks.identity_distance(a, -a), torch.full((5,), 2.0))
    b = functional.normalize(torch.randn(5, 48), dim=1)
    assert torch.equal(ranks.identity_distance(a, b), ranks.identity_distance(b, a))
    x, y = torch.zeros(2, 4), torch.tensor([[1.0, 1, 1, 1], [2, 0, 0, 0]])
    assert ranks.attribute_distance(x, y).tolist() == [1, 1]  # a face each, whatever the batch


def test_the_metric_rewards_identity_and_not_doing_nothing():
    did = np.array([0.5, 0.5, 0.0, 1e-9])
    dat = np.array([0.1, 0.4, 0.2, 1e-12])
    score = ranks.disentanglement(did, dat)
    assert np.argsort(-score).tolist()[0] == 0
    assert score[3] < score[1]  # 0/0 does not win
    assert ranks.disentanglement(did, dat, 0)[3] > score[0]  # as it would without tau
    named = ranks.scores(np.tile(did, (3, 1)), np.tile(dat, (3, 1)))
    np.testing.assert_allclose(named["ratio"], score)
    np.testing.assert_allclose(named["per pair"], score)
    assert set(named) == {"ratio", "per pair", "difference", "identity"}


def test_spearman_halves_and_overlap():
    scipy = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 6, 30).astype(float), rng.normal(size=30)
        assert ranks.spearman(a, b) == pytest.approx(scipy.spearmanr(a, b).statistic)
    assert ranks.spearman(np.ones(4), np.arange(4.0)) == 0
    did, dat = rng.random((6, 40)) + np.arange(40) * 9, np.ones((6, 40))
    assert ranks.halves(did, dat) == 1
    assert ranks.overlap(np.arange(20.0), np.arange(20.0)) == 1
    assert ranks.overlap(np.arange(20.0), -np.arange(20.0)) == 0


def test_strengths_take_the_first_and_a_part_of_the_next():
    order = np.array([3, 1, 0, 2])
    weights = ranks.strengths(order, [0, 0.25, 0.625, 1])
    assert weights.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0.5, 1, 0, 1], [1, 1, 1, 1]]
    shares = np.linspace(0, 1, 33)
    moved = ranks.strengths(np.random.default_rng(0).permutation(50), shares)
    assert (np.diff(moved, axis=0) >= 0).all()
    np.testing.assert_allclose(moved.mean(1), shares)
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="not within"):
            ranks.strengths(order, [wrong])


def test_a_target_equal_to_its_source_is_refused(pairs):
    with pytest.raises(ValueError, match="equal to its source"):
        ranks.swapped(pairs.sources, pairs.sources, torch.ones(1))
    with pytest.raises(ValueError, match="equal to its source"):
        Pairs(pairs.pictures, pairs.points, pairs.sources, pairs.sources.clone())


def test_a_sample_of_features_is_spread_over_rows(readers):
    layers = readers.backend.layers
    n = ranks.count(layers, SHAPE.latent, "channels")
    score = np.random.default_rng(0).random(n)
    chosen = ranks.stratified(layers, SHAPE.latent, "channels", score, 40, 1)
    assert len(set(chosen)) == 40
    rows = {ranks.first_row(layers, SHAPE.latent, "channels", one) for one in chosen}
    assert rows == set(range(9))
    assert len(ranks.stratified(layers, SHAPE.latent, "channels", score, 10**6, 1)) == n


def test_a_ranking_is_read_and_hashed_once(monkeypatch):
    from moretta.weights import backends, load

    read = []
    monkeypatch.setattr(load, "_check", lambda wanted, *_: read.append(wanted.name))
    backends.ranking()
    assert read == ["styleid"]
