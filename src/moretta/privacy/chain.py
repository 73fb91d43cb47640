"""Lines of an access log, each of which holds the hash of the one before.

Promise   a line that was altered, removed, added or moved is noticed, except at the end: what was cut
          off there shows only against a head that was kept elsewhere or signed.
Not here  the file (pipeline/custody.py). Never in a line: names of photos, paths, keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from moretta.errors import LogBroken, count_of
from moretta.privacy.keys import SigningKey, VerifyingKey

START = "0" * 64
_KEYS = {"seq", "utc", "actor", "record_id", "action", "purpose", "result", "prev"}


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a log: how many lines it has, and the hash of the last one."""

    lines: int = 0
    sha256: str = START

    def __str__(self) -> str:
        return f"{self.lines}:{self.sha256}"


def row(head: Head, entry: Mapping[str, str]) -> bytes:
    """Return the next line, its end included. entry: all keys of a line but seq and prev."""
    line = {**entry, "seq": head.lines + 1, "prev": head.sha256}
    return json.dumps(line, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def after(head: Head, written: bytes) -> Head:
    """Return the head once a line stands."""
    return Head(head.lines + 1, hashlib.sha256(written).hexdigest())


def verified(rows: Iterable[bytes], *, known: Iterable[Head] = ()) -> Head:
    """Return the head of a whole log. rows: its lines, with their ends.

    known: heads that were kept elsewhere; the log must go through each of them.
    Raises LogBroken naming the first line that does not follow, or two heads that no one log can have.
    """
    head = Head()
    wanted: dict[int, str] = {0: START}
    for one in known:
        if wanted.setdefault(one.lines, one.sha256) != one.sha256:
            raise LogBroken(
                f"two different heads of {count_of(one.lines, 'line')} were kept elsewhere",
                hint=_HINT,
            )
    del wanted[0]
    for place, written in enumerate(rows, 1):
        try:
            line: Any = json.loads(written)
            fits = set(line) == _KEYS and line["seq"] == place and line["prev"] == head.sha256
        except json.JSONDecodeError:
            fits = not written.endswith(b"\n")  # as far as it goes
        except (ValueError, TypeError, KeyError):
            fits = False
        if fits and not written.endswith(b"\n"):
            raise LogBroken(
                f"line {place} is cut off, after {count_of(place - 1, 'whole line')}",
                hint="a power cut leaves that, and so may a hand: keep the file as it is, and go on with"
                " another --log",
            )
        if not fits:
            raise LogBroken(f"line {place} does not follow from the one before", hint=_HINT)
        head = after(head, written)
        if wanted.pop(head.lines, head.sha256) != head.sha256:
            raise LogBroken(f"line {place} is not the one that was kept elsewhere", hint=_HINT)
    if wanted:
        raise LogBroken(
            f"it once had {count_of(max(wanted), 'line')}, and has {head.lines} now", hint=_HINT
        )
    return head


def head_of(text: str) -> Head:
    """Return the head that `str(head)` wrote. Raises LogBroken for anything else."""
    lines, _, sha256 = text.strip().partition(":")
    if not lines.isdecimal() or len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise LogBroken(
            "that is no head of a log", hint="such as 12:9f86d081..., as it was printed"
        )
    return Head(int(lines), sha256)


def signed(head: Head, key: SigningKey, utc: str) -> bytes:
    """Return one line that says, under the key, that the log had this head then."""
    said = _said(head, utc)
    signature = Ed25519PrivateKey.from_private_bytes(key.secret).sign(said)
    return (
        json.dumps({"head": str(head), "utc": utc, "signature": signature.hex()}).encode() + b"\n"
    )


def confirmed(line: bytes, key: VerifyingKey) -> Head:
    """Return the head of a signed line. Raises LogBroken when the key did not sign it."""
    try:
        given = json.loads(line)
        head = head_of(given["head"])
        signature = bytes.fromhex(given["signature"])
        Ed25519PublicKey.from_public_bytes(key.raw).verify(signature, _said(head, given["utc"]))
    except (ValueError, TypeError, KeyError, InvalidSignature):
        raise LogBroken("a signed head was altered, or signed by another key", hint=_HINT) from None
    return head


def _said(head: Head, utc: str) -> bytes:
    return f"ifadenv/v1/log\n{head}\n{utc}".encode()


_HINT = "the log was altered; compare it with a copy"
