"""Average linkage without the matrix of all pairs, against the plain algorithm."""

import numpy as np
import pytest

from moretta.faces import group as room
from moretta.faces.group import LEAST, grouped


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def people(seed, faces=40, count=8, length=16):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(count, length))
    noise = random.normal(size=(faces, length)) * random.choice([0.3, 0.7, 1.2])
    who = random.integers(0, count, faces)
    return unit(centres[who] + noise), random.integers(0, 30, faces).tolist(), who


def sets(labels):
    return sorted(sorted(np.flatnonzero(np.array(labels) == one).tolist()) for one in set(labels))


def plain(vectors, photos, least):
    """Join the best pair of groups, one at a time, looking at every pair of faces."""
    groups = [[i] for i in range(len(vectors))]
    while True:
        pairs = [
            (float(np.mean(vectors[a] @ vectors[b].T)), i, j)
            for i, a in enumerate(groups)
            for j, b in enumerate(groups[:i])
            if not {photos[k] for k in a} & {photos[k] for k in b}
        ]
        best, i, j = max(pairs, default=(-2, 0, 0))
        if best < least:
            return sorted(sorted(one) for one in groups)
        groups[j] += groups.pop(i)


@pytest.mark.parametrize("least", [0.1, 0.36, 0.6])
@pytest.mark.parametrize("block", [3, 1024])
def test_the_groups_are_those_of_the_plain_algorithm(least, block, monkeypatch):
    monkeypatch.setattr(room, "BLOCK", block)
    sizes = set()
    for seed in range(4):
        vectors, photos, _ = people(seed)
        found = sets(grouped(vectors, photos, least=least))
        assert found == plain(vectors, photos, least)
        sizes |= {len(one) for one in found}
    assert {1, 2} < sizes, "a test in which nothing is joined would prove nothing"


def test_the_default_finds_the_people():
    random = np.random.default_rng(0)
    who = random.integers(0, 9, 200)
    vectors = unit(random.normal(size=(9, 128))[who] + 0.5 * random.normal(size=(200, 128)))
    assert sets(grouped(vectors, range(200))) == sets(who.tolist())
    assert 0.36 <= LEAST <= 0.5


def test_groups_are_numbered_in_the_order_of_their_first_faces():
    one, two = np.eye(2, dtype=np.float32)
    assert grouped(np.array([two, one, two, one]), range(4)) == [0, 1, 0, 1]


def test_two_faces_of_one_photo_are_two_persons():
    vectors = np.ones((4, 4), np.float32) / 2
    assert len(set(grouped(vectors, [0, 1, 2, 3]))) == 1
    labels = grouped(vectors, [0, 0, 1, 1])
    assert labels[0] != labels[1]
    assert labels[2] != labels[3]
    assert set(labels[:2]) == set(labels[2:])


def test_copies_and_circles_of_equal_cosines_come_to_an_end():
    vectors, _, _ = people(1, faces=30)
    copies = np.tile(vectors, (20, 1))
    once, many = grouped(vectors, range(30)), grouped(copies, range(600))
    assert sets(many[:30]) == sets(once)
    assert many == many[:30] * 20
    corners = unit(np.eye(6) + 1)  # every cosine between two of them is the same
    assert grouped(corners, range(6), least=0.5) == [0] * 6


def test_what_is_no_vector_is_alone():
    vectors = np.ones((4, 4), np.float32) / 2
    vectors[1] = np.nan
    assert grouped(vectors, range(4)) == [0, 1, 0, 0]
    assert grouped(np.zeros((0, 4), np.float32), []) == []
    assert grouped(vectors[:1], [0]) == [0]
