"""Sealing and opening measured: byte-identity, speed, memory, overhead, and every flipped bit.

    PYTHONPATH=src python benchmarks/envelope.py --count 1000 --out /tmp/envelope [--flips]

Photos are made by code: PNG (8 and 16 bits, grey, transparent), JPEG with EXIF and a trailer, WebP, TIFF,
BMP, of odd sizes. Each is sealed beside a re-encoded copy by the pipeline's own function, then opened by
`recover`. Prints the tables of docs/envelope.md.
"""

from __future__ import annotations

import argparse
import filecmp
import hashlib
import io
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from moretta.pipeline import custody, recover, sealing
from moretta.privacy import envelope, keys
from moretta.privacy.envelope import Record

KINDS = ("png", "png16", "grey", "alpha", "jpeg", "jpeg+exif+trailer", "webp", "tiff", "bmp")


def photo(kind: str, rng: np.random.Generator) -> tuple[str, bytes]:
    """Return a suffix and the bytes of one photo: smooth shapes with noise, of an odd size."""
    height, width = (int(n) for n in rng.integers(3, 700, 2))
    y, x = np.mgrid[0:height, 0:width]
    planes = [127 + 90 * np.sin(x / rng.uniform(9, 90) + y / rng.uniform(9, 90)) for _ in range(4)]
    noisy = np.stack(planes, axis=2) + rng.normal(0, rng.uniform(0, 12), (height, width, 4))
    samples = np.clip(noisy, 0, 255).astype(np.uint8)
    rgb, out = samples[..., :3], io.BytesIO()
    if kind == "png16":
        deep = rgb.astype(np.uint16) * 257 + rng.integers(0, 2, rgb.shape, np.uint16)
        return "png", cv2.imencode(".png", deep)[1].tobytes()
    if kind.startswith("jpeg"):
        exif = Image.Exif()
        exif[0x010F], exif[274] = "a camera", int(rng.integers(1, 9))
        more = {"exif": exif} if "exif" in kind else {}
        Image.fromarray(rgb).save(out, "JPEG", quality=int(rng.integers(60, 99)), **more)
        tail = rng.bytes(int(rng.integers(1, 5000))) if "trailer" in kind else b""
        return "jpg", out.getvalue() + tail
    picture = {"grey": rgb[..., 0], "alpha": samples}.get(kind, rgb)
    container = {"grey": "PNG", "alpha": "PNG"}.get(kind, kind.upper())
    Image.fromarray(np.ascontiguousarray(picture)).save(out, container)
    return {"grey": "png", "alpha": "png", "tiff": "tif"}.get(kind, kind), out.getvalue()


def identity(count: int, folder: Path) -> None:
    """Seal and recover `count` photos through the pipeline, and compare every byte."""
    rng = np.random.default_rng(0)
    key = keys.new()
    ring = custody.Keyring(wrappers=(key,), openers=(key,))
    source, out = folder / "in", folder / "out"
    source.mkdir(parents=True)
    out.mkdir()
    model, sizes, spent = sealing.model_digest("solid", {}), [], 0.0
    for i in range(count):
        suffix, content = photo(KINDS[i % len(KINDS)], rng)
        path = source / f"{i:05d}.{suffix}"
        path.write_bytes(content)
        copy = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(copy, "PNG")
        start = time.perf_counter()
        _, size, _ = sealing.seal_photo(
            out / f"{i:05d}.png",
            copy.getvalue(),
            path,
            digest=hashlib.sha256(content).hexdigest(),
            name=path.name,
            begun=sealing.Begun(record=Record.fresh()),
            keyring=ring,
            model=model,
        )
        spent += time.perf_counter() - start
        (out / f"{i:05d}.png").write_bytes(copy.getvalue())
        sizes.append((len(content), size))
    start = time.perf_counter()
    counts = recover.recover(
        recover.listed([out]),
        folder / "back",
        [key],
        purpose="benchmark",
        log=custody.AccessLog(folder / "access.jsonl"),
    )
    back = time.perf_counter() - start
    same = sum(
        (folder / "back" / path.name).read_bytes() == path.read_bytes() for path in source.iterdir()
    )
    before, after = (sum(column) for column in zip(*sizes, strict=True))
    large = [(a, b) for a, b in sizes if a > 65_536]
    print(f"| photos of {len(KINDS)} kinds | {count} |\n|---|---|")
    print(f"| byte-identical after recovery, and BOUND | {same} and {counts.recovered} |")
    print(f"| originals, sidecars, MB | {before / 1e6:.1f}, {after / 1e6:.1f} |")
    over = [b / a - 1 for a, b in large]
    print(
        f"| overhead of originals above 64 KiB ({len(large)}): median, most | "
        f"{100 * np.median(over):.1f} %, {100 * max(over):.1f} % |"
    )
    print(f"| sealing and opening again, ms a photo | {1000 * spent / count:.1f} |")
    print(
        f"| recovering, with two lines of log on the disk, ms a photo | {1000 * back / count:.1f} |"
    )


