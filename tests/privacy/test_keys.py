"""Keys by second routes: HPKE written out here, Argon2id by the vector of its RFC."""

import hashlib
import hmac
import pickle

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from hypothesis import given, settings
from hypothesis import strategies as st

from moretta.errors import KeyRejected
from moretta.privacy import keys, phrases
from moretta.privacy.keys import Cost, KeyFile, Passphrase, PrivateKey, Pseudonyms, Slot

SECRET = bytes(range(200, 232))
CORE = hashlib.sha256(b"a core").digest()
RECORD_KEY = bytes(range(32))


def extract(salt, label, ikm, suite):
    return hmac.digest(salt, b"HPKE-v1" + suite + label + ikm, "sha256")


def expand(prk, label, info, length, suite):
    info = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    out, block = b"", b""
    for i in range(1, 3):
        block = hmac.digest(prk, block + info + bytes([i]), "sha256")
        out += block
    return out[:length]


def hpke_open(sealed, private, info):
    """RFC 9180 base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, by its text."""
    enc, ct = sealed[:32], sealed[32:]
    shared = private.exchange(X25519PublicKey.from_public_bytes(enc))
    kem = b"KEM" + (0x20).to_bytes(2, "big")
    context = enc + private.public_key().public_bytes_raw()
    prk = extract(b"", b"eae_prk", shared, kem)
    shared_secret = expand(prk, b"shared_secret", context, 32, kem)
    suite = b"HPKE" + b"\x00\x20\x00\x01\x00\x02"
    psk_id = extract(b"", b"psk_id_hash", b"", suite)
    context = b"\0" + psk_id + extract(b"", b"info_hash", info, suite)
    secret = extract(shared_secret, b"secret", b"", suite)
    key = expand(secret, b"key", context, 32, suite)
    nonce = expand(secret, b"base_nonce", context, 12, suite)
    return AESGCM(key).decrypt(nonce, ct, b"")


def test_hpke_by_a_second_implementation():
    person = keys.new("recipient")
    slot = person.public.wrap(RECORD_KEY, CORE)
    private = X25519PrivateKey.from_private_bytes(person.secret)
    info = b"ifadenv/v1/slot\x03" + CORE
    assert hpke_open(slot.body[8:], private, info) == RECORD_KEY
    assert slot.body[:8] == hashlib.sha256(b"ifadenv/v1/kid" + person.public.raw).digest()[:8]
    assert person.unwrap(slot, CORE) == RECORD_KEY
    assert person.unwrap(slot, hashlib.sha256(b"another").digest()) is None


def test_argon2id_by_the_vector_of_rfc_9106():
    argon = Argon2id(
        salt=b"\2" * 16,
        length=32,
        iterations=3,
        lanes=4,
        memory_cost=32,
        ad=b"\4" * 12,
        secret=b"\3" * 8,
    )
    wanted = "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659"
    assert argon.derive(b"\1" * 32).hex() == wanted


def test_slots_have_the_published_lengths():
    phrase = Passphrase("vapu-sota-figa-kyso-titi-vony")
    assert len(phrase.wrap(RECORD_KEY, CORE).body) + 4 == 89
    assert len(KeyFile(SECRET).wrap(RECORD_KEY, CORE).body) + 4 == 80
    assert len(keys.new("recipient").wrap(RECORD_KEY, CORE).body) + 4 == 92


@given(
    memory=st.integers(0, 2**32 - 1), passes=st.integers(0, 2**32 - 1), lanes=st.integers(0, 255)
)
@settings(max_examples=200)
def test_absurd_work_is_refused_before_it_is_done(memory, passes, lanes):
    cost = Cost(passes, memory, lanes)
    if not cost.sound():
        body = bytes(16) + passes.to_bytes(4, "big") + memory.to_bytes(4, "big") + bytes([lanes])
        assert Passphrase("x").unwrap(Slot(keys.PASSPHRASE, body + bytes(60)), CORE) is None
    else:
        assert 19 << 10 <= memory <= 4 << 20


