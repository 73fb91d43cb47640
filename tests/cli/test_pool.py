"""`moretta pool build`: what it draws, where, and what it refuses."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")

from moretta.networks import neighbours
from moretta.weights import backends, pools


def test_a_pool_is_built_shown_and_grown(moretta, tmp_path, monkeypatch):
    monkeypatch.setenv(pools.FOLDER_VARIABLE, str(tmp_path))
    code, out, err = moretta("pool", "build", "--count", "20")
    assert code == 0, err
    assert "20 synthetic faces" in out
    assert "20 of 20 faces" in err
    folder = pools.folder_for(backends.digests("features"))
    assert len(neighbours.opened(folder, backends.digests("features"))) == 20
    assert "24 synthetic faces: " in moretta("pool", "build", "--count", "24")[1]
    _, out, _ = moretta("pool", "build", "--count", "1")
    assert "24 synthetic faces, more than the 1 asked for; none is removed: " in out
    assert len(neighbours.opened(folder, backends.digests("features"))) == 24


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--progress", "text"), "drawing synthetic faces to choose from, once: 0 of 40\n"),
        (("--progress", "jsonl"), '{"drawn": 40, "of": 40}\n'),
        (("--progress", "none"), ""),
    ],
)
def test_the_first_run_says_that_it_draws_a_pool_and_the_second_draws_none(
    moretta, folder, tmp_path, monkeypatch, more, said
):
    monkeypatch.setenv(pools.FOLDER_VARIABLE, str(tmp_path / "pools"))
    words = ("anonymize", folder(1), "-o", tmp_path / "out", "--method", "falco", "--steps", "0")
    _, out, err = moretta(*words, *more, "--json")
    assert said in err
    assert "synthetic" in err or "drawn" in err or not said
    counts = json.loads(out)
    assert (counts["drawn"], counts["to_draw"]) == (40, 40)
    assert counts["seconds"] > 0
    (tmp_path / "out").rename(tmp_path / "first")
    _, _, err = moretta(*words, *more)
    assert "synthetic" not in err
    assert '"drawn"' not in err


def test_the_demo_says_that_it_draws_a_pool(moretta, tmp_path, monkeypatch):
    monkeypatch.setenv(pools.FOLDER_VARIABLE, str(tmp_path / "pools"))
    words = ("demo", "--output", tmp_path / "look", "--method", "falco")
    code, out, err = moretta(*words)
    assert code == 0
    first, *later = err.splitlines()  # later ones where forty faces take longer than ten seconds
    assert first == "drawing synthetic faces to choose from, once: 0 of 40"
    assert all(one.startswith(first.removesuffix("0 of 40")) for one in later)
    assert out.startswith("falco: published")
    assert "synthetic" not in moretta(*words)[2]


def test_a_dry_run_draws_no_pool_and_says_that_one_would_be_drawn(
    moretta, folder, tmp_path, monkeypatch, tree
):
    monkeypatch.setenv(pools.FOLDER_VARIABLE, str(tmp_path / "pools"))
    words = ("anonymize", folder(1), "-o", tmp_path / "out", "--method", "falco")
    before = tree(tmp_path)
    code, out, err = moretta(*words, "--dry-run")
    assert code == 0, err
    assert err == ""
    said = "; a pool of 40 synthetic faces would be drawn first; nothing was written"
    assert said in " ".join(out.split())
    assert json.loads(moretta(*words, "--dry-run", "--json")[1])["to_draw"] == 40
    assert tree(tmp_path) == before
    assert not (tmp_path / "pools").exists()
    code, _, err = moretta("anonymize", folder(41, "many"), *words[2:], "--dry-run")
    assert code == 2
    assert "41 photos need a synthetic face each, and the pool has 40" in err
    assert not (tmp_path / "pools").exists()
    moretta("pool", "build", "--count", "44")
    assert "would be drawn" not in moretta(*words, "--dry-run")[1]


def test_it_refuses_in_one_line(moretta, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for words, said in (
        (("--features", "clip"), "--features is 'clip'"),
        (("--features", "farl"), "FaRL's official weights do not ship"),
        (("--seed", "2"), "make another pool than the usual one"),
    ):
        code, _, err = moretta("pool", "build", "--count", "1", *words)
        assert code == 2
        assert said in err
        assert "hint: " in err
