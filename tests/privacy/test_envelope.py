"""The envelope against its published vector, and against everything that is done to it."""

import hashlib
import io
import tomllib
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moretta.errors import CannotOpen, NotAnEnvelope
from moretta.privacy import envelope
from moretta.privacy.envelope import Record, open_body, padme, read_header, seal, unlock
from moretta.privacy.keys import KeyFile, Passphrase, Slot, derived, new, record_seed

CASES = sorted((Path(__file__).parents[1] / "cases" / "envelope").glob("*.toml"))
PAYLOAD = b"hello exact recovery"
PUBLISHED = KeyFile(bytes([0xA5]) * 32)
RECORD = Record(bytes(range(0x20)), bytes(range(0x20, 0x40)), bytes(range(0x40, 0x50)))
BIND = envelope.pixel_hash(2, 1, 3, bytes([255, 0, 0, 0, 255, 0]))
MODEL = hashlib.sha256(b"model-manifest").digest()


def manifest_of(payload, **more):
    digest = hashlib.sha256(payload).hexdigest()
    return {"len": len(payload), "name": "a.png", "sha256": digest, "type": "image/png", **more}


def sealed(payload=PAYLOAD, wrappers=(PUBLISHED,), record=None, **options):
    out = io.BytesIO()
    seal(
        out,
        io.BytesIO(payload),
        record=record or Record.fresh(),
        manifest=manifest_of(payload),
        wrappers=wrappers,
        bind=BIND,
        bind_kind=0,
        model_digest=MODEL,
        **options,
    )
    return out.getvalue()


def opened(blob, *keys, table_key=None):
    """Return (payload, manifest, header), or raise."""
    stream, out = io.BytesIO(blob), io.BytesIO()
    header = read_header(stream, len(blob))
    manifest = open_body(stream, unlock(header, keys or (PUBLISHED,), table_key), out)
    return out.getvalue(), manifest, header


@pytest.fixture(scope="module")
def vector():
    def slots(core):
        return [PUBLISHED.wrap_with(RECORD.key, core, bytes(range(16)), bytes(range(12)))]

    return sealed(wrappers=slots, record=RECORD)


def test_the_published_vector_is_reproduced_bit_for_bit(vector):
    key, salt = RECORD.key, RECORD.salt
    assert BIND.hex() == "8828dab522497c1070fce60812d05558299647ef38925710ad3dd08f5d482e21"
    wanted = {
        b"commit": "1ed162186649cbe0162037681a5feeda128cb9f99cbeabae485a71229639c3a7",
        b"body": "e1639dd2a3f22a6018b3027ab69bdc7f9f74a465b267c9f9b0f4e2608335ad90",
        b"header": "e5b7c179237eaa0e9d539b1bead4dd5aea8e260cbdc4d4a5c394dfb816550799",
    }
    for label, value in wanted.items():
        assert derived(key, salt, label).hex() == value
    rot = "0f5c6e6b15126c00319690d92407bacc738ab24b6c3fd4779e2c2257843e17d3"
    assert record_seed(key, salt).hex() == rot
    core = "f87242419e94d19d3b5ae46b087c5b8295defd300ceb02dd44f6e555a81198a6"
    assert hashlib.sha256(vector[:192]).hexdigest() == core
    mac = "f9d053819b4ee582613d39859d2618ef62a5269802dd3ff39a37cdfaabd3eb2d"
    assert vector[280:312].hex() == mac
    assert vector[312:328].hex() == "bffb37a93db1f35642a3b19b25e7b0a6"
    assert len(vector) == 65_864
    whole = "0466b5b3057866e37c8b6d0bc4a7445f810395b2223cc96d300dfe5531156507"
    assert hashlib.sha256(vector).hexdigest() == whole


def test_the_vector_opens(vector):
    payload, manifest, header = opened(vector)
    assert payload == PAYLOAD
    assert manifest == manifest_of(PAYLOAD)
    assert header.core.bind == BIND
    assert header.core.model_digest == MODEL


def refused(blob, *keys, table_key=None):
    """Whether a blob is refused, and with one of the two errors that are meant for it."""
    try:
        opened(blob, *keys, table_key=table_key)
    except CannotOpen:
        return True
    return False


def flipped(blob, at, bit):
    changed = bytearray(blob)
    changed[at] ^= 1 << bit
    return bytes(changed)


def test_every_bit_of_header_slots_and_mac_matters(vector):
    kept = [
        (at, bit) for at in range(312) for bit in range(8) if not refused(flipped(vector, at, bit))
    ]
    assert kept == []


def test_bits_of_the_body_matter(vector):
    places = [
        *range(312, 345),
        *range(345, len(vector) - 16, 997),
        *range(len(vector) - 16, len(vector)),
    ]
    assert len(places) > 100
    kept = [at for at in places if not refused(flipped(vector, at, at % 8))]
    assert kept == []


