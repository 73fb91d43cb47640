"""The evaluation finds what is there and nothing else; and its gates can fail."""

from __future__ import annotations

import numpy as np
import pytest

from moretta.evaluation import gates, ladder

pytest.importorskip("scipy")


@pytest.mark.parametrize("gate", gates.GATES, ids=lambda gate: gate.__name__)
def test_every_gate_passes(gate):
    found = gate()
    assert found.passed, f"{found.id}: {found.value}, not {found.bound}"


def test_ties_counted_as_hits_are_noticed(monkeypatch):
    """The classic mistake: only better scores count, so a constant recogniser is perfect."""
    monkeypatch.setattr(
        "moretta.evaluation.ranking.above_and_equal",
        lambda scores, own: (
            (scores > scores[np.arange(len(own)), own][:, None] + 1e-9).sum(1),
            np.zeros(len(own), np.int64),
        ),
    )
    assert not gates.constant().passed


def test_labels_that_leak_are_noticed(monkeypatch):
    """Scores that know the answer, whatever was released."""
    plain = ladder.Layout.rows
    where = gates.layout()
    truth = gates.drawn(where)
    monkeypatch.setattr(gates, "drawn", lambda where, seed=0: truth)
    assert not gates.shuffled().passed
    assert plain is ladder.Layout.rows


def test_attackers_that_do_nothing_are_noticed(monkeypatch):
    monkeypatch.setattr("moretta.evaluation.attackers.mapping.rotation", lambda a, c: np.eye(64))
    assert not gates.rotated().passed


def test_missed_faces_that_are_dropped_are_noticed(monkeypatch):
    whole = ladder.scored

    def flattering(candidate, rule, where, row, *, seed):
        found = whole(candidate, rule, where, row, seed=seed)
        return gates.replace(found, all=found.processed or found.all)

    monkeypatch.setattr(ladder, "scored", flattering)
    assert not gates.canary().passed


def test_a_gate_that_stops_with_an_error_has_failed(monkeypatch):
    def stops():
        raise RuntimeError("out of order")

    monkeypatch.setattr(gates, "GATES", (stops,))
    (found,) = gates.self_test()
    assert not found.passed
    assert "out of order" in found.value


def test_a_face_that_shows_through_is_noticed():
    """The gates of the surroundings are no empty ones: a face that is kept fails them."""
    assert not gates.explained("G3", "", lambda face: face).passed
    assert not gates.explained("G3", "", lambda face: (face // 2 + 60).astype(face.dtype)).passed


def test_figures_that_hang_on_the_order_are_noticed(monkeypatch):
    whole = ladder.scored

    def first_person_wins(candidate, rule, where, row, *, seed):
        found = whole(candidate, rule, where, row, seed=seed)
        shifted = found.all.top1.v + 1e-3 * float(where.people[0])
        top1 = gates.replace(found.all.top1, v=shifted)
        return gates.replace(found, all=gates.replace(found.all, top1=top1))

    monkeypatch.setattr(ladder, "scored", first_person_wins)
    assert not gates.other_order().passed


def test_metadata_that_is_not_read_is_noticed(monkeypatch):
    monkeypatch.setattr("moretta.evaluation.sidechannels.metadata", lambda path: {})
    assert not gates.other_order().passed