def test_the_ends_of_the_range_are_accepted():
    for cost in (Cost(), Cost(1, 2 << 20), Cost(2, 19 << 10, 1), Cost(16, 4 << 20, 16)):
        assert cost.sound()
    for cost in (Cost(1, (1 << 20) - 1, 4), Cost(3, (19 << 10) - 1, 4), Cost(3, (4 << 20) + 1, 4)):
        assert not cost.sound()


def copy_of(key):
    return pickle.loads(pickle.dumps(key))  # noqa: S301 - as a worker process gets it


def test_a_passphrase_costs_once_a_run(monkeypatch):
    done = []
    real = keys.Argon2id
    monkeypatch.setattr(keys, "Argon2id", lambda **given: done.append(given) or real(**given))
    phrase = Passphrase("vapu-sota-figa-kyso-titi-vony")
    phrase.prepare()
    twin = copy_of(phrase)
    slots = [twin.wrap(RECORD_KEY, CORE) for _ in range(3)]
    assert len(done) == 1
    assert len({slot.body[25:37] for slot in slots}) == 3
    assert all(phrase.unwrap(slot, CORE) == RECORD_KEY for slot in slots)
    assert len(done) == 1
    assert done[0]["memory_cost"] == 64 << 10


def test_words_are_one_however_they_are_typed():
    slot = Passphrase("caf\N{LATIN SMALL LETTER E WITH ACUTE} ﬁgs").wrap(RECORD_KEY, CORE)
    assert Passphrase("cafe\N{COMBINING ACUTE ACCENT} figs").unwrap(slot, CORE) == RECORD_KEY


def test_secrets_do_not_show():
    person, phrase = keys.new("recipient"), Passphrase("hunter2hunter2")
    made = Pseudonyms("record", bytes(32), b"seedseedseedseedseedseedseedseed", b"mastermaster")
    for one in (KeyFile(SECRET), PrivateKey(person.secret), keys.SigningKey(SECRET), phrase, made):
        for text in (repr(one), str(one), f"{one}"):
            assert "secret" not in text or "secret=" not in text
            for hidden in (repr(SECRET), SECRET.hex(), "hunter2", "seedseed", "mastermaster"):
                assert hidden not in text
    with pytest.raises(KeyRejected) as caught:
        KeyFile(b"too short and private")
    assert "private" not in caught.value.fault + caught.value.hint


def test_key_files_there_and_back():
    for kind in ("file", "recipient", "signing"):
        key = keys.new(kind)
        assert keys.from_bytes(keys.to_bytes(key)) == key
        if kind != "file":
            assert keys.from_bytes(keys.to_bytes(key.public)) == key.public
            assert key.fingerprint == key.public.fingerprint


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x" * 31,
        b"x" * 33,
        b"passphrase\n",
        b"-----BEGIN CERTIFICATE-----\n",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    ],
)
def test_anything_else_is_no_key(content):
    with pytest.raises(KeyRejected) as caught:
        keys.from_bytes(content)
    assert content.decode() not in caught.value.fault or not content


def test_scopes():
    seeds = [bytes([i]) * 32 for i in range(4)]
    a, b = (Pseudonyms("record", seeds[i], seeds[i + 2], seeds[0]) for i in (0, 1))
    assert len({x.of(i) for x in (a, b) for i in range(50)}) == 100
    assert a.of(3, 7) == a.of(3)
    one, two = (Pseudonyms("subject", seeds[i], seeds[i + 2], seeds[0]) for i in (0, 1))
    assert one.of(0, 7) == two.of(4, 7) != one.of(0, 8)
    assert one.of(0) != two.of(0)
    assert Pseudonyms("subject", seeds[0], seeds[2], seeds[3]).of(0, 7) != one.of(0, 7)
    every = Pseudonyms("collection", seeds[1], seeds[2], seeds[0])
    assert (
        every.of(0)
        == every.of(9, 7)
        == Pseudonyms("collection", seeds[0], seeds[3], seeds[0]).of(5)
    )


def test_every_bit_of_a_key_moves_the_pseudonyms():
    near = {
        bytes(b ^ (1 << bit) * (i == at) for i, b in enumerate(SECRET))
        for at in range(32)
        for bit in range(8)
    }
    assert len({KeyFile(one).pseudonyms for one in near} | {KeyFile(SECRET).pseudonyms}) == 257