def measure(job: str, megabytes: int, folder: Path) -> None:
    """Do one job in this process; print seconds, seconds of the core, and peak memory in MiB."""
    plain, side, back = folder / "plain", folder / "side", folder / "again"
    key = keys.KeyFile(bytes(32))
    start, spent = time.perf_counter(), time.process_time()
    if job == "seal":
        with plain.open("rb") as payload:
            digest = hashlib.file_digest(payload, "sha256").hexdigest()
            payload.seek(0)
            with side.open("wb") as out:
                envelope.seal(
                    out,
                    payload,
                    record=Record.fresh(),
                    manifest={"len": plain.stat().st_size, "sha256": digest},
                    wrappers=[key],
                    bind=bytes(32),
                    bind_kind=0,
                    model_digest=bytes(32),
                )
    else:
        with side.open("rb") as stream, back.open("wb") as out:
            header = envelope.read_header(stream, side.stat().st_size)
            envelope.open_body(stream, envelope.unlock(header, [key]), out)
    seconds, spent = time.perf_counter() - start, time.process_time() - spent
    print(seconds, spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def speed(folder: Path) -> None:
    """Seal and open 5 MB and 500 MB, each in a process of its own."""
    print("\n| payload | job | MB/s | MB a second of the core | peak memory, MiB | overhead |")
    print("|---|---|---|---|---|---|")
    for megabytes in (5, 500):
        with (folder / "plain").open("wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(1_000_000))
        found = {}
        for job in ("seal", "open"):
            runs = []
            for _ in range(3):
                call = [sys.executable, __file__, "--out", str(folder), "--job", job]
                done = subprocess.run(
                    [*call, "--megabytes", str(megabytes)],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                runs.append([float(word) for word in done.stdout.split()])
            found[job] = min(runs)
        if not filecmp.cmp(folder / "again", folder / "plain", shallow=False):
            raise SystemExit("what came back is not what was sealed")
        over = (folder / "side").stat().st_size / megabytes / 1e6 - 1
        for job, (seconds, spent, peak) in found.items():
            print(
                f"| {megabytes} MB | {job} | {megabytes / seconds:.0f} | {megabytes / spent:.0f} | "
                f"{peak:.0f} | {100 * over:.1f} % |"
            )


def flips() -> None:
    """Flip every bit of the published vector's 65,864 bytes, one at a time."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "privacy"))
    from test_envelope import PUBLISHED, RECORD, refused, sealed

    def slots(core: bytes) -> list[keys.Slot]:
        return [PUBLISHED.wrap_with(RECORD.key, core, bytes(range(16)), bytes(range(12)))]

    vector = bytearray(sealed(wrappers=slots, record=RECORD))
    start, closed = time.perf_counter(), 0
    for at in range(len(vector)):
        for bit in range(8):
            vector[at] ^= 1 << bit
            closed += refused(bytes(vector))
            vector[at] ^= 1 << bit
    seconds = time.perf_counter() - start
    print(
        f"\nsingle-bit flips of the vector refused: {closed} of {8 * len(vector)}, {seconds:.0f} s"
    )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--flips", action="store_true")
    parser.add_argument("--job", choices=("seal", "open"))
    parser.add_argument("--megabytes", type=int, default=5)
    given = parser.parse_args()
    if given.job:
        measure(given.job, given.megabytes, given.out)
        return
    shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True)
    identity(given.count, given.out)
    speed(given.out)
    if given.flips:
        flips()
    shutil.rmtree(given.out)


if __name__ == "__main__":
    main()
