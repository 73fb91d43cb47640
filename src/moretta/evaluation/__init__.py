"""How private and how useful two folders of photos are: attackers, metrics, gates, report.

It judges pictures, never methods: the output of any tool is measured in the same way, and nothing
here may import `moretta.methods` (import-linter holds that).

pairs.py         two folders and who is on each photo; the only file here that reads photos
splits.py        people into attacker training T, validation V, evaluation E
faces.py         landmarks, alignments, the coverage ledger
embed.py         recognisers and the cache of their vectors
ranking.py       top-k with ties, at N people
verification.py  thresholds, error rates, linkability
intervals.py     intervals over people
attackers/       one file each, one line in the list
ladder.py        every attacker: chosen on V, scored once on E
utility.py       what the released photos are still good for
protocol.py      one evaluation from beginning to end
gates.py         tests of the evaluation itself
report/          schema, figures, page
"""

from __future__ import annotations

from importlib.util import find_spec

from moretta.errors import UsageError

EXTRA = ("scipy", "sklearn", "threadpoolctl", "matplotlib", "jinja2")


def require_extra() -> None:
    """Raise UsageError when a package of the extra `evaluate` is not installed."""
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"the evaluation needs {', '.join(missing)}", hint='pip install "moretta[evaluate]"'
        )
