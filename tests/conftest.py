"""What several rooms' tests share: one real face, drawn pictures, and networks built once."""

import copy
import json
import os
import re
import sys
from pathlib import Path

import cv2
import hypothesis
import numpy as np
import pytest
from PIL import Image

from moretta.pipeline.protect import Protector

SIDE = 160  # px of the test portrait: its face is 30 px

# A test that passes once passes always, and a busy machine is no fault. To look for new examples:
# python -m pytest --hypothesis-profile explore
hypothesis.settings.register_profile(
    "same",
    derandomize=True,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "explore", max_examples=2000, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.load_profile("same")

# What a shell or a CI says of its terminal would break the lines of the command and colour them;
# read when typer is imported, which nothing above does.
for name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE", "TERMINAL_WIDTH"):
    os.environ.pop(name, None)
os.environ["COLUMNS"] = "80"


@pytest.fixture(scope="session")
def portrait():
    """(SIDE, SIDE, 3) RGB with one face: the public-domain photo that ships with the package."""
    from moretta.cli.demo import photo

    rgb = cv2.resize(photo(), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    rgb.flags.writeable = False
    return rgb


@pytest.fixture(scope="session")
def astronaut():
    """(512, 512, 3) RGB with one face: the same photo in full."""
    from moretta.cli.demo import photo

    return photo()


@pytest.fixture(scope="session")
def small(astronaut):
    """(256, 256, 3) RGB of the same."""
    return cv2.resize(astronaut, (256, 256), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="session")
def smooth():
    """(240, 320, 3) RGB without detail: what survives a round trip of resampling."""
    y, x = np.mgrid[0:240, 0:320]
    planes = [120 + 80 * np.sin(x / 60 + k) * np.cos(y / 50 - k) for k in range(3)]
    return np.rint(np.stack(planes, axis=2)).astype(np.uint8)


@pytest.fixture(scope="session")
def shared():
    """Return the folder of research data, which is no part of the project; skip without it."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared, which only developers and CI have")
    return folder


@pytest.fixture(scope="session")
def scene():
    """(48, 64, 3) RGB without a face."""
    x, y = np.meshgrid(np.linspace(0, 255, 64), np.linspace(0, 255, 48))
    return np.dstack([x, y, 255 - x]).astype(np.uint8)


@pytest.fixture(scope="session")
def built():
    """Return a Protector for options, built once in a session: (options) -> Protector."""
    kept = {}

    def build(options, *, threads=1):
        key = options.model_dump_json(exclude={"rename", "format", "quality"})
        if key not in kept:
            kept[key] = Protector(options, threads=1)
        kept[key].options = options
        return kept[key]

    return build


@pytest.fixture
def quick(built, monkeypatch):
    """Let runs in this process share networks."""
    monkeypatch.setattr("moretta.pipeline.run.Protector", built)
    return built


@pytest.fixture
def unknowing(quick, monkeypatch):
    """Let the judge of runs in this process know nobody.

    For tests of what is said about a drawn face: a face that no seed repeats is by chance, once in
    about a hundred, like the old one, and then covered.
    """

    def build(options, *, threads=1):
        protector = copy.copy(quick(options, threads=threads))
        protector._known = protector._like = 1.0
        return protector

    monkeypatch.setattr("moretta.pipeline.run.Protector", build)


@pytest.fixture
def put():
    """Write pictures: (path, rgb, ...) -> path; the suffix chooses the format."""

    def write(path, rgb, **options):
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgb).save(path, **options)
        return path

    return write


@pytest.fixture
def folder(tmp_path, put, portrait):
    """Return a folder with `count` different photos of one face: (count) -> path."""

    def make(count, name="in", suffix=".png"):
        for i in range(count):
            shifted = np.roll(portrait, i, axis=1)
            put(tmp_path / name / f"p{i:02d}{suffix}", shifted)
        return tmp_path / name

    return make


@pytest.fixture
def lines():
    """Return the manifest of an output folder as a list of dicts."""

    def read(out):
        rows = (Path(out) / "manifest.jsonl").read_bytes().split(b"\n")
        assert rows[-1] == b""
        return [json.loads(row) for row in rows[:-1]]

    return read


@pytest.fixture
def tree():
    """Return every file below a folder with its bytes: (path) -> {relative name: bytes}."""

    def read(root):
        found = {}
        for here, _, names in os.walk(root):
            for name in names:
                path = Path(here) / name
                if path.is_file():
                    found[str(path.relative_to(root))] = path.read_bytes()
        return found

    return read


@pytest.fixture
def legible():
    """Return what words can stand in: a file's bytes without its pixels, where it is a PNG or a JPEG.

    In compressed or encrypted bytes a short word stands by chance: four letters in small or large
    once in 270 MB.
    """

    def read(data):
        if data.startswith(b"\x89PNG"):
            kept, at = data[:8], 8
            while at < len(data):
                end = at + 12 + int.from_bytes(data[at : at + 4], "big")
                kept += b"" if data[at + 4 : at + 8] == b"IDAT" else data[at:end]
                at = end
            return kept
        if data.startswith(b"\xff\xd8"):  # behind a start of scan, up to the next marker
            return re.sub(rb"(?s)(\xff\xda.)(?:[^\xff]|\xff[\0\xd0-\xd7])*", rb"\1", data)
        return data

    return read


@pytest.fixture
def moretta(quick, monkeypatch, capfd):
    """Run the command in this process: (*arguments) -> (exit code, stdout, stderr)."""
    from moretta.cli.main import main

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["moretta", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return ended.value.code or 0, out, err

    return call


@pytest.fixture(scope="session", autouse=True)
def pools(tmp_path_factory):
    """Keep pools of synthetic faces out of the user's cache, and small: 40 faces, drawn when asked."""
    from moretta.weights import pools

    folder = tmp_path_factory.mktemp("pools")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(pools.FOLDER_VARIABLE, str(folder))
        patch.setattr(pools, "SMALL", 40)
        yield folder