def test_the_pseudonym_key_is_none_of_the_others():
    key = KeyFile(SECRET)
    assert key.pseudonyms not in (SECRET, keys.derived(SECRET, b"", b"slot/keyfile"))
    assert key.fingerprint not in key.pseudonyms.hex()


def refusals(shares):
    """All words of what is said where some of these shares, of which 3 are needed, do not fit."""
    words: set[str] = set()
    for wrong in (
        shares[:2],
        [shares[0]] * 3,
        [],
        ["not a word " * 11],
        shares[:2] + keys.split(keys.new(), 3, 5)[:1],
    ):
        with pytest.raises(KeyRejected) as caught:
            keys.combine(wrong)
        words.update(caught.value.fault.replace("'", " ").split())
    return words


def test_shares():
    pytest.importorskip("shamir_mnemonic")
    key = keys.new()
    shares = keys.split(key, 3, 5)
    assert len(shares) == 5
    assert all(len(share.split()) == 33 for share in shares)
    assert keys.combine(shares[:3]) == keys.combine(shares[2:]) == key.secret
    assert keys.combine(shares) == keys.combine([*shares[1:3], *shares[1:]]) == key.secret
    for some, said in (
        (shares[:2], "2 different shares given, of 3"),
        (shares[:1] * 3, "1 different share given, of 3"),
        ([*shares[:3], keys.split(key, 3, 5)[3]], "they are of 2 splittings"),
    ):
        with pytest.raises(KeyRejected, match=said):
            keys.combine(some)

    said, said_of_another = refusals(shares), refusals(keys.split(keys.new(), 3, 5))
    # A message's own words may be words of a share ("list" and "empty" are); whatever stands in it
    # for any key tells nothing about this one.
    assert not set(shares[0].split()[4:]) & (said - said_of_another)
    for need, of in ((0, 3), (4, 3), (1, 3), (3, 17)):
        with pytest.raises(KeyRejected):
            keys.split(key, need, of)


def test_made_passphrases_are_six_words_of_7776():
    assert round(2**phrases.WORD_BITS) == 7776
    assert phrases.WORDS * phrases.WORD_BITS > 77
    made = {phrases.made() for _ in range(500)}
    assert len(made) == 500
    assert all(phrases.checked(one) == one for one in made)
    assert len({word for one in made for word in one.split("-")}) > 2000


def test_no_made_passphrase_is_one_that_we_refuse(monkeypatch):
    """A word that comes twice counts once."""
    letters = iter("baba" * 4 + "".join(f"{first}a{first}a" for first in "dfgmn") + "nana" * 9)
    monkeypatch.setattr("secrets.choice", lambda part: next(letters))
    made = phrases.made()
    assert len(set(made.split("-"))) == phrases.WORDS
    assert phrases.checked(made) == made


@pytest.mark.parametrize(
    "weak",
    [
        "",
        "   ",
        "password",
        "correct horse battery",
        "a" * 60,
        "abcdefghijklmnopqrstuvwxyz",
        "1234567890" * 5,
        "Tr0ub4dor&3",
        "vapu-sota",
        "vapu " * 6,
    ],
)
def test_weak_passphrases_are_refused_and_not_repeated(weak):
    with pytest.raises(KeyRejected) as caught:
        phrases.checked(weak)
    assert not weak.strip() or weak not in caught.value.fault + caught.value.hint


@pytest.mark.parametrize(
    "good", ["seven quite unrelated words make better lasting secrets", "vapu-sota-figa-kyso-titi"]
)
def test_good_passphrases_pass(good):
    assert phrases.checked(good) == good


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31)], ids=["zero", "one"])
def test_points_of_low_order_neither_seal_nor_open(point):
    person = keys.new("recipient")
    slot = person.public.wrap(RECORD_KEY, CORE)
    forged = Slot(keys.RECIPIENT, slot.body[:8] + point + slot.body[40:])
    assert person.unwrap(forged, CORE) is None
    assert not keys.PublicKey(point).usable()
    assert person.public.usable()
