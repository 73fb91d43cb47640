"""The composer as a backend: W+, truncation, inversion, and faces without a photo."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def backend():
    from moretta.weights.backends import composer

    torch.set_num_threads(1)
    return composer()


@pytest.fixture(scope="module")
def faces(backend):
    """Two synthetic faces: pictures, points, rows, identities and codes."""
    with torch.no_grad():
        ((_, _, parts),) = backend.samples(2, 5, batch=2)
    return parts


def in_mask(backend, pictures, points, rows):
    """How far the face that the rows draw is from the pictures', for each, in -1..1."""
    with torch.no_grad():
        drawn = backend.draw(backend.context(pictures), points, rows)
        return (backend.composed(pictures, drawn) - pictures).abs().mean((1, 2, 3))


def test_truncation_leads_from_the_rows_to_the_mean_of_the_crowd(backend, faces):
    _, _, rows, identities, codes = faces
    crowd = torch.nn.functional.normalize(torch.randn(2, 5, 48), dim=2)
    with torch.no_grad():
        torch.testing.assert_close(backend.truncated(rows, crowd, codes, torch.tensor(1)), rows)
        each = torch.stack([backend.rows(crowd[:, i], codes) for i in range(5)])
        mean = backend.truncated(rows, crowd, codes, torch.tensor(0))
        torch.testing.assert_close(mean, each.mean(0))
        half = backend.truncated(rows, crowd, codes, torch.tensor(0.5))
        torch.testing.assert_close(half, (mean + rows) / 2)
        each = backend.truncated(rows, crowd, codes, torch.tensor([0.0, 1.0]))
        torch.testing.assert_close(each, torch.stack([mean[0], rows[1]]))
        alone = backend.truncated(rows, identities[:, None], codes, torch.tensor(0.3))
    torch.testing.assert_close(alone, rows)  # a crowd of nobody else


def test_inversion_begins_at_the_mapping_and_comes_nearer_by_steps(backend, faces):
    pictures, points, _, _, _ = faces
    with torch.no_grad():
        mapped = backend.rows(backend.identity(pictures, points), backend.attributes(pictures))
    begun = backend.invert(pictures, points)
    torch.testing.assert_close(begun, mapped)
    refined = backend.invert(pictures, points, steps=6)
    assert refined.shape == begun.shape
    assert not refined.requires_grad
    before, after = (in_mask(backend, pictures, points, rows) for rows in (begun, refined))
    assert bool((after < 0.95 * before).all())


def test_faces_that_are_inverted_together_do_not_move_each_other(backend, faces):
    pictures, points, _, _, _ = faces
    exact = replace(backend, dtype=torch.float32)
    together = exact.invert(pictures, points, steps=2)
    alone = exact.invert(pictures[1:], points[1:], steps=2)
    other = (together[1:] - alone).abs() > 1e-2  # a gradient near 0 may take either sign in Adam
    assert float(other.float().mean()) < 0.02
    assert float((together[0] - together[1]).abs().max()) > 0.1


def test_the_first_samples_of_many_are_those_of_few(backend):
    with torch.no_grad():
        few = [parts for _, _, parts in backend.samples(3, 9, batch=2)]
        many = [parts for _, _, parts in backend.samples(5, 9, batch=2)]
        later = [parts for _, _, parts in backend.samples(5, 9, batch=2, start=2)]
    assert [len(parts[0]) for parts in few] == [2, 1]
    for place in range(5):
        first, second, third = (
            torch.cat([parts[place] for parts in made]) for made in (few, many, later)
        )
        assert torch.equal(first, second[:3])
        assert torch.equal(third, second[2:])
    assert float((many[0][0][0] - many[0][0][1]).abs().mean()) > 0.05


def test_samples_can_be_truncated_in_who_they_are(backend):
    """With one crowd for all, at truncation 0 everybody is the same face; identities are told as drawn."""
    crowd = np.eye(48, dtype=np.float32)[None, :4]
    with torch.no_grad():
        ((_, _, free),) = backend.samples(2, 9, batch=2, truncation=0)
        ((_, _, alike),) = backend.samples(
            2, 9, batch=2, truncation=0, crowds=lambda found: crowd.repeat(len(found), 0)
        )
    assert torch.equal(free[3], alike[3])
    torch.testing.assert_close(alike[2][0], alike[2][1], rtol=1e-4, atol=1e-4)
    assert float((free[2][0] - free[2][1]).abs().max()) > 0.1


def test_methods_use_what_the_protocol_has_and_nothing_else():
    import moretta.methods
    from moretta.networks.backend import Backend, ComposerBackend

    has = {name for name in vars(Backend) if not name.startswith("_")}
    assert has <= set(dir(ComposerBackend)) | set(ComposerBackend.__dataclass_fields__)
    used = set()
    for path in Path(moretta.methods.__file__).parent.glob("*.py"):
        used |= set(re.findall(r"\bbackend\.([a-z_]+)(?! import)\b", path.read_text()))
    assert len(used) > 10
    assert used <= has
