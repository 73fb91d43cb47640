"""What a run is told, and what is said of it before it begins."""

import json

import pytest

from moretta.errors import UsageError
from moretta.methods import from_words, method, settings
from moretta.pipeline.options import from_toml, options, weaker


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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('rename = "yes"', "rename is 'yes': input should be a valid boolean"),
        ("rename = 1", "rename is 1: input should be a valid boolean"),
        ("seed = true", "seed is True: input should be a valid integer"),
        ("seed = 1.0", "seed is 1.0: input should be a valid integer"),
        ("min-face = true", "min-face is True: input should be a valid number"),
        ('quality = "90"', "quality is '90': input should be a valid integer"),
        (
            'method = "pixelate"\nstrength = "0.5"',
            "strength is '0.5': input should be a valid number or 'auto'",
        ),
        ("audit-far = 0.01", "audit-far is 0.01: input should be '1e-2', '1e-3' or '1e-4'"),
        ("detector = [1]", "detector is 1: input should be a valid string"),
        (
            'method = "falco"\nsettings.steps = "5"',
            "falco: steps is '5': input should be a valid int",
        ),
        (
            'method = "falco"\nsettings.steps = true',
            "falco: steps is True: input should be a valid",
        ),
        (
            'method = "falco"\nsettings.compat = "no"',
            "falco: compat is 'no': input should be a valid bo",
        ),
        (
            'method = "falco"\nsettings.unique = true',
            "falco: unique is True: input should be 'yes' or",
        ),
        (
            'method = "falco"\nsettings.target = "0"',
            "falco: target is '0': input should be a valid number or 'impostor'",
        ),
        (
            'method = "identitydp"\nsettings.cap = "9"',
            "identitydp: cap is '9': input should be a valid",
        ),
        (
            'method = "solid"\nsettings.colour = 0',
            "solid: colour is 0: input should be a valid string",
        ),
    ],
)
def test_a_value_of_another_type_is_refused_by_name_with_what_is_expected(tmp_path, text, said):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        options(from_toml(path))
    assert caught.value.fault.startswith(said)


def test_whole_numbers_are_numbers_and_lists_of_toml_are_lists(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(
        'method = "falco"\nmin-face = 20\nstrength = 1\ndetector = ["yunet", "centerface"]\n'
        'persons = "folders"\n[settings]\ndonor_epsilon = 2\nsteps = 3\n'
    )
    made = options(from_toml(path))
    assert (made.min_face, made.strength) == (20, 1)
    assert made.detector == ("yunet", "centerface")


@pytest.mark.parametrize(
    ("name", "words", "made"),
    [
        ("falco", {"target": "0.25", "steps": "7"}, {"target": 0.25, "steps": 7}),
        ("falco", {"target": "impostor", "compat": "yes"}, {"target": "impostor", "compat": True}),
        ("falco", {"donor_epsilon": "1"}, {"donor_epsilon": 1.0}),
        ("falco", {"pool": "12", "unique": "no"}, {"pool": "12", "unique": "no"}),
        ("blur", {"sigma": "0.5"}, {"sigma": 0.5}),
    ],
)
def test_a_command_line_has_words_for_numbers(name, words, made):
    read = from_words(method(name), words)
    assert read == made
    own = settings(method(name), read)
    assert all(getattr(own, key) == value for key, value in made.items())


def test_words_that_are_no_numbers_are_refused_by_name():
    read = from_words(method("falco"), {"target": "far", "steps": "7.5", "stpes": "7"})
    assert read == {"target": "far", "steps": "7.5", "stpes": "7"}
    with pytest.raises(UsageError, match="target is 'far'"):
        settings(method("falco"), {"target": read["target"]})