def test_no_key_that_differs_in_one_bit_opens(vector):
    near = [flipped(PUBLISHED.secret, at, bit) for at in range(32) for bit in range(8)]
    assert len(near) == 256
    assert all(refused(vector, KeyFile(one)) for one in near)


@pytest.mark.parametrize("cut", [0, 1, 100, 192, 200, 311, 312, 5000, 65_863])
def test_truncation_is_refused(vector, cut):
    assert refused(vector[:cut])


def test_what_is_added_is_refused(vector):
    assert refused(vector + b"\0")
    assert refused(vector + vector)


def test_chunks_may_not_be_swapped_doubled_or_left_out():
    blob = sealed(bytes(range(250)) * 400, chunk_log2=12)
    size, start = 4096 + 16, read_header(io.BytesIO(blob), len(blob)).size
    chunks = [blob[at : at + size] for at in range(start, len(blob), size)]
    assert len(chunks) == 25
    assert not refused(blob)
    swapped = [chunks[1], chunks[0], *chunks[2:]]
    doubled = [chunks[0], chunks[0], *chunks[2:]]
    last_first = [chunks[-1], *chunks[1:-1], chunks[0]]
    for changed in (swapped, doubled, last_first, chunks[:-1], [*chunks, chunks[-1]]):
        assert refused(blob[:start] + b"".join(changed))


@given(
    payload=st.binary(min_size=1, max_size=200_000),
    suite=st.sampled_from([1, 2]),
    chunk=st.integers(12, 20),
)
@settings(max_examples=25, deadline=None)
def test_what_was_sealed_comes_back(payload, suite, chunk):
    blob = sealed(payload, suite=suite, chunk_log2=chunk)
    back, manifest, header = opened(blob)
    assert back == payload
    assert manifest["len"] == len(payload)
    assert header.core.suite == suite


