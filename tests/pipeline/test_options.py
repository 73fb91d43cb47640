"""What a run is told, and what is said of it before it begins."""

import json

import pytest

from moretta.pipeline.options import options, weaker


@pytest.mark.parametrize(("far", "said"), [("1e-2", 0), ("1e-3", 0), ("1e-4", 1)])
@pytest.mark.parametrize("method", ["newface", "solid"])
def test_only_a_judge_laxer_than_the_default_is_warned_of(method, far, said):
    lines = weaker(options({"method": method, "audit_far": far}))
    assert len(lines) == said
    for line in lines:
        assert line.startswith(f"--audit-far {far}: a laxer judge than the default 1e-3")
        assert "cosine of 0.42 with the old ones instead of 0.36" in line


def test_what_is_weak_is_said_in_a_line_each_and_in_the_summary(moretta, tmp_path, put, portrait):
    put(tmp_path / "in" / "a.png", portrait)
    words = ("--method", "blur", "--strength", "0", "--audit-far", "1e-4", "--json")
    _, out, err = moretta("anonymize", tmp_path / "in", "--output", tmp_path / "out", *words)
    warned = [row for row in err.splitlines() if row.startswith("moretta: warning: ")]
    assert [row.split()[2] for row in warned] == ["blur,", "--audit-far"]
    weak = json.loads(out)["weak"]
    assert all(row.removeprefix("moretta: warning: ") in weak for row in warned)
