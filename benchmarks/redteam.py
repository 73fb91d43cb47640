"""The red-team list of the sealed half: A1, A3, A6 to A9, A11; one row each, with what was found.

    PYTHONPATH=src python benchmarks/redteam.py --out /tmp/redteam [--quick]

Attacks on the drawn faces themselves (A2, A4, A5, A10, A12 to A14) need networks and are not in here.
Exit code 1 if an attack succeeds. Prints the table of docs/envelope.md.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import io
import math
import os
import shutil
import statistics
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from moretta.errors import CannotOpen
from moretta.photos.metadata import leftovers
from moretta.pipeline import custody, recover, sealing
from moretta.privacy import envelope, keys, phrases
from moretta.privacy.envelope import Record

PAYLOAD = bytes(range(256)) * 40
KEY = keys.KeyFile(bytes(range(1, 33)))


def sealed(payload: bytes = PAYLOAD, key: keys.KeyFile = KEY, **more: int) -> bytes:
    """Return an envelope."""
    out = io.BytesIO()
    envelope.seal(
        out,
        io.BytesIO(payload),
        record=Record.fresh(),
        manifest={"len": len(payload), "sha256": hashlib.sha256(payload).hexdigest()},
        wrappers=[key],
        bind=bytes(32),
        bind_kind=0,
        model_digest=bytes(32),
        **more,
    )
    return out.getvalue()


def opens(blob: bytes, *openers: keys.Opener) -> bool:
    """Whether an envelope opens; anything but CannotOpen is a crash and ends the run."""
    stream = io.BytesIO(blob)
    try:
        header = envelope.read_header(stream, len(blob))
        envelope.open_body(stream, envelope.unlock(header, openers or [KEY]), io.BytesIO())
    except CannotOpen:
        return False
    return True


def near_keys(_: Path, quick: bool) -> tuple[bool, str]:
    """A1: all 256 keys that differ in one bit; and what their pseudonyms have in common."""
    blob = sealed()
    near = [flipped(KEY.secret, at) for at in range(256)]
    opened = sum(opens(blob, keys.KeyFile(one)) for one in near)
    own = keys.seed_without_envelope(KEY.pseudonyms, bytes(32))
    seeds = [keys.seed_without_envelope(keys.KeyFile(one).pseudonyms, bytes(32)) for one in near]
    shared = [sum((a ^ b).bit_count() for a, b in zip(own, seed, strict=True)) for seed in seeds]
    good = opened == 0 and 124 < statistics.mean(shared) < 132
    return good, f"{opened} of 256 open; seeds differ in {statistics.mean(shared):.1f} of 256 bits"


def guessing(_: Path, quick: bool) -> tuple[bool, str]:
    """A3: what a guess costs, what is to be guessed, and whether the cost can be lowered."""
    phrase = keys.Passphrase(phrases.made())
    start = time.perf_counter()
    phrase.prepare()
    seconds = time.perf_counter() - start
    count = 10_000 if quick else 100_000
    words = [word for _ in range(count) for word in phrases.made().split("-")]
    tally: dict[str, int] = {}
    for word in words:
        tally[word] = tally.get(word, 0) + 1
    shares = [n / len(words) for n in tally.values()]
    bias = (len(tally) - 1) / (2 * len(words) * math.log(2))  # of a tally's entropy: Miller 1955
    entropy = phrases.WORDS * (bias - sum(share * math.log2(share) for share in shares))
    core = bytes(32)
    body = phrase.wrap(bytes(32), core).body
    tried, computed = 0, 0
    for t, m, p in (
        (1, 65_536, 4),
        (3, 8, 1),
        (3, 19_455, 4),
        (0, 65_536, 4),
        (3, 65_536, 0),
        (17, 65_536, 4),
        (3, 2**32 - 1, 4),
    ):
        tried += 1
        weak = body[:16] + struct.pack(">IIB", t, m, p) + body[25:]
        began = time.perf_counter()
        phrase.unwrap(keys.Slot(keys.PASSPHRASE, weak), core)
        computed += time.perf_counter() - began > 0.05
    good = seconds >= 0.25 and entropy >= 77 and not computed
    years = 2 ** (phrases.WORDS * phrases.WORD_BITS - 1) * seconds / 3.15e7
    return good, (
        f"{seconds:.2f} s and 64 MiB a guess; {len(tally)} words seen, {entropy:.1f} bits in {count} "
        f"phrases; half of them take {years:.0e} years of one such core; {computed} of {tried} lowered "
        "or absurd parameters computed"
    )


def picture(seed: int) -> np.ndarray:
    """Return a picture of shapes, as different from others as photos are."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (9, 9, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((160, 120), Image.Resampling.BICUBIC))