@given(noise=st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_no_noise_opens_or_crashes(noise):
    assert refused(noise)
    assert refused(b"IFADENV1" + noise)


@given(at=st.integers(8, 311), noise=st.binary(min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_no_altered_header_opens_or_crashes(at, noise):
    blob = sealed_once()
    changed = blob[:at] + noise + blob[at + len(noise) :]
    assert refused(changed) or changed == blob


KEPT: list[bytes] = []


def sealed_once():
    if not KEPT:
        KEPT.append(sealed())
    return KEPT[0]


def test_an_empty_payload_is_not_sealed():
    with pytest.raises(ValueError, match="empty"):
        sealed(b"")


@pytest.mark.parametrize("change", [b"", b"hello exact recoverY", b"hello exact recovery and more"])
def test_a_payload_that_changes_while_it_is_sealed_is_noticed(change):
    manifest = manifest_of(PAYLOAD)
    with pytest.raises(ValueError, match="changed"):
        seal(
            io.BytesIO(),
            io.BytesIO(change),
            record=Record.fresh(),
            manifest=manifest,
            wrappers=[PUBLISHED],
            bind=BIND,
            bind_kind=0,
            model_digest=MODEL,
        )


def test_padding_hides_the_length_within_its_bucket():
    sizes = {len(sealed(bytes([1]) * (109_000 + 40 * i))) for i in range(8)}
    assert len(sizes) == 1
    for length in (1, 65_536, 65_537, 100_000, 123_456, 10**9):
        assert length <= padme(length) <= max(1.12 * length, 65_536)
        assert padme(padme(length)) == padme(length)


def test_every_record_has_its_own_key_salt_and_number():
    blobs = [sealed() for _ in range(20)]
    assert len({blob[16:32] for blob in blobs}) == len({blob[32:64] for blob in blobs}) == 20
    assert len({blob[-100:] for blob in blobs}) == 20


def test_one_blob_opens_under_one_key_only():
    """Two slots that wrap different keys: only the committed one is ever used."""
    other = new()

    def slots(core):
        return [other.wrap(bytes(32), core), PUBLISHED.wrap(record.key, core)]

    record = Record.fresh()
    blob = sealed(wrappers=slots, record=record)
    assert refused(blob, other)
    assert opened(blob, other, PUBLISHED)[0] == PAYLOAD


def test_several_holders_each_open():
    phrase, person = Passphrase("vapu-sota-figa-kyso-titi-vony"), new("recipient")
    blob = sealed(wrappers=[PUBLISHED, phrase, person.public])
    assert opened(blob, PUBLISHED)[0] == opened(blob, person)[0] == PAYLOAD
    assert opened(blob, Passphrase("vapu-sota-figa-kyso-titi-vony"))[0] == PAYLOAD
    assert refused(blob, new("recipient"), new(), Passphrase("vapu-sota-figa-kyso-titi-vonu"))


def test_a_slot_of_another_record_does_not_help():
    one, two = sealed(), sealed()
    assert refused(one[:200] + two[200:280] + one[280:])


def test_an_unknown_slot_is_skipped_only_under_a_good_mac():
    def slots(core):
        return [Slot(9, b"later"), PUBLISHED.wrap(record.key, core)]

    record = Record.fresh()
    blob = sealed(wrappers=slots, record=record)
    assert opened(blob)[0] == PAYLOAD
    added = blob[:192] + blob[200:209] + blob[192:200] + blob[209:]
    assert refused(added)


def test_rewrapping_changes_the_holder_and_not_the_body():
    blob, person = sealed(PAYLOAD * 9000), new("recipient")
    stream, out = io.BytesIO(blob), io.BytesIO()
    unlocked = unlock(read_header(stream, len(blob)), [PUBLISHED])
    envelope.rewrap(
        stream, out, unlocked, [person.public], keep=lambda place: place != unlocked.opened
    )
    changed = out.getvalue()
    assert changed[:192] == blob[:192]
    assert changed[-180_000:] == blob[-180_000:]
    assert opened(changed, person)[0] == PAYLOAD * 9000
    assert refused(changed, PUBLISHED)
    with pytest.raises(ValueError, match="0 slots"):
        envelope.rewrap(stream, out, unlocked, [], keep=lambda _: False)


def test_a_shreddable_record_needs_its_row():
    row = bytes(range(100, 132))
    blob = sealed(table_key=row)
    assert opened(blob, table_key=row)[0] == PAYLOAD
    assert refused(blob)
    assert refused(blob, table_key=bytes(32))
    with pytest.raises(CannotOpen, match="row in the key table"):
        opened(blob)


def test_one_error_for_every_cryptographic_failure(vector):
    blobs = {
        "slot": flipped(vector, 240, 0),
        "commitment": flipped(vector, 70, 0),
        "mac": flipped(vector, 300, 0),
        "body": flipped(vector, 5000, 0),
        "tag": flipped(vector, len(vector) - 1, 0),
    }
    said = set()
    for blob in blobs.values():
        with pytest.raises(CannotOpen) as caught:
            opened(blob)
        said.add((type(caught.value), caught.value.fault, caught.value.hint))
    with pytest.raises(CannotOpen) as caught:
        opened(vector, new())
    said.add((type(caught.value), caught.value.fault, caught.value.hint))
    assert len(said) == 1


def test_padding_that_is_not_zero_and_a_false_hash_are_refused(monkeypatch):
    real = envelope._plaintext

    def dirty(*arguments):
        pieces = b"".join(real(*arguments))
        yield pieces[:-1] + b"\1"

    monkeypatch.setattr(envelope, "_plaintext", dirty)
    assert refused(sealed())
    monkeypatch.undo()

    def other(manifest, payload, length, padded, said):
        pieces = b"".join(real(manifest, payload, length, padded, said))
        yield pieces.replace(PAYLOAD, PAYLOAD[::-1])

    monkeypatch.setattr(envelope, "_plaintext", other)
    assert refused(sealed())


def test_memory_does_not_grow_with_the_payload():
    class Zeros(io.RawIOBase):
        left = 64 << 20

        def read(self, size=-1):
            size = min(size, self.left)
            self.left -= size
            return bytes(size)

    class Nowhere(io.BytesIO):
        def write(self, data):
            return len(data)

    digest = hashlib.sha256()
    for _ in range(64):
        digest.update(bytes(1 << 20))
    tracemalloc.start()
    seal(
        Nowhere(),
        Zeros(),
        record=Record.fresh(),
        manifest={"len": 64 << 20, "sha256": digest.hexdigest()},
        wrappers=[PUBLISHED],
        bind=BIND,
        bind_kind=0,
        model_digest=MODEL,
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 << 20


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_hostile_file(path, vector):
    case = tomllib.loads(path.read_text())
    blob = bytearray(vector)
    for splice in case["splice"]:
        part = bytes.fromhex(splice["hex"])
        blob[splice["at"] : splice["at"] + splice.get("over", len(part))] = part
    blob = bytes(blob[: case["size"]])
    assert len(blob) == case["size"]
    if case["expect"] == "opens":
        assert opened(blob)[0] == PAYLOAD
        return
    with pytest.raises(CannotOpen) as caught:
        opened(blob)
    assert (type(caught.value) is NotAnEnvelope) == (case["expect"] == "form")
    if case["expect"] == "form":
        assert case["says"] in caught.value.fault


def test_there_are_hostile_files():
    assert len(CASES) >= 40
    assert {tomllib.loads(path.read_text())["expect"] for path in CASES} == {
        "form",
        "crypto",
        "opens",
    }


def test_no_other_source_of_chance_in_the_room():
    """Keys and nonces come from the operating system: nothing here may draw from anywhere else."""
    room = Path(envelope.__file__).parent
    for source in (room / name for name in ("keys.py", "envelope.py", "phrases.py")):
        for name in ("import random", "numpy", "torch", "from random"):
            assert name not in source.read_text(), source
