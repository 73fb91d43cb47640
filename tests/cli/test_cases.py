"""One bad input or one use a file in tests/cases/cli: what is there, what is called, what must follow.

Besides what a case asks for, every case must leave its inputs alone, leave nothing half-written,
show no traceback, and keep every fault to one line.
"""

import io
import os
import shutil
import subprocess
import sys
import tomllib
import zlib
from pathlib import Path

import numpy as np
import pytest
from onnxruntime import get_available_providers
from PIL import Image

from moretta.weights import load

CASES = sorted((Path(__file__).parents[1] / "cases" / "cli").glob("*.toml"))
KEYS = {
    "about",
    "files",
    "skip_as_root",
    "skip_with_cuda",
    "env",
    "first",
    "args",
    "exit",
    "process",
}
KEYS |= {"stdout", "stderr", "exists", "absent", "manifest", "not_in_stderr"}


def encoded(rgb, container, **options):
    written = io.BytesIO()
    Image.fromarray(rgb).save(written, container, **options)
    return written.getvalue()


def chunk(kind, body):
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def bomb(side=30_000):
    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    rows = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def several(container, portrait):
    pages = [Image.fromarray(portrait), Image.fromarray(portrait[::-1])]
    written = io.BytesIO()
    pages[0].save(written, container, save_all=True, append_images=pages[1:])
    return written.getvalue()


def altered(name):
    content = bytearray((Path(load.__file__).parent / "bundled" / name).read_bytes())
    content[len(content) // 2] ^= 1
    return bytes(content)


RECIPES = {
    "face": lambda p, s: encoded(p, "PNG"),
    "face jpeg": lambda p, s: encoded(p, "JPEG", quality=95),
    "face mirrored": lambda p, s: encoded(np.ascontiguousarray(p[:, ::-1]), "PNG"),
    "no face": lambda p, s: encoded(s, "PNG"),
    "empty": lambda p, s: b"",
    "truncated jpeg": lambda p, s: encoded(p, "JPEG")[:2500],
    "truncated png": lambda p, s: encoded(p, "PNG")[:20_000],
    "text": lambda p, s: b"Dear Anna, here is the photo.\n" * 20,
    "1x1": lambda p, s: encoded(s[:1, :1], "PNG"),
    "bomb": lambda p, s: bomb(),
    "animated gif": lambda p, s: several("GIF", p),
    "animated webp": lambda p, s: several("WEBP", p),
    "two pages": lambda p, s: several("TIFF", p),
}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case(path, tmp_path, portrait, scene, tree, lines, moretta, monkeypatch):
    case = tomllib.loads(path.read_text(encoding="utf-8"))
    assert set(case) <= KEYS, "a mistyped key would test nothing"
    if case.get("skip_as_root") and os.geteuid() == 0:
        pytest.skip("root may read everything")
    if case.get("skip_with_cuda") and "CUDAExecutionProvider" in get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    monkeypatch.chdir(tmp_path)
    for name, recipe in case.get("files", {}).items():
        make(tmp_path / name, recipe, portrait, scene)
    for key, value in case.get("env", {}).items():
        monkeypatch.setenv(key, value)
    run = in_process if case.get("process") else moretta
    for arguments in case.get("first", []):
        run(*arguments)
    before = tree(tmp_path / "in")
    code, out, err = run(*case["args"])
    assert code == case["exit"], err
    for wanted in case.get("stdout", []):
        assert wanted in plain(out)
    for wanted in case.get("stderr", []):
        assert wanted in plain(err)
    for unwanted in ["Traceback", "error: internal", *case.get("not_in_stderr", [])]:
        assert unwanted not in err
    after = tree(tmp_path / "in")
    assert {name: after.get(name) for name in before} == before, "an input changed"
    for name in case.get("exists", []):
        assert os.path.lexists(tmp_path / name), name
    for name in case.get("absent", []):
        assert not os.path.lexists(tmp_path / name), name
    left = [name for name in tree(tmp_path) if ".moretta-part-" in name or ".moretta.lock" in name]
    assert not left, "something half-written remains"
    if "manifest" in case:
        found = {line["name"]: line["decision"] for line in lines(tmp_path / "out")}
        assert found == case["manifest"]
    assert all(row.startswith("moretta: ") for row in err.splitlines()), err


def test_every_kind_of_bad_input_has_a_case():
    assert len(CASES) >= 110
    used = set()
    for path in CASES:
        case = tomllib.loads(path.read_text(encoding="utf-8"))
        assert case["about"]
        used |= {recipe.split(":")[0] for recipe in case.get("files", {}).values()}
    assert used >= set(RECIPES), "a recipe that nothing uses"


def make(path, recipe, portrait, scene):
    """Make one file: a recipe by name, or `link:TARGET`, `folder:`, `says:TEXT`, `altered:FILE`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind, _, rest = recipe.partition(":")
    if kind == "link":
        path.symlink_to(rest)
    elif kind == "folder":
        path.mkdir()
    elif kind == "says":
        path.write_text(rest, encoding="utf-8")
    elif kind == "altered":
        path.write_bytes(altered(rest))
    elif kind == "forbidden":
        path.write_bytes(RECIPES["face"](portrait, scene))
        path.chmod(0)
    else:
        path.write_bytes(RECIPES[recipe](portrait, scene))


def in_process(*arguments):
    called = subprocess.run(
        [sys.executable, "-m", "moretta", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return called.returncode, called.stdout, called.stderr


def plain(text):
    """Return the words, without the breaks of lines."""
    return " ".join(text.split())


def test_no_network_is_needed(tmp_path, portrait, put, moretta, monkeypatch):
    def refused(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("socket.socket.connect", refused)
    monkeypatch.setattr("socket.getaddrinfo", refused)
    put(tmp_path / "in" / "a.png", portrait)
    assert moretta("anonymize", tmp_path / "in", "-o", tmp_path / "out")[0] == 0


def test_a_photo_without_permission_is_named_and_the_others_go_on(
    tmp_path, portrait, put, moretta, monkeypatch
):
    put(tmp_path / "in" / "a.png", portrait)
    put(tmp_path / "in" / "b.png", portrait)
    real = Path.open

    def open_(self, *arguments, **options):
        if self.name == "a.png":
            raise PermissionError(13, "Permission denied")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_)
    code, _, err = moretta("anonymize", tmp_path / "in", "-o", tmp_path / "out")
    assert code == 4
    assert "a.png: failed: cannot be read: Permission denied; check its permissions" in err
    assert (tmp_path / "out" / "b.png").exists()
    assert not (tmp_path / "out" / "a.png").exists()


def test_weights_that_are_missing_are_named(tmp_path, portrait, put, moretta, monkeypatch):
    put(tmp_path / "in" / "a.png", portrait)
    monkeypatch.setattr(load, "_bundled", lambda: tmp_path / "nowhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code, _, err = moretta("anonymize", tmp_path / "in", "-o", tmp_path / "out")
    assert code == 2
    assert "yunet.onnx is missing" in err
    assert "moretta: hint: put it into" in err
    assert not (tmp_path / "out").exists()


def test_inputs_are_also_refused_whole_by_a_copy_of_the_command(tmp_path):
    shutil.copy(Path(load.__file__), tmp_path / "text.jpg")
    code, _, err = in_process("anonymize", str(tmp_path / "text.jpg"), "-o", str(tmp_path / "out"))
    assert code == 4
    assert err.startswith("moretta: text.jpg: failed: not a photo, its content is text")
