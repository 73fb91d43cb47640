"""Groups, gaps and learning on drawn people whose answers are known; agreement with drawn readers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from moretta.errors import WeightsRejected
from moretta.evaluation import attributes, gates, ladder
from moretta.evaluation.embed import unit

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def where():
    return gates.layout({"T": 60, "V": 30, "E": 80})


def read(where, seed=0):
    rng = np.random.default_rng(seed)
    female = (where.people % 2).astype(float)
    n = len(where.people)
    return attributes.Readings(
        female, 20 + 10.0 * (where.people % 5), rng.uniform(0, 60, n), np.zeros(n)
    )


def row(values, where):
    return ladder.Row(
        attack="A1",
        summary="",
        recogniser="drawn",
        gallery="anon",
        same_photo=False,
        floor=False,
        status="ok",
        values=np.asarray(values, float),
    )


def test_a_group_that_leaks_more_is_seen(where):
    people = where.people_in("E")
    hits = np.where(people % 2 == 1, 0.9, 0.1)
    found, missing = attributes.subgroups(
        read(where), where, row(hits, where), row(np.ones(len(people)), where), seed=0
    )
    assert not missing
    by = {(g.by, g.group): g for g in found if g.metric == "top-1 of A1 (drawn)"}
    assert by["apparent gender", "female"].v == pytest.approx(0.9)
    assert by["apparent gender", "male"].v == pytest.approx(0.1)
    gap = by["apparent gender", "largest gap"]
    assert (gap.v, gap.lo) == (pytest.approx(0.8), pytest.approx(0.8))
    assert (
        sum(
            g.people
            for (name, group), g in by.items()
            if name == "apparent age" and "gap" not in group
        )
        == 80
    )


def test_equal_groups_have_no_gap(where):
    people = where.people_in("E")
    hits = np.random.default_rng(1).uniform(size=len(people))
    found, _ = attributes.subgroups(read(where), where, row(hits, where), row(hits, where), seed=0)
    gap = next(g for g in found if g.group == "largest gap" and g.by == "apparent gender")
    assert gap.lo <= 0 <= gap.v


def test_readings_that_are_not_there_are_named(where):
    readings = replace_readings(read(where), female=np.full(len(where.people), np.nan))
    hits = np.ones(len(where.people_in("E")))
    _, missing = attributes.subgroups(readings, where, row(hits, where), row(hits, where), seed=0)
    assert missing == ["subgroups by apparent gender"]
    readings.absent["gender"] = "it is missing"
    parts, missing = attributes.learning(readings, where, {"drawn": (hits, hits)}, seed=0)
    assert not parts
    assert "no labels" in missing[0]


def replace_readings(readings, **more):
    return replace(readings, **more)


def test_what_can_be_learnt_from_released_faces(where):
    """Clear vectors tell the gender; released ones do not, or do in the same way."""
    rng = np.random.default_rng(2)
    female = (where.people % 2).astype(float)
    clear = unit(rng.normal(size=(len(female), 16)) + 3 * np.eye(16)[0] * (2 * female - 1)[:, None])
    kept = unit(clear + 0.1 * rng.normal(size=clear.shape))
    lost = unit(rng.normal(size=clear.shape))
    for anon, low, high in ((kept, 0.9, 1.0), (lost, 0.0, 0.8)):
        parts, missing = attributes.learning(read(where), where, {"drawn": (clear, anon)}, seed=0)
        assert not missing
        value = {p.name: p.value for p in parts}
        assert value["gender learnt on real, asked on real"] > 0.9
        assert low <= value["gender learnt on anonymised, asked on real"] <= high
        assert low <= value["gender learnt on real, asked on anonymised"] <= high


@dataclass
class Drawn:
    """A reader of one pixel."""

    name: str

    def cut(self, photo, face):
        return photo[24:28, 24:28]

    def probabilities(self, crops, cache=None):
        light = crops.mean((1, 2, 3)) / 255
        if self.name == "age":
            rows = np.zeros((len(crops), 81))
            rows[np.arange(len(crops)), np.rint(light * 80).astype(int)] = 1
            return rows
        return np.stack([light, 1 - light], axis=1)


def test_agreement_of_drawn_readers(people_on_disk, drawn_networks, monkeypatch):
    from moretta.evaluation import faces
    from moretta.evaluation.embed import Cache
    from moretta.evaluation.pairs import paired

    from .conftest import Knowing, blocked

    monkeypatch.setattr(attributes.readers, "reader", Drawn)
    before, after = people_on_disk(lambda picture: picture, name="same")
    cache = Cache(None)
    found, _ = faces.samples(paired(before, after).pairs, Knowing("yunet", cache))
    people = np.array([int(s.pair.person.split()[1]) for s in found])
    parts, absent = attributes.agreement(found, people, cache, seed=0)
    value = {p.name: p.value for p in parts}
    assert not absent
    assert value["age kept"] == value["gender kept"] == value["expression kept"] == 1
    assert value["pose kept"] == 1
    assert value["age difference"] == value["yaw difference"] == 0
    before, after = people_on_disk(blocked, name="black")
    found, _ = faces.samples(paired(before, after).pairs, Knowing("yunet", cache))
    parts, _ = attributes.agreement(found, people, cache, seed=0)
    value = {p.name: p.value for p in parts}
    assert value["age kept"] == value["gender kept"] == value["pose kept"] == 0
    assert value["age difference"] is None


def test_absent_readers_are_named(monkeypatch):
    def gone(name):
        raise WeightsRejected(f"{name}.onnx is missing")

    monkeypatch.setattr(attributes.readers, "reader", gone)
    here, absent = attributes.built()
    assert not here
    assert absent == {name: f"{name}.onnx is missing" for name in attributes.readers.READERS}
