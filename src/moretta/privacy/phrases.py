"""Passphrases: made by chance, or refused when a guesser would be done too soon.

A made one is six words of four letters, consonant vowel consonant vowel: 7,776 words, 77.5 bits.
Not here  what Argon2id makes of them (keys.py).
"""

from __future__ import annotations

import itertools
import math
import re
import secrets
import unicodedata

from moretta.errors import KeyRejected

LEAST_BITS = 60
_SEPARATORS = " -_."
WORDS = 6
_FIRST, _VOWELS, _SECOND = "bcdfghjklmnprstvwz", "aeiouy", "bdfgklmnprst"  # 18 * 6 * 12 * 6 = 7,776
_MADE = re.compile(f"[{_FIRST}][{_VOWELS}][{_SECOND}][{_VOWELS}]")
WORD_BITS = math.log2(len(_FIRST) * len(_VOWELS) * len(_SECOND) * len(_VOWELS))
_DICTIONARY_BITS = 11.0  # an everyday word: one of about 2,000
_COMMON = frozenset(["password", "passwort", "qwerty", "qwertz", "letmein", "welcome", "secret"])


def made(words: int = WORDS) -> str:
    """Return a fresh passphrase of that many different words of 12.9 bits each."""
    parts = (_FIRST, _VOWELS, _SECOND, _VOWELS)
    drawn: list[str] = []
    while len(drawn) < words:
        word = "".join(secrets.choice(part) for part in parts)
        if word not in drawn:  # repeated, it counts once, and `checked` may call the phrase weak
            drawn.append(word)
    return "-".join(drawn)


def bits(phrase: str) -> float:
    """Return a careful estimate of what guessing costs, as a power of two.

    Letters in a row count as an everyday word, or by the letter where that is less; what repeats, or
    runs on as in "abc" and "321", counts once.

    >>> round(bits("correct horse battery staple")), round(bits("aaaaaaaaaaaaaaaaaaaaaaaaaaaa"))
    (44, 5)
    """
    phrase = unicodedata.normalize("NFKC", phrase)
    tokens = re.findall(r"[^\W\d_]+|\d+|[\W_]", phrase)
    total, seen = 0.0, set()
    for token in tokens:
        plain = token.casefold()
        if plain in seen or plain in _COMMON:
            total += token.isalnum()
            continue
        seen.add(plain)
        if _MADE.fullmatch(token):
            total += WORD_BITS
        elif token.isalpha():
            letters = _fresh(plain) * math.log2(26)
            mixed = 0 if token in (plain, plain.upper(), plain.capitalize()) else len(token) / 2
            total += min(letters, _DICTIONARY_BITS * math.ceil(len(plain) / 12)) + mixed
        elif token.isdigit():
            total += _fresh(token) * math.log2(10)
        else:
            total += 0 if token in _SEPARATORS else 3
    return total


def checked(phrase: str) -> str:
    """Return the phrase. Raises KeyRejected when it is empty or weak; the text never repeats it."""
    if not phrase.strip():
        raise KeyRejected("the passphrase is empty", hint="moretta key phrase makes a good one")
    found = bits(phrase)
    if found < LEAST_BITS:
        raise KeyRejected(
            f"the passphrase is weak: about {found:.0f} bits, {LEAST_BITS} are needed",
            hint="moretta key phrase makes a good one",
        )
    return phrase


def _fresh(token: str) -> int:
    """Count characters that neither repeat the one before nor follow it in the alphabet."""
    steps = [ord(b) - ord(a) for a, b in itertools.pairwise(token)]
    return 1 + sum(step not in (-1, 0, 1) for step in steps)
