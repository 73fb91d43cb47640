"""Make the hostile envelopes again: PYTHONPATH=src:tests/privacy python tests/cases/envelope/make_cases.py

Each file is one fault done to the published vector (docs/envelope.md), written as the bytes to put in
place, the size of the result, and what must follow: "form" (refused before any key is tried, `says` is
in the message), "crypto" (the one error of every cryptographic failure) or "opens".
Faults that need a fresh MAC are signed with the vector's own record key: they get past the MAC and have
to be refused by what comes after, or before.
"""

import hashlib
import hmac
import io
import struct
from pathlib import Path

from test_envelope import BIND, MODEL, PAYLOAD, PUBLISHED, RECORD, manifest_of

from moretta.privacy import envelope
from moretta.privacy.keys import Slot, derived

HERE = Path(__file__).parent
NONCE = bytes(range(12))


def vector(manifest=None, plaintext=None, slots=None):
    """Seal the vector again, with a part of it swapped; returns its bytes."""

    def wrapped(core):
        own = PUBLISHED.wrap_with(RECORD.key, core, bytes(range(16)), NONCE)
        return slots(own, core) if slots else [own]

    real, out = envelope._plaintext, io.BytesIO()
    if plaintext:
        envelope._plaintext = lambda *given: iter([plaintext(b"".join(real(*given)))])
    try:
        envelope.seal(
            out,
            io.BytesIO(PAYLOAD),
            record=RECORD,
            manifest=manifest or manifest_of(PAYLOAD),
            wrappers=wrapped,
            bind=BIND,
            bind_kind=0,
            model_digest=MODEL,
        )
    finally:
        envelope._plaintext = real
    return out.getvalue()


def signed(blob, at, part):
    """Alter the core or slots and sign them anew with the record's key."""
    blob = blob[:at] + part + blob[at + len(part) :]
    return (
        blob[:280]
        + hmac.digest(derived(RECORD.key, RECORD.salt, b"header"), blob[:280], "sha256")
        + blob[312:]
    )


def passphrase_slot(t, m, p):
    return Slot(1, bytes(16) + struct.pack(">IIB", t, m, p) + bytes(60))


def resized(text, size):
    """Replace the manifest inside a plaintext of the same length."""

    def change(plain):
        old = int.from_bytes(plain[:4], "big")
        body = size.to_bytes(4, "big") + text + plain[4 + old :]
        return body[: len(plain)].ljust(len(plain), b"\0")

    return change


BASE = vector()
KEY_SLOT = BASE[200:280]


def slots_of(*rows, number=None, length=None):
    """The vector with other bytes for slots, MAC made anew."""
    raw = b"".join(rows)
    head = struct.pack(
        ">HHI", len(rows) if number is None else number, 0, len(raw) if length is None else length
    )
    start = BASE[:192] + head + raw
    return (
        start
        + hmac.digest(derived(RECORD.key, RECORD.salt, b"header"), start, "sha256")
        + BASE[312:]
    )


def swapped(blob, a, b, size):
    return (
        blob[:a] + blob[b : b + size] + blob[a + size : b] + blob[a : a + size] + blob[b + size :]
    )


