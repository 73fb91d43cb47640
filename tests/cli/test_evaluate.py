"""`moretta evaluate` and `moretta benchmark`: wrong use, exit codes, what lies in the folders."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import moretta.cli

PHOTO = Path(moretta.cli.__file__).with_name("astronaut.jpg")
for package in ("scipy", "sklearn", "matplotlib", "jinja2"):
    pytest.importorskip(package)


@pytest.fixture
def two_folders(tmp_path):
    for folder in ("before", "after"):
        for person in "ab":
            path = tmp_path / folder / person / "1.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(path)
    return tmp_path / "before", tmp_path / "after"


def arguments(two_folders, report, *more):
    before, after = two_folders
    return ("evaluate", "--original", before, "--anonymized", after, "--report", report, *more)


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        (["--profile", "qick"], "did you mean quick?"),
        (["--scenario", "none"], "--scenario is 'none'"),
        (["--labelled", "all"], "--labelled is 'all'"),
        (["--recognisers", "sface,arcface"], "--recognisers is 'arcface'"),
        (["--trained-with", "dlip"], "did you mean dlib?"),
        (["--seed", "-1"], "--seed is -1"),
        (
            ["--identities", "nowhere.csv"],
            "nowhere.csv cannot be read: No such file or directory\n",
        ),
        (["--identities", str(PHOTO)], "cannot be read as labels: it is not text in UTF-8\n"),
    ],
)
def test_wrong_options(moretta, two_folders, tmp_path, more, fault):
    code, _, err = moretta(*arguments(two_folders, tmp_path / "report", *more))
    assert code == 2
    assert fault in err
    assert "Traceback" not in err
    assert not (tmp_path / "report").exists()


def test_missing_options_are_named(moretta):
    code, _, err = moretta("evaluate", "--original", "x")
    assert code == 2
    assert "missing: --anonymized, --report" in err


def test_a_missing_folder(moretta, tmp_path):
    call = ["--original", tmp_path / "no", "--anonymized", tmp_path, "--report", tmp_path / "r"]
    code, _, err = moretta("evaluate", *call)
    assert code == 2
    assert "there is no folder" in err


def test_too_few_people(moretta, two_folders, tmp_path):
    code, _, err = moretta(*arguments(two_folders, tmp_path / "report"))
    assert code == 2
    assert "too few to attack" in err


def test_without_the_extra_one_clear_line(moretta, monkeypatch):
    found = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "moretta.evaluation.find_spec", lambda name: None if name == "scipy" else found(name)
    )
    for command in (["evaluate", "--self-test"], ["benchmark", "--data", "x", "--out", "y"]):
        code, _, err = moretta(*command)
        assert code == 2
        assert "the evaluation needs scipy" in err
        assert 'pip install "moretta[evaluate]"' in err


def test_self_test_counts_and_fails(moretta, monkeypatch):
    from moretta.evaluation import gates

    monkeypatch.setattr(gates, "GATES", (gates.leak, gates.thresholds))
    code, out, _ = moretta("evaluate", "--self-test")
    assert code == 0
    assert "2 of 2 gates passed" in out
    bad = gates.Gate(id="G0", what="a bad one", passed=False, value="1", bound="2")
    monkeypatch.setattr(gates, "GATES", (gates.leak, lambda: bad))
    code, out, _ = moretta("evaluate", "--self-test")
    assert code == 1
    assert "G0 FAILED: a bad one: 1 (must be: 2)" in out


def test_benchmark_makes_nothing_for_photos_that_are_not_there(moretta, tmp_path, scene, put):
    (tmp_path / "void").mkdir()
    put(tmp_path / "photos" / "a.png", scene)
    for data, out in (("void", "bench"), ("nowhere", "bench"), ("photos", "photos/bench")):
        code, _, err = moretta(
            *("benchmark", "--methods", "solid", "--data", tmp_path / data),
            *("--out", tmp_path / out),
        )
        assert code == 2
        assert err.startswith("moretta: error: ")
        assert not (tmp_path / out).exists()


def test_outputs_of_photos_that_changed_since_are_not_compared(tmp_path):
    from moretta.cli.benchmark import _as_it_was
    from moretta.errors import UsageError

    data, out = tmp_path / "data", tmp_path / "out"
    (data / "a").mkdir(parents=True)
    out.mkdir()
    (data / "a" / "1.jpg").write_bytes(b"1")
    os.utime(data / "a" / "1.jpg", (1, 1))
    (out / "run.json").write_bytes(b"{}")
    _as_it_was(data, out)
    (data / "a" / "1.jpg").write_bytes(b"2")
    os.utime(data / "a" / "1.jpg", (9e9, 9e9))
    with pytest.raises(UsageError, match=r"1 file in .* changed since .* such as 1\.jpg"):
        _as_it_was(data, out)


@pytest.mark.parametrize(
    ("people", "more", "code", "said"),
    [
        (0, (), 2, "lies in a folder of its own person\n"),
        (0, ("--identities", "who.csv"), 2, "who.csv cannot be read: No such file or directory\n"),
        (11, (), 2, "11 people with two photos or more: too few to attack\n"),
        (12, (), 0, "12 people with two photos or more, 3 of them in part E: the verdict will be"),
        (398, (), 0, ""),
    ],
)
def test_benchmark_looks_at_the_people_before_anything_starts(
    moretta, tmp_path, monkeypatch, people, more, code, said
):
    class Started(Exception):
        pass

    def begun(*_):
        raise Started

    monkeypatch.setattr("moretta.cli.benchmark._protected", begun)
    monkeypatch.setenv("MORETTA_DEBUG", "1")
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(photos / "1.png")
    for one in range(people):
        for photo in "ab":
            path = photos / str(one) / f"{photo}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes((photos / "1.png").read_bytes())
    words = ("benchmark", "--methods", "solid", "--data", photos, "--out", tmp_path / "out", *more)
    if code:
        got, _, err = moretta(*words)
        assert got == code
        assert not (tmp_path / "out").exists()
        assert said in err
        return
    heard = []
    monkeypatch.setattr("moretta.cli.evaluate._say", heard.append)
    with pytest.raises(Started):
        moretta(*words)
    warned = [one for one in heard if one.startswith("warning: ")]
    assert len(warned) == bool(said)
    assert all(said in one for one in warned)


def test_benchmark_with_a_keyed_method_can_be_called_again(moretta, tmp_path, monkeypatch, quick):
    pytest.importorskip("torch")

    class Begun(Exception):
        pass

    def evaluated(*_, **__):
        raise Begun

    monkeypatch.setattr("moretta.evaluation.protocol.evaluate", evaluated)
    monkeypatch.setenv("MORETTA_DEBUG", "1")
    photos, out = tmp_path / "photos", tmp_path / "out"
    for person in range(12):
        for photo in "ab":
            path = photos / str(person) / f"{photo}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(path)
    words = ("benchmark", "--methods", "ifadit:pseudonym=rotation", "--data", photos, "--out", out)
    key = out / "keys" / "ifadit-pseudonym-rotation.key"
    manifest = out / "outputs" / "ifadit-pseudonym-rotation" / "manifest.jsonl"
    with pytest.raises(Begun):
        moretta(*words)
    before = key.read_bytes(), manifest.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(before[1].splitlines()) == 24
    with pytest.raises(Begun):
        moretta(*words)
    assert (key.read_bytes(), manifest.read_bytes()) == before
    monkeypatch.delenv("MORETTA_DEBUG")
    os.utime(photos / "0" / "a.png", (9e9, 9e9))
    code, _, err = moretta(*words)
    assert code == 2
    assert "1 file in" in err
    assert "choose another --output" in err
    os.utime(photos / "0" / "a.png", (1e9, 1e9))
    key.unlink()
    code, _, err = moretta(*words)
    assert code == 2
    assert "was drawn from a key that is not at" in err


def test_benchmark_takes_a_method_in_several_settings(tmp_path):
    from moretta.cli.benchmark import _maker, listed_methods

    text = "solid, blur:0.5,pixelate:cells=6,styleid:variant=swapper:0.9,styleid:auto"
    entries = listed_methods(text + ",identitydp:epsilon=5:alias=person,ifadit:match=age")
    assert [entry.label for entry in entries] == [
        *("solid", "blur-0.5", "pixelate-cells-6", "styleid-0.9-variant-swapper", "styleid-auto"),
        *("identitydp-epsilon-5-alias-person", "ifadit-match-age"),
    ]
    makers = [_maker(entry, tmp_path, 3).options for entry in entries]
    assert [made.seed for made in makers] == [3, 3, 3, 3, 3, None, None]
    assert makers[3].strength == 0.9
    assert makers[3].settings == {"variant": "swapper"}
    # what a comparison spends is not taken from the budgets of what is published
    assert makers[5].ledger == str(tmp_path / "ledger.sqlite")
    assert makers[5].persons == "folders"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["weak leak", "recognisable"], 0),
        (["weak leak", "insufficient"], 3),
        (["no verdict", "recognisable"], 3),
    ],
)
def test_the_worst_verdict_decides_the_exit_code(verdicts, code):
    from moretta.cli.evaluate import exit_code

    assert exit_code(verdicts) == code
