"""Every error that a user can meet, each with a hint that says what to do.

MorettaError
├── UsageError        the call itself is wrong: exit code 2, nothing was started
│   └── PoolRejected  a folder holds no pool of synthetic faces that fits
├── PhotoError        one photo cannot be read or written whole; the others go on
│   └── DiskFull      no room left: the run stops, and --resume continues it
├── WeightsRejected   a network's file is missing, altered or of a kind we refuse
├── ManifestError     the record of a run is damaged, or belongs to another run
├── ReleaseRefused    releasing this would break what is promised about it
│   └── BudgetSpent   this person's budget does not hold another release
├── LedgerError       the ledger of releases is damaged, newer, locked or cannot be written
├── KeyRejected       a key file or passphrase is not one that we take
├── CannotOpen        a sidecar does not open: one text for every cryptographic reason
│   └── NotAnEnvelope its form alone says so, before any key is tried
├── LogBroken         a line of an access log was altered, removed or torn
└── DeviceError       the device asked for is not there

The command line prints «moretta: error: FAULT» and then «moretta: hint: HINT».
"""

from __future__ import annotations


class MorettaError(Exception):
    """A fault in one clear line, and a hint with its remedy."""

    exit_code = 1

    def __init__(self, fault: str, *, hint: str = "") -> None:
        super().__init__(fault)
        self.fault = one_line(fault)
        self.hint = one_line(hint)

    @property
    def told(self) -> str:
        """What a published record may say of it: its own words, unless they name files of the user's."""
        return self.fault

    def __reduce__(self) -> tuple[object, ...]:  # exceptions cross process boundaries
        return (_rebuild, (type(self), self.fault, self.hint))


class UsageError(MorettaError):
    """The call itself is wrong."""

    exit_code = 2


class PoolRejected(UsageError):
    """A folder holds no pool of synthetic faces that fits."""

    @property
    def told(self) -> str:
        """Its own words name a folder of the user's."""
        return "the pool of synthetic faces cannot be used: see --pool"


class PhotoError(MorettaError):
    """One photo cannot be read or written whole."""

    exit_code = 4


class DiskFull(PhotoError):
    """No room left on the output's disk."""


class WeightsRejected(MorettaError):
    """A network's file is missing, altered or of a kind we refuse."""

    exit_code = 2

    @property
    def told(self) -> str:
        """Its own words may name a file of the user's."""
        return "a network's file cannot be used: moretta weights verify says why"


class ManifestError(MorettaError):
    """The record of a run is damaged or belongs to another run."""

    exit_code = 2

    @property
    def told(self) -> str:
        """Its own words name a folder of the user's."""
        return "the record of this run cannot be used"


class ReleaseRefused(MorettaError):
    """Releasing this would break what is promised about it."""

    exit_code = 2


class BudgetSpent(ReleaseRefused):
    """This person's budget does not hold another release."""


NO_LEDGER = "the ledger of budgets cannot be kept: moretta budget show says why"


class LedgerError(MorettaError):
    """The ledger of releases is damaged, newer, locked or cannot be written."""

    exit_code = 2

    @property
    def told(self) -> str:
        """Its own words name a file of the user's."""
        return NO_LEDGER


class KeyRejected(MorettaError):
    """A key file or passphrase is not one that we take."""

    exit_code = 2

    @property
    def told(self) -> str:
        """Its own words name a file of the user's."""
        return (
            "a key or the key table cannot be used: see --key, --to, --passphrase and --key-table"
        )


class CannotOpen(MorettaError):
    """A sidecar does not open: one text for every cryptographic reason."""

    exit_code = 3


class NotAnEnvelope(CannotOpen):
    """A sidecar's form alone says that it cannot be opened; no key was tried."""


class LogBroken(MorettaError):
    """A line of an access log was altered, removed or torn."""

    exit_code = 6


class DeviceError(MorettaError):
    """The device asked for is not there."""

    exit_code = 2


def one_line(text: str) -> str:
    r"""Return `text` with control characters escaped, so that no file name can forge a line.

    >>> one_line("a\nb")
    'a\\nb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def count_of(number: int, one: str, several: str = "") -> str:
    """Return a number and its word, which follows it: `several`, or `one` with an s, unless it is 1.

    >>> count_of(1, "face"), count_of(0, "face"), count_of(1200, "person", "people")
    ('1 face', '0 faces', '1,200 people')
    """
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def nearest(name: str, offered: list[str]) -> str:
    """Return a hint that names what was probably meant, then everything there is.

    >>> nearest("blurr", ["blur", "solid"])
    'did you mean blur? There are: blur, solid'
    """
    from difflib import get_close_matches

    close = get_close_matches(name, offered, n=1, cutoff=0.5)
    return (f"did you mean {close[0]}? " if close else "") + "There are: " + ", ".join(offered)


def _rebuild(kind: type[MorettaError], fault: str, hint: str) -> MorettaError:
    return kind(fault, hint=hint)