def cases():
    """Yield name, what it is, the bytes, and what must follow."""
    form, crypto = "form", "crypto"
    yield "whole", "nothing is wrong", BASE, "opens", ""
    yield "empty", "no byte at all", b"", form, "no sidecar"
    yield "magic", "another magic", b"IFADENV2" + BASE[8:], form, "no sidecar"
    yield "version-0", "a version that never was", signed(BASE, 8, b"\0"), form, "no version"
    yield "version-2", "a newer version", signed(BASE, 8, b"\2"), form, "a newer version"
    yield "suite-0", "no cipher", signed(BASE, 9, b"\0"), form, "a cipher"
    yield "suite-3", "an unknown cipher", signed(BASE, 9, b"\3"), form, "a cipher"
    yield (
        "suite-2",
        "another cipher than the one it was sealed with",
        signed(BASE, 9, b"\2"),
        crypto,
        "",
    )
    yield "payload-0", "no payload type", signed(BASE, 10, b"\0"), form, "payload"
    yield "payload-3", "an unknown payload type", signed(BASE, 10, b"\3"), form, "payload"
    yield "payload-2", "another payload type", signed(BASE, 10, b"\2"), crypto, ""
    yield "flags-0", "not padded", signed(BASE, 11, b"\0"), form, "flags"
    yield "flags-5", "an unknown flag", signed(BASE, 11, b"\5"), form, "flags"
    yield (
        "bind-kind-1",
        "bound to the file instead of the pixels",
        signed(BASE, 12, b"\1"),
        crypto,
        "",
    )
    yield "bind-kind-2", "an unknown binding", signed(BASE, 12, b"\2"), form, "binding"
    yield "chunk-11", "chunks too small", signed(BASE, 13, b"\x0b"), form, "lengths"
    yield "chunk-21", "chunks too large", signed(BASE, 13, b"\x15"), form, "lengths"
    yield "chunk-17", "larger chunks, as many", signed(BASE, 13, b"\x11"), crypto, ""
    yield "zero-14", "a reserved byte set", signed(BASE, 15, b"\1"), form, "flags"
    yield "reserved-191", "the last reserved byte set", signed(BASE, 191, b"\1"), form, "flags"
    yield "record-id", "another record's number", signed(BASE, 16, bytes(16)), crypto, ""
    yield "record-salt", "another record's salt", signed(BASE, 32, bytes(32)), crypto, ""
    yield "commitment", "another commitment", signed(BASE, 64, bytes(32)), crypto, ""
    yield "bind", "bound to another picture", signed(BASE, 96, bytes(32)), crypto, ""
    yield "model", "another model's digest", signed(BASE, 128, bytes(32)), crypto, ""
    yield "length-huge", "a length beyond the file", signed(BASE, 160, b"\x7f"), form, "lengths"
    yield (
        "length-odd",
        "a length that padding never gives",
        signed(BASE, 167, b"\1"),
        form,
        "lengths",
    )
    yield "no-slots", "no slot", slots_of(number=0), form, "slots"
    yield "slots-33", "more slots than allowed", slots_of(*[KEY_SLOT] * 33), form, "slots"
    yield "slots-32", "32 slots of which all are good", slots_of(*[KEY_SLOT] * 32), "opens", ""
    yield "slots-number", "one slot, two announced", slots_of(KEY_SLOT, number=2), form, "slots"
    yield (
        "slots-length",
        "slots longer than announced",
        slots_of(KEY_SLOT, length=79),
        form,
        "slots",
    )
    yield (
        "slots-limit",
        "slots of more than 65,536 bytes",
        slots_of(KEY_SLOT, length=65_537),
        form,
        "slots",
    )
    yield (
        "slot-short",
        "a key file's slot one byte short",
        slots_of(b"\2\0\0\x4b" + KEY_SLOT[4:-1]),
        form,
        "slots",
    )
    yield "slot-zero", "a reserved byte in a slot", slots_of(b"\2\1" + KEY_SLOT[2:]), form, "slots"
    yield "slot-type-0", "a slot without a type", slots_of(b"\0" + KEY_SLOT[1:]), form, "slots"
    yield (
        "slot-type-9",
        "only a slot that nobody knows",
        slots_of(b"\x09" + KEY_SLOT[1:]),
        crypto,
        "",
    )
    yield (
        "slot-beyond",
        "a slot that reaches beyond the list",
        slots_of(b"\x09\0\xff\xff" + KEY_SLOT[4:]),
        form,
        "slots",
    )
    for name, numbers in {
        "argon-memory-huge": (3, 0xFFFFFFFF, 4),
        "argon-memory-small": (3, 1024, 4),
        "argon-passes-huge": (0xFFFFFFFF, 65_536, 4),
        "argon-passes-0": (0, 65_536, 4),
        "argon-one-pass": (1, 65_536, 4),
        "argon-lanes-0": (3, 65_536, 0),
        "argon-lanes-255": (3, 65_536, 255),
    }.items():
        slot = passphrase_slot(*numbers)
        blob = vector(slots=lambda own, _, slot=slot: [own, slot])
        yield name, f"Argon2id with t, m, p = {numbers}", blob, form, "Argon2id"
    yield "mac", "a MAC of zeros", BASE[:280] + bytes(32) + BASE[312:], crypto, ""
    yield (
        "body-bit",
        "one bit of the body",
        BASE[:900] + bytes([BASE[900] ^ 1]) + BASE[901:],
        crypto,
        "",
    )
    yield "tag-bit", "one bit of the tag", BASE[:-1] + bytes([BASE[-1] ^ 1]), crypto, ""
    yield "cut-1", "the last byte missing", BASE[:-1], form, "cut off"
    yield "cut-body", "the body missing", BASE[:312], form, "cut off"
    yield "cut-mac", "cut inside the MAC", BASE[:300], form, "cut off"
    yield "cut-core", "cut inside the core", BASE[:100], form, "cut off"
    yield "added", "one byte added", BASE + b"\0", form, "cut off"
    dirty = vector(plaintext=lambda plain: plain[:-1] + b"\1")
    yield "padding", "padding that is not zero", dirty, crypto, ""
    false = vector(plaintext=lambda plain: plain.replace(PAYLOAD, PAYLOAD[::-1]))
    yield "payload-hash", "a payload that is not what its manifest says", false, crypto, ""
    for name, about, text, size in (
        ("manifest-huge", "a manifest of 4 GiB announced", b"{}", 0xFFFFFFFF),
        ("manifest-json", "a manifest that is not JSON", b"{len:20}", 8),
        ("manifest-list", "a manifest that is a list", b"[1,2]", 5),
        ("manifest-no-length", "a manifest without a length", b'{"sha256":"00"}', 15),
        ("manifest-text-length", "a length in words", b'{"len":"20","sha256":"00"}', 26),
        ("manifest-negative", "a negative length", b'{"len":-1,"sha256":"00"}', 24),
        ("manifest-zero", "a length of nothing", b'{"len":0,"sha256":"00"}', 23),
        ("manifest-too-long", "a payload longer than the body", b'{"len":99999,"sha256":"00"}', 27),
    ):
        yield name, about, vector(plaintext=resized(text, size)), crypto, ""


