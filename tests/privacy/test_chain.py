"""The chain of an access log: nothing is altered, removed, added or moved unseen."""

import json

import pytest

from moretta.errors import LogBroken
from moretta.privacy import chain, keys

ENTRY = {
    "utc": "2026-05-03T10:00:00Z",
    "actor": "anna",
    "record_id": "00" * 16,
    "action": "open",
    "purpose": "request 7",
    "result": "asked",
}


def log(count):
    head, rows = chain.Head(), []
    for i in range(count):
        rows.append(chain.row(head, {**ENTRY, "purpose": f"request {i}"}))
        head = chain.after(head, rows[-1])
    return rows, head


def test_a_whole_log_gives_its_head():
    rows, head = log(5)
    assert chain.verified(rows) == head
    assert head.lines == 5
    assert chain.verified([]) == chain.Head()
    assert chain.head_of(str(head)) == head


def test_every_edit_is_found():
    rows, _ = log(4)
    line = json.loads(rows[1])
    edited = (
        json.dumps({**line, "actor": "bert"}, sort_keys=True, separators=(",", ":")).encode()
        + b"\n"
    )
    broken = {
        "edited": [rows[0], edited, *rows[2:]],
        "removed": [rows[0], *rows[2:]],
        "first removed": rows[1:],
        "moved": [rows[1], rows[0], *rows[2:]],
        "doubled": [rows[0], rows[0], *rows[1:]],
        "added": [*rows, rows[0]],
        "torn": [*rows[:3], rows[3][:-5]],
        "no end": [*rows[:3], rows[3][:-1]],
        "not json": [*rows, b"hello\n"],
        "another key": [*rows[:3], rows[3].replace(b'"actor"', b'"actress"')],
    }
    for what, changed in broken.items():
        with pytest.raises(LogBroken, match="line"):
            chain.verified(changed)
        assert what


@pytest.mark.parametrize("cut", [1, 20])
def test_a_line_that_is_cut_off_is_told_from_one_that_does_not_follow(cut):
    """A power cut leaves it. It is no whole log, and whoever has it can go on with another."""
    rows, _ = log(3)
    rows[-1] = rows[-1][:-cut]
    with pytest.raises(LogBroken, match="line 3 is cut off, after 2 whole lines") as caught:
        chain.verified(rows)
    assert "another --log" in caught.value.hint


def test_every_flipped_bit_of_an_early_line_is_found():
    rows, _ = log(3)
    for at in range(len(rows[0])):
        changed = bytearray(rows[0])
        changed[at] ^= 1
        with pytest.raises(LogBroken):
            chain.verified([bytes(changed), *rows[1:]])


def test_a_shortened_log_is_found_by_a_head_that_was_kept():
    rows, head = log(6)
    assert chain.verified(rows[:4])  # the chain alone cannot know
    with pytest.raises(LogBroken, match="it once had 6 lines, and has 4 now"):
        chain.verified(rows[:4], known=[head])
    with pytest.raises(LogBroken):
        chain.verified([], known=[head])
    early = chain.verified(rows[:2])
    assert chain.verified(rows, known=[head, early, chain.Head()]) == head
    others, _ = log(6)
    others[0] = chain.row(chain.Head(), {**ENTRY, "actor": "bert"})
    with pytest.raises(LogBroken):
        chain.verified(others[:1], known=[chain.verified(rows[:1])])


def test_two_heads_of_one_count_belong_to_no_one_log():
    rows, head = log(3)
    others, other = log(2)
    others.append(chain.row(other, {**ENTRY, "actor": "bert"}))
    refilled = chain.verified(others)
    assert refilled.lines == head.lines
    for known in ([head, refilled], [refilled, head]):
        for whole in (rows, others):
            with pytest.raises(LogBroken, match="two different heads of 3 lines"):
                chain.verified(whole, known=known)
    assert chain.verified(rows, known=[head, head]) == head
    with pytest.raises(LogBroken, match="two different heads of 0 lines"):
        chain.verified(rows, known=[chain.Head(0, "1" * 64)])


def test_signed_heads():
    key, (_, head) = keys.new("signing"), log(3)
    line = chain.signed(head, key, "2026-05-03T10:00:00Z")
    assert chain.confirmed(line, key.public) == head
    for wrong in (line.replace(b"3:", b"2:"), line.replace(b"2026", b"2027"), b"{}\n", b"x"):
        with pytest.raises(LogBroken):
            chain.confirmed(wrong, key.public)
    with pytest.raises(LogBroken):
        chain.confirmed(line, keys.new("signing").public)
    for text in ("", "3", "3:abc", "-1:" + "0" * 64):
        with pytest.raises(LogBroken):
            chain.head_of(text)
