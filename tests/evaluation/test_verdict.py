"""Bands, ties, and everything that forbids a verdict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moretta.evaluation.gates import Gate
from moretta.evaluation.intervals import Estimate
from moretta.evaluation.ladder import Figures, Row, Tar
from moretta.evaluation.ranking import normalised
from moretta.evaluation.verdict import chance_gate, verdict

STANDARD = {"scenario": "bystander", "profile": "standard"}


def row(attack, hi, *, v_top1=0.5, people=200, recogniser="sface", tar=0.0, **more):
    top = Estimate(hi / 2, 0.0, hi)
    return Row(
        attack=attack,
        summary="",
        recogniser=recogniser,
        gallery="clear",
        same_photo=attack == "A0-same",
        floor=attack == "A8",
        status="ok",
        size=100,
        chance=0.01,
        chosen_at=v_top1,
        all=Figures(top1=top, top5=top, people=people, probes=people),
        normalised=Estimate(*(normalised(x, 0.01) for x in (top.v, top.lo, top.hi))),
        tar=(Tar(target=1e-3, realised=1e-3, threshold_from="V", rate=Estimate(tar, 0, 1)),),
        values=np.full(people, top.v),
        **more,
    )


CLEAR = [row("clear", 1.9), row("clear", 1.9, recogniser="facenet")]
PASSED = [Gate(id="G1", what="", passed=True, value="", bound="")]


@pytest.mark.parametrize(
    ("upper", "words", "light"),
    [
        (0.029, "no leak found by the attacks run", "green"),
        (0.05, "weak leak", "amber"),
        (0.3, "substantial leak", "red"),
        (0.9, "recognisable", "red"),
    ],
)
def test_bands(upper, words, light):
    found = verdict([row("A0-other", upper)], CLEAR, PASSED, **STANDARD)
    assert (found.words, found.light) == (words, light)


@pytest.mark.parametrize(
    ("change", "options"),
    [
        ({"tar": 0.02}, STANDARD),
        ({}, {**STANDARD, "profile": "quick"}),
        ({"curve": ((100, 0.1), (200, 0.2))}, STANDARD),
    ],
)
def test_what_forbids_the_best_band(change, options):
    found = verdict([row("A0-other", 0.02, **change)], CLEAR, PASSED, **options)
    assert found.words == "weak leak"


@pytest.mark.parametrize(
    ("rows", "gates", "more", "words"),
    [
        ([row("A0-other", 0.02, people=99)], PASSED, {}, "insufficient"),
        (
            [row("A0-other", 0.02)],
            [Gate(id="G7", what="", passed=False, value="", bound="")],
            {},
            "no verdict",
        ),
        ([row("A0-other", 0.02)], PASSED, {"without_output": 0.02}, "no verdict"),
        ([row("A0-other", 0.02)], PASSED, {"trained_with": ("sface",)}, "no verdict"),
        ([row("A8", 0.02)], PASSED, {}, "no verdict"),
        ([], PASSED, {}, "no verdict"),
    ],
)
def test_what_forbids_a_verdict(rows, gates, more, words):
    found = verdict(rows, CLEAR, gates, **STANDARD, **more)
    assert found.words == words
    assert found.light == "grey"


def test_a_recogniser_that_does_not_know_people_cannot_decide():
    blind = [row("clear", 0.8)]
    assert verdict([row("A0-other", 0.02)], blind, PASSED, **STANDARD).words == "no verdict"


def test_v_decides_ties_go_to_the_first_and_the_sentence_covers_every_attack():
    rows = [
        row("A0-other", 0.6, v_top1=0.1),
        row("A1", 0.2, v_top1=0.4),
        row("A2-head", 0.3, v_top1=0.4),
        row("A0-same", 0.99, v_top1=0.9),
        row("A8", 0.99, v_top1=0.9),
    ]
    found = verdict(rows, CLEAR, PASSED, **STANDARD)
    assert found.best is rows[1], "a tie on V may not be decided by E"
    assert found.highest is rows[0]
    assert "exceeded 60.0% top-1" in found.sentence
    assert found.sentence.startswith("Of the attacks that count in scenario bystander, none")
    published = verdict(rows, CLEAR, PASSED, scenario="published", profile="standard")
    assert published.best is rows[3]


def test_an_attack_no_better_than_the_surroundings_is_called_so():
    rows = [row("A1", 0.2), row("A8", 0.3)]
    assert any("limited by context" in n for n in verdict(rows, CLEAR, PASSED, **STANDARD).notes)
    rows = [row("A1", 0.5), row("A8", 0.05)]
    assert not any("context" in n for n in verdict(rows, CLEAR, PASSED, **STANDARD).notes)


@pytest.mark.parametrize(
    ("measured", "spread", "good"),
    [(0.025, 0.01, True), (0.04, 0.01, False), (0.138, 0.1, True), (0.4, 0.1, False)],
)
def test_chance_may_differ_by_what_the_renamings_scatter(measured, spread, good):
    """Few people make the measured chance rough; labels that leak still show."""
    rough = replace(row("A1", 0.2), chance=0.01, measured=measured, measured_spread=spread)
    if spread == 0.1:
        rough = replace(rough, chance=0.167)
    assert chance_gate(rough)[0] is good


def test_missed_faces_are_told():
    found = verdict([row("A1", 0.2)], CLEAR, PASSED, **STANDARD, coverage=0.9)
    assert any("90.0%" in note for note in found.notes)