def records(folder: Path, count: int) -> list[Path]:
    """Seal `count` originals beside PNGs; return the PNGs."""
    ring = custody.Keyring(wrappers=(KEY,), openers=(KEY,))
    made = []
    for i in range(count):
        original = folder / f"original-{i:02d}.jpg"
        exif = Image.Exif()
        exif[0x010F] = "Camera of Anna"
        Image.fromarray(picture(1000 + i)).save(original, "JPEG", exif=exif)
        target = folder / "out" / f"{i:02d}.png"
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(picture(i)).save(target)
        sealing.seal_photo(
            target,
            target.read_bytes(),
            original,
            digest=hashlib.sha256(original.read_bytes()).hexdigest(),
            name=original.name,
            begun=sealing.Begun(record=Record.fresh()),
            keyring=ring,
            model=bytes(32),
        )
        made.append(target)
    return made


def bring_back(one: recover.Sealed, folder: Path, **how: bool) -> recover.Recovered:
    """Open one sidecar into an empty folder."""
    shutil.rmtree(folder / "back", ignore_errors=True)
    told: list[recover.Recovered] = []
    log = custody.AccessLog(folder / "access.jsonl")
    recover.recover(
        [one], folder / "back", [KEY], purpose="red team", log=log, listener=told.append, **how
    )
    (folder / "access.jsonl").unlink()  # its own chain is tested elsewhere; here it would only grow
    return told[0]


def swapped(folder: Path, quick: bool) -> tuple[bool, str]:
    """A6: every sidecar against every other record's picture, with the right key."""
    photos = records(folder, 8 if quick else 20)
    unbound = files = pairs = bound = 0
    for i, one in enumerate(photos):
        for j, other in enumerate(photos):
            done = bring_back(recover.Sealed(sealing.sidecar_of(one), other, other.name), folder)
            if i == j:
                bound += done.status == "BOUND"
                continue
            pairs += 1
            unbound += done.status == "UNBOUND"
            files += any(path.is_file() for path in (folder / "back").rglob("*"))
    good = unbound == pairs and not files and bound == len(photos)
    return (
        good,
        f"{unbound} of {pairs} pairs UNBOUND, {files} files written; {bound} own pairs BOUND",
    )


def damaged(_: Path, quick: bool) -> tuple[bool, str]:
    """A7: header bits, body bytes, cuts, additions, chunks moved, noise."""
    rng = np.random.default_rng(0)
    blob = sealed(rng.bytes(150_000), chunk_log2=12)
    header = envelope.read_header(io.BytesIO(blob), len(blob)).size
    size = 4096 + 16
    chunks = [blob[at : at + size] for at in range(header, len(blob), size)]
    tries = [flipped(blob, bit) for bit in range(8 * header)]
    tries += [flipped(blob, 8 * at) for at in range(header, len(blob), 997)]
    tries += [blob[:at] for at in range(0, len(blob), 1013)]
    tries += [blob + b"\0", blob + blob, bytes(len(blob)), b""]
    for i in range(len(chunks) - 1):
        moved = [*chunks[:i], chunks[i + 1], chunks[i], *chunks[i + 2 :]]
        doubled = [*chunks[: i + 1], chunks[i], *chunks[i + 2 :]]
        tries += [blob[:header] + b"".join(moved), blob[:header] + b"".join(doubled)]
    accepted = sum(opens(one) for one in tries)
    fuzz = 1000 if quick else 10_000
    for i in range(fuzz):
        noise = rng.bytes(int(rng.integers(0, 400)))
        if i % 2:  # a good start, so that the parser is reached
            at = int(rng.integers(8, header))
            noise = blob[:at] + noise + blob[at + len(noise) :]
        accepted += noise != blob and opens(noise)
    return accepted == 0, f"{accepted} of {len(tries) + fuzz} accepted, no crash"


