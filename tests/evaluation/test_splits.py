"""Parts: disjoint, of the right size, decided by content and seed alone."""

from __future__ import annotations

import pytest

from moretta.errors import UsageError
from moretta.evaluation import splits

PEOPLE = {f"p{i}": [f"hash{i}a", f"hash{i}b"] for i in range(200)}


def test_parts_are_disjoint_and_of_their_share():
    found = splits.parts(PEOPLE, 0)
    counts = {part: sum(v == part for v in found.values()) for part in "TVEB"}
    assert counts == {"T": 120, "V": 30, "E": 50, "B": 0}
    assert set(found) == set(PEOPLE)


def test_names_do_not_matter_and_content_and_seed_do():
    renamed = {f"someone {i}": PEOPLE[f"p{i}"][::-1] for i in reversed(range(200))}
    first, second = splits.parts(PEOPLE, 0), splits.parts(renamed, 0)
    assert all(first[f"p{i}"] == second[f"someone {i}"] for i in range(200))
    assert splits.parts(PEOPLE, 1) != first


def test_people_whom_the_anonymiser_knows_attack_nothing():
    found = splits.parts(PEOPLE, 0, reserved={"p3", "p4", "nobody"})
    assert found["p3"] == found["p4"] == "B"
    assert "nobody" not in found


def test_a_person_in_two_parts_stops_everything():
    splits.check_disjoint({"T": ["a"], "E": ["b"]})
    with pytest.raises(UsageError, match="in part T and in part E"):
        splits.check_disjoint({"T": ["a", "b"], "E": ["b"]})