def splices(blob):
    """Return the runs of bytes in which a blob differs from the vector, place by place."""
    common = min(len(blob), len(BASE))
    if hashlib.sha256(blob[-65_000:]).digest() == hashlib.sha256(BASE[-65_000:]).digest():
        grown = len(blob) - len(BASE)
        if grown:  # another length of slots: one piece from the list of slots to the MAC's end
            return [(192, 120, blob[192 : 312 + grown])]
    found, at = [], 0
    while at < common:
        if blob[at] == BASE[at]:
            at += 1
            continue
        end = at
        while end < common and blob[end : end + 8] != BASE[end : end + 8]:
            end += 1
        found.append((at, None, blob[at:end]))
        at = end
    if len(blob) > len(BASE):
        found.append((len(BASE), None, blob[len(BASE) :]))
    return found


def main():
    for old in HERE.glob("*.toml"):
        old.unlink()
    for name, about, blob, expect, says in cases():
        rows = [f'about = "{about}"', f'expect = "{expect}"']
        if says:
            rows.append(f'says = "{says}"')
        rows.append(f"size = {len(blob)}")
        pieces = splices(blob)
        if not pieces:
            rows.append("splice = []")
        for at, over, part in pieces:
            rows += ["[[splice]]", f"at = {at}", f'hex = "{part.hex()}"']
            if over is not None:
                rows.append(f"over = {over}")
        (HERE / f"{name}.toml").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