def downgraded(_: Path, quick: bool) -> tuple[bool, str]:
    """A8: fields of the header and the list of slots, also signed anew by whoever has the key."""
    record, out = Record.fresh(), io.BytesIO()
    other = keys.new()
    digest = hashlib.sha256(PAYLOAD).hexdigest()
    envelope.seal(
        out,
        io.BytesIO(PAYLOAD),
        record=record,
        manifest={"len": len(PAYLOAD), "sha256": digest},
        wrappers=[KEY, other],
        bind=bytes(32),
        bind_kind=0,
        model_digest=bytes(32),
    )
    blob = out.getvalue()
    end = 192 + 8 + 160
    own, theirs = blob[200:280], blob[280:360]
    tries = [
        blob[:at] + bytes([value]) + blob[at + 1 :]
        for at in range(8, 16)
        for value in range(256)
        if value != blob[at]
    ]
    lists = [
        [theirs, own],
        [own],
        [own, own],
        [own, theirs, own],
        [own, b"\x09\0\0\0", theirs],
        [b"\x09" + own[1:], theirs],
    ]
    for slots in lists:
        raw = b"".join(slots)
        tries.append(blob[:192] + struct.pack(">HHI", len(slots), 0, len(raw)) + raw + blob[end:])
    accepted = sum(opens(one) for one in tries)
    mac_key = keys.derived(record.key, record.salt, b"header")
    signed = 0
    for at in range(8, 16):  # the MAC made anew: the body is bound to the core
        for value in range(256):
            if value != blob[at]:
                start = blob[:at] + bytes([value]) + blob[at + 1 : end]
                mac = hmac.digest(mac_key, start, "sha256")
                signed += opens(start + mac + blob[end + 32 :])
    good = accepted == 0 and signed == 0
    return (
        good,
        f"{accepted} of {len(tries)} accepted; {signed} of {8 * 255} with the MAC made anew",
    )


