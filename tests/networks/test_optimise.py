"""FALCO's optimisation on the bundled networks: what moves, what stays, batches, losses, faults."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from moretta.errors import UsageError
from moretta.networks.backend import Begun
from moretta.networks.features import Seen
from moretta.networks.optimise import (
    ATTRIBUTES,
    IDENTITY,
    RATE,
    Task,
    move,
    rates,
    require_gradient,
)
from moretta.weights import backends

MOVED = (1, 2)


class Toy:
    """A backend of random matrices in float64: what is said of optimisation holds to the bit nearly."""

    device, side = "cpu", 6

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        make = {"dtype": torch.float64, "generator": generator}
        self.brush = torch.randn(4 * 5, 3 * 36, **make) / 4
        self.eye = torch.randn(3 * 36, 16, **make) / 9
        self.taste = torch.randn(3 * 36, 7 * 3, **make) / 9

    def context(self, pictures):
        return pictures

    def draw(self, context, points, rows):
        return torch.tanh(rows.flatten(1) @ self.brush).view(-1, 3, 6, 6) + 0.1 * context

    def styles(self, rows):
        return rows

    def begun(self, context, points, styles):
        return self.draw(context, points, styles), Begun([context], [])

    def continued(self, begun, styles, row):
        assert row == min(MOVED)
        return self.draw(begun.maps[0], None, styles)

    def composed(self, pictures, drawn):
        return drawn

    def seen(self, pictures, points):
        return torch.nn.functional.normalize(pictures.flatten(1) @ self.eye, dim=1), None

    def of(self, pictures, points, *, maps=None):
        return Seen(pictures.mean((2, 3)), (pictures.flatten(1) @ self.taste).view(-1, 7, 3))


@pytest.fixture(scope="module")
def networks():
    return Toy(), Toy()


@pytest.fixture(scope="module")
def task(networks):
    toy = networks[0]
    generator = torch.Generator().manual_seed(1)
    pictures = torch.rand(3, 3, 6, 6, dtype=torch.float64, generator=generator) * 2 - 1
    points = torch.zeros(3, 5, 2)
    return Task(
        pictures=pictures,
        points=points,
        rows=torch.randn(3, 4, 5, dtype=torch.float64, generator=generator),
        moved=MOVED,
        old=toy.seen(pictures, points)[0],
        truth=toy.of(pictures, points).tokens,
        targets=torch.tensor([0.0, 0.5, -0.2], dtype=torch.float64),
    )


def part(task, i):
    tensors = ("pictures", "points", "rows", "old", "truth", "targets")
    return replace(task, **{name: getattr(task, name)[i : i + 1] for name in tensors})


def test_the_schedule_is_the_published_one():
    assert rates(50) == [0.01] * 37 + [0.008] * 8 + [0.0064] * 5
    assert sum(rates(50)) == pytest.approx(0.466)
    assert rates(0) == []


def test_many_at_once_are_as_each_alone_and_only_moved_rows_move(task, networks):
    together = move(task, *networks, steps=30)
    for i in range(len(task)):
        alone = move(part(task, i), *networks, steps=30)
        for name in ("rows", "pictures", "cosines", "attributes", "steps"):
            one, many = getattr(alone, name)[0], getattr(together, name)[i]
            torch.testing.assert_close(one, many, rtol=0, atol=1e-9)
    still = [row for row in range(task.rows.shape[1]) if row not in MOVED]
    assert torch.equal(together.rows[:, still], task.rows[:, still])
    change = (together.rows - task.rows)[:, list(MOVED)].abs()
    assert float(change.amax()) <= 30 * RATE * 1.1
    assert (change.flatten(1).sum(1) > 0).all()


def test_it_is_torchs_adam_on_the_published_loss(task, networks):
    toy, one = networks[0], part(task, 1)
    theta = one.rows[:, list(MOVED)].clone().requires_grad_(True)
    optimiser = torch.optim.Adam([theta], lr=RATE)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [37, 45], 0.8)
    for _ in range(50):
        rows = one.rows.clone()
        rows[:, list(MOVED)] = theta
        drawn = toy.draw(one.pictures, one.points, rows)
        cosine = (toy.seen(drawn, one.points)[0] * one.old).sum()
        tokens = toy.of(drawn, one.points).tokens
        loss = 10 * (cosine - 0.5).abs() + 0.1 * (tokens - one.truth).abs().mean(2).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    found = move(one, *networks, steps=50, stops=False)
    torch.testing.assert_close(found.rows[:, list(MOVED)], theta.detach(), rtol=0, atol=1e-9)
    assert (IDENTITY, ATTRIBUTES) == (10.0, 0.1)


def test_the_target_is_approached(task, networks):
    before = move(task, *networks, steps=0)
    after = move(task, *networks, steps=50)
    gap = (before.cosines - task.targets).abs().mean(), (after.cosines - task.targets).abs().mean()
    assert gap[1] < 0.7 * gap[0]


class Whole:
    """What `move` keeps of a drawing that is begun, for a backend that draws anew each time."""

    def __init__(self, context, points):
        self.context, self.points = context, points

    def of(self, which):
        return Whole(self.context[which], self.points[which])


class Plain:
    """A backend that never goes on from a prefix."""

    def __init__(self, backend):
        self._backend = backend

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def begun(self, context, points, styles):
        return self._backend.draw_styles(context, points, styles), Whole(context, points)

    def continued(self, begun, styles, row):
        return self._backend.draw_styles(begun.context, begun.points, styles)


def test_what_is_drawn_once_is_as_drawing_all_of_it_in_every_step():
    """On the bundled networks; the first face is lost at once, so the others are picked from the rest."""
    torch.set_num_threads(1)
    backend = backends.composer(precision="float32")
    features = backends.features("features", backend)
    with torch.no_grad():
        ((_, _, (pictures, points, rows, identities, _)),) = backend.samples(3, 5)
        truth = features.of(pictures, points).tokens
    truth[0] = torch.nan
    moved = backend.identity_rows
    assert min(moved) > 0  # there is something that is drawn once
    whole = Task(
        pictures=pictures,
        points=points,
        rows=rows,
        moved=moved,
        old=identities.roll(1, 0),
        truth=truth,
        targets=torch.tensor([0.0, 0.3, -0.3]),
    )
    kept = move(whole, backend, features, steps=3)
    plain = move(whole, Plain(backend), features, steps=3)
    assert kept.lost.tolist() == plain.lost.tolist() == [True, False, False]
    for name in ("cosines", "attributes", "pictures", "rows"):
        one, other = getattr(kept, name)[1:], getattr(plain, name)[1:]
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_no_weight_of_the_bundled_networks_gets_a_gradient():
    torch.set_num_threads(1)
    backend = backends.composer()
    features = backends.features("features", backend)
    with torch.no_grad():
        ((_, _, (pictures, points, rows, identities, _)),) = backend.samples(2, 5)
        truth = features.of(pictures, points).tokens
    whole = Task(
        pictures=pictures,
        points=points,
        rows=rows,
        moved=backend.identity_rows,
        old=identities.roll(1, 0),
        truth=truth,
        targets=torch.zeros(2),
    )
    done = move(whole, backend, features, steps=2)
    assert not done.lost.any()
    assert not torch.equal(done.rows, rows)
    for network in (backend.composer, backend.identify, features._head):
        assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    require_gradient(backend)


def test_identical_faces_have_no_attribute_loss_and_cosine_one(task, networks):
    class Same(Toy):
        """Draws the photo itself, whatever the rows say."""

        def draw(self, context, points, rows):
            return context + 0 * rows.sum()

    done = move(task, Same(), networks[1], steps=0)
    torch.testing.assert_close(done.cosines, torch.ones(3, dtype=torch.float64))
    assert float(done.attributes.max()) < 1e-4


def test_a_face_that_gets_no_better_stops_and_keeps_its_best(task, networks, monkeypatch):
    from moretta.networks import optimise

    monkeypatch.setattr(optimise, "PATIENCE", 2)
    monkeypatch.setattr(optimise, "PROGRESS", 0.9)  # nothing is progress enough
    done = move(task, *networks, steps=10)
    assert done.steps.tolist() == [3, 3, 3]
    every = move(task, *networks, steps=5, stops=False)
    assert every.steps.tolist() == [5, 5, 5]


def test_a_loss_that_is_not_finite_loses_that_face_alone(task, networks):
    bad = replace(task, truth=task.truth.clone())
    bad.truth[1] = torch.nan
    done = move(bad, *networks, steps=3)
    assert done.lost.tolist() == [False, True, False]
    whole = move(task, *networks, steps=3)
    torch.testing.assert_close(done.rows[[0, 2]], whole.rows[[0, 2]], rtol=0, atol=1e-9)


def test_a_recogniser_without_gradient_is_refused(networks):
    class Blind:
        device, side = "cpu", 96

        def seen(self, pictures, points):
            return torch.ones(1, 48), None

    with pytest.raises(UsageError, match="gives no gradient"):
        require_gradient(Blind())
