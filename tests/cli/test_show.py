"""The summary of a run: what it names, and that it fits into 80 columns."""

import pytest

from moretta.cli.show import summary_table
from moretta.methods import METHODS, method
from moretta.pipeline.run import Summary


@pytest.mark.parametrize("name", [one for one in METHODS if method(one).spent])
def test_what_was_spent_is_not_broken_at_80_columns(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    spent = {"epsilon": 12345.5, "releases": 12345, "people": 12345, "most_on_one": 12.345}
    softer = {"soft": 123, "softest": 12.3, "faces": 123_456, "others_in_output": 12}
    softer |= {"kept": 12_345, "kept_bare": 12_345, "again": 12_345}
    summary = Summary(output="out", inputs=12_345, published=12_345, spent=spent, **softer)
    summary_table(summary, as_json=False, spent_on=method(name).spent)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) < 80
    assert "epsilon spent: 12345.5 in 12,345 new releases on 12,345 people;" in lines
    assert "most on one in the ledger: 12.345" in lines
    assert set(method(name).spent) <= set(lines)
    assert next(line.split() for line in lines if line.startswith("of these softer"))[-1] == "123"


def test_every_photo_that_was_not_published_is_named(capsys):
    covered = [(f"covered-{i}.jpg", "covered", "1 face, 1 covered by policy") for i in range(50)]
    out = [(f"out-{i}.jpg", "withheld", "no face was found") for i in range(40)]
    broken = [("broken.jpg", "failed", "cut off")]
    summary_table(Summary(output="out", troubles=[*covered, *out, *broken]), as_json=False)
    said = capsys.readouterr().err
    assert all(f" {name}: " in said for name, _, _ in (*out, *broken))
    assert said.count("covered-") == 20
    assert "and 30 more published" in said