def reencoded(folder: Path, quick: bool) -> tuple[bool, str]:
    """A9: the protected picture saved again, by ten ways."""
    (target,) = records(folder, 1)
    rgb = Image.open(target).convert("RGB")
    rgb.load()
    original = (folder / "original-00.jpg").read_bytes()
    width, height = rgb.size

    def saved(image: Image.Image, container: str, **options: int) -> bytes:
        out = io.BytesIO()
        image.save(out, container, **options)
        return out.getvalue()

    small = rgb.resize((width // 2, height // 2), Image.Resampling.BOX)
    ways = {
        "PNG again": saved(rgb, "PNG", compress_level=1),
        "BMP": saved(rgb, "BMP"),
        "JPEG 95": saved(rgb, "JPEG", quality=95),
        "JPEG 75": saved(rgb, "JPEG", quality=75),
        "JPEG 50": saved(rgb, "JPEG", quality=50),
        "half size": saved(small, "PNG"),
        "0.9 size": saved(rgb.resize((int(width * 0.9), int(height * 0.9))), "PNG"),
        "2 px crop": saved(rgb.crop((2, 2, width - 2, height - 2)), "PNG"),
        "gamma 1.2": saved(
            rgb.point([round(255 * (i / 255) ** 1.2) for i in range(256)] * 3), "PNG"
        ),
    }
    found, good = [], True
    for name, content in ways.items():
        target.write_bytes(content)
        one = recover.Sealed(sealing.sidecar_of(target), target, target.name)
        done = bring_back(one, folder)
        wanted = {"BOUND"} if name in ("PNG again", "BMP") else {"SOFT", "UNBOUND"}
        good &= done.status in wanted
        written = any(path.is_file() for path in (folder / "back").rglob("*"))
        good &= written == (done.status == "BOUND")
        allowed = bring_back(one, folder, allow_unbound=True)
        good &= (folder / "back" / allowed.original).read_bytes() == original
        found.append(f"{name} {done.status}")
    return good, "; ".join(found) + "; byte-exact with --allow-unbound"


def side_channels(folder: Path, quick: bool) -> tuple[bool, str]:
    """A11: what stands in clear, sizes, messages and times of refusals, modes of files."""
    photos = records(folder, 5)
    hidden = [
        b"Camera of Anna",
        b"original-",
        b"JFIF",
        b"Exif",
        KEY.secret,
        KEY.secret.hex().encode(),
    ]
    clear = 0
    for photo in photos:
        content = photo.read_bytes() + sealing.sidecar_of(photo).read_bytes()
        clear += sum(content.count(one) for one in hidden)
        clear += len(leftovers(photo.read_bytes(), metadata="none"))
    sizes = {len(sealed(bytes(109_000 + 30 * i))) for i in range(50)}
    blob = sealed()
    wrong, bad_mac = keys.new(), flipped(blob, 8 * 290)
    cases: dict[str, Callable[[], bool]] = {
        "wrong key": lambda: opens(blob, wrong),
        "bad MAC": lambda: opens(bad_mac),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(500 if quick else 3000):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(one) for name, one in times.items()}
    apart = abs(medians["wrong key"] / medians["bad MAC"] - 1)
    said = set()
    for bad, key in ((blob, wrong), (flipped(blob, 8 * 290), KEY), (flipped(blob, 8 * 900), KEY)):
        stream = io.BytesIO(bad)
        try:
            header = envelope.read_header(stream, len(bad))
            envelope.open_body(stream, envelope.unlock(header, [key]), io.BytesIO())
        except CannotOpen as fault:
            said.add((type(fault), fault.fault, fault.hint))
    done = bring_back(recover.Sealed(sealing.sidecar_of(photos[0]), photos[0], "a"), folder)
    mode = (folder / "back" / done.original).stat().st_mode & 0o777
    good = not clear and len(sizes) == 1 and apart < 0.1 and len(said) == 1 and mode == 0o600
    return good, (
        f"{clear} things in clear; {len(sizes)} size for 50 payloads of one bucket; {len(said)} text for "
        f"wrong key, MAC and tag; medians {1e6 * medians['wrong key']:.0f} and "
        f"{1e6 * medians['bad MAC']:.0f} µs ({100 * apart:.1f} % apart); recovered file {mode:o}"
    )


def flipped(blob: bytes, bit: int) -> bytes:
    """Return the bytes with one bit flipped."""
    changed = bytearray(blob)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


ATTACKS = {
    "A1 near keys": near_keys,
    "A3 guessing passphrases": guessing,
    "A6 swapped sidecars": swapped,
    "A7 flips, cuts, noise": damaged,
    "A8 downgrade": downgraded,
    "A9 re-encoded picture": reencoded,
    "A11 side channels": side_channels,
}


def main() -> None:
    """Attack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    print("| attack | found | |\n|---|---|---|")
    broken = 0
    for name, attack in ATTACKS.items():
        folder = given.out / name.split()[0]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        os.umask(0o022)
        good, found = attack(folder, given.quick)
        broken += not good
        print(f"| {name} | {found} | {'held' if good else '**broken**'} |", flush=True)
        shutil.rmtree(folder)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
