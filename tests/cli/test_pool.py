"""`moretta pool build`: what it draws, where, and what it refuses."""

from __future__ import annotations

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
    assert "24 synthetic faces" in moretta("pool", "build", "--count", "24")[1]


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
