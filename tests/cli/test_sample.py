"""`moretta sample` and `moretta-train`: what they write, and what they refuse."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")


def train(*words: str) -> tuple[int, str]:
    code = "from moretta.cli.train import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},  # also where there is one
    )
    return done.returncode, done.stdout + done.stderr


def test_faces_and_latents_are_written_and_repeat(moretta, tmp_path):
    from safetensors.numpy import load_file

    few, more = tmp_path / "few", tmp_path / "more"
    assert moretta("sample", "--count", "2", "--seed", "4", "--output", str(few))[0] == 0
    assert moretta("sample", "--count", "19", "--seed", "4", "--out", str(more))[0] == 0
    assert sorted(path.name for path in few.iterdir()) == ["0.png", "1.png", "latents.safetensors"]
    for name in ("0.png", "1.png"):
        files = few / name, more / f"0{name}"
        a, b = (np.asarray(Image.open(file), int) for file in files)
        assert a.shape == (128, 128, 3)
        np.testing.assert_array_equal(a, b)
        assert a.std() > 10
    latents = load_file(more / "latents.safetensors")
    assert latents["rows"].shape == (19, 9, 256)
    np.testing.assert_allclose(np.linalg.norm(latents["identities"], axis=1), 1, atol=1e-4)
    assert latents["codes"].shape == (19, 64)


def test_sample_refuses_a_folder_that_holds_something(moretta, tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    code, _, err = moretta("sample", "--out", str(tmp_path))
    assert code == 2
    assert "is not empty" in err
    assert (tmp_path / "a.txt").read_text() == "mine"


def test_sample_refuses_a_file_in_the_way(moretta, tmp_path):
    (tmp_path / "a").write_text("mine")
    for wanted in ("a", "a/b"):
        code, _, err = moretta("sample", "--output", str(tmp_path / wanted))
        assert code == 2
        assert "internal" not in err
    assert (tmp_path / "a").read_text() == "mine"


def test_training_refuses_in_one_line(tmp_path):
    code, said = train("composer", "--config", "smok", "--out", str(tmp_path / "x"))
    assert code == 2
    assert "moretta-train: error: there is no configuration 'smok'" in said
    code, said = train("composer", "--config", "smoke", "--out", str(tmp_path), "--device", "cuda")
    assert code == 2
    assert "no CUDA device" in said
    assert not list(tmp_path.iterdir())
