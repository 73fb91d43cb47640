"""Gates of the latent swapper: their range, what is locked, and by what."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from moretta.networks.composer import Composer, Shape
from moretta.networks.ranking import Measured, Ranking
from moretta.networks.swapper import Swapper, locked_rows

SMALL = Shape(side=64, widths=(8, 8, 12, 16), attributes=6, finish=4)
LOCKED = (4, 5, 6)


@pytest.fixture(scope="module")
def layers():
    return Composer(SMALL).layers


@pytest.fixture
def swapper(layers):
    torch.manual_seed(3)
    made = Swapper(layers, SMALL.latent, LOCKED)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def codes(count: int, seed: int = 0):
    rng = torch.Generator().manual_seed(seed)
    source = torch.randn(count, 1, SMALL.latent, generator=rng).expand(-1, 9, -1).contiguous()
    target = torch.randn(count, 1, SMALL.latent, generator=rng).expand(-1, 9, -1).contiguous()
    return source, target


def ranking(did, dat) -> Ranking:
    rows = Measured(did=np.array(did), dat=np.array(dat), columns=np.zeros((len(did), 1)))
    return Ranking(backend="0" * 64, names=("one",), spaces={"rows": rows})


def test_gates_are_within_their_range_and_locked_rows_are_the_targets(swapper):
    source, target = codes(5)
    gates = swapper(source * 40, target * 40).detach()  # whatever the size of a code
    assert gates.shape == source.shape
    assert bool((gates >= 0).all())
    assert bool((gates <= 1).all())
    locked = list(LOCKED)
    assert bool((gates[:, locked] == 1).all())
    mixed = torch.lerp(source, target, gates)
    assert torch.equal(mixed[:, locked], target[:, locked])
    free = [row for row in range(9) if row not in LOCKED]
    assert 0 < float(gates[:, free].mean()) < 1
    assert float(gates[:, free].std()) > 0.05
    assert not torch.equal(gates[:, 7], gates[:, 8])  # of one level, with one code


def test_what_one_face_gets_does_not_depend_on_the_others(swapper):
    source, target = codes(6)
    together = swapper(source, target).detach()
    for i in range(6):
        alone = swapper(source[i : i + 1], target[i : i + 1]).detach()
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(together[0], together[1])  # each face has its own


def test_every_parameter_learns(swapper):
    source, target = codes(4)
    (swapper(source, target) * torch.linspace(0, 1, SMALL.latent)).sum().backward()
    for name, parameter in swapper.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_locked_rows_come_from_the_measured_ranking():
    """Rows whose D is at least half of the best one's; tau is the median of Dat."""
    did, dat = [0.1, 0.9, 0.5, 0.2], [0.2, 0.2, 0.2, 0.2]
    assert locked_rows(ranking(did, dat)) == (1, 2)
    assert locked_rows(ranking(did[::-1], dat)) == (1, 2)
    assert locked_rows(ranking([0.9, 0.1, 0.1, 0.9], dat)) == (0, 3)
    assert locked_rows(ranking(did, [0.2, 3.0, 0.2, 0.2])) == (2,)  # it moves too much else


def test_the_bundled_ranking_locks_the_middle_rows():
    from moretta.weights.backends import ranking as bundled

    rows = locked_rows(bundled())
    assert 1 <= len(rows) <= 5
    assert set(rows) <= set(range(2, 9))
    assert set(bundled().spaces["rows"].order[: len(rows)].tolist()) == set(rows)


@pytest.mark.parametrize("locked", [tuple(range(9)), (9,), (-1,)])
def test_rows_that_leave_nothing_to_decide_or_do_not_exist_are_refused(layers, locked):
    with pytest.raises(ValueError, match="of 9 are locked"):
        Swapper(layers, SMALL.latent, locked)


def test_rows_of_another_backend_are_refused(swapper):
    source, target = codes(2)
    for wrong in (source[:, :8], source[:, :, :8]):
        with pytest.raises(ValueError, match="rows of shape"):
            swapper(wrong, wrong)
    with pytest.raises(ValueError, match="rows of shape"):
        swapper(source, target[:1])


def test_a_file_opens_to_the_same_gates_and_nothing_else_does(swapper, layers):
    source, target = codes(3)
    tensors = {name: value.half().numpy() for name, value in swapper.state_dict().items()}
    again = Swapper.from_tensors(tensors, layers, SMALL.latent, LOCKED)
    torch.testing.assert_close(
        again(source, target), swapper(source, target).detach(), atol=2e-2, rtol=0
    )
    assert not any(parameter.requires_grad for parameter in again.parameters())
    with pytest.raises(RuntimeError):
        Swapper.from_tensors(tensors, layers, SMALL.latent, (1, 2))
    broken = {name: np.full_like(value, np.nan) for name, value in tensors.items()}
    with pytest.raises(ValueError, match="not finite"):
        Swapper.from_tensors(broken, layers, SMALL.latent, LOCKED)


@pytest.mark.parametrize("side", [96, 128, 256])
def test_it_is_small_for_every_composer(side):
    shape = Shape.of(side)
    swapper = Swapper(Composer(shape).layers, shape.latent, LOCKED)
    assert 2 * sum(parameter.numel() for parameter in swapper.parameters()) < 3_000_000
