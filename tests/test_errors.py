"""What users read is English where numbers stand in it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import moretta
from moretta import errors

SOURCE = Path(moretta.__file__).parent
WORDS = (
    "answers bytes crops faces files gates heads inputs keys likenesses lines originals outputs "
    "pairs people persons photos recipients releases rows shares sidecars slots"
)
COUNTED = re.compile(rf" (?:[a-z]+ )?(?:{WORDS.replace(' ', '|')})\b(?!/)")
#: A number that is never 1, a text that a ledger's charges are compared by (falco), a verb.
EXCUSED = {
    ("cli/styleid.py", " bytes"),
    ("cli/train.py", " bytes"),
    ("evaluation/pairs.py", " released photos"),
    ("methods/falco.py", " synthetic faces"),
    ("photos/files.py", " bytes"),
    ("pipeline/custody.py", " keys"),
    ("pipeline/options.py", " releases"),
    ("pipeline/persons.py", " inputs"),
    ("pipeline/run.py", " inputs"),
    ("pipeline/run.py", " keeps faces"),
    ("privacy/keys.py", " bytes"),
    ("training/ranking.py", " pairs"),
}


def test_a_number_in_front_of_a_word_is_counted_in_one_place():
    """`count_of` writes "1 face"; an f-string with a number and "faces" would write "1 faces"."""
    seen, wrong = set(), []
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        for text in shown(ast.parse(path.read_text(encoding="utf-8"))):
            for value, after in zip(text.values, text.values[1:], strict=False):
                if not isinstance(value, ast.FormattedValue) or not isinstance(after, ast.Constant):
                    continue
                found = COUNTED.match(str(after.value))
                if found and (name, found[0]) in EXCUSED:
                    seen.add((name, found[0]))
                elif found:
                    wrong.append(f"{name}:{text.lineno}: {ast.unparse(value)}{found[0]}")
    assert not wrong
    assert seen == EXCUSED, "an excuse that nothing needs"


@pytest.mark.parametrize(
    "kind",
    [
        errors.KeyRejected,
        errors.LedgerError,
        errors.ManifestError,
        errors.PoolRejected,
        errors.WeightsRejected,
    ],
)
def test_what_a_published_record_says_names_no_file(kind):
    error = kind("/home/anna-smith/table cannot be read", hint="see /home/anna-smith")
    assert "anna" not in error.told
    assert "anna" in str(error)


def shown(tree: ast.AST) -> list[ast.JoinedStr]:
    """Return the f-strings of a module that users may read: not those of ValueErrors, which are ours."""
    ours = {
        one
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "ValueError"
        for one in ast.walk(call)
    }
    return [one for one in ast.walk(tree) if isinstance(one, ast.JoinedStr) and one not in ours]
