"""Every command explains itself, with an example, and answers before any network is imported."""

import json
import re
import subprocess
import sys

import pytest

COMMANDS = [
    [],
    ["anonymize"],
    ["detect"],
    ["evaluate"],
    ["benchmark"],
    ["methods"],
    ["weights"],
    ["weights", "list"],
    ["weights", "verify"],
    ["doctor"],
    ["demo"],
    ["sample"],
    ["styleid"],
    ["styleid", "rank"],
]
HEAVY = ("numpy", "cv2", "onnxruntime", "torch", "PIL", "safetensors", "scipy", "matplotlib")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example(command, moretta):
    code, out, _ = moretta(*command, "--help")
    assert code == 0
    assert "Usage" in out
    if command not in (["weights"], ["styleid"]):  # a heading: its commands have the examples
        assert " ".join(["Example: moretta", *command]) in " ".join(out.split())


def test_the_list_of_commands_is_complete():
    from moretta.cli.main import app
    from moretta.cli.styleid import app as styleid
    from moretta.cli.weights import app as weights

    named = {(c.name,) for c in app.registered_commands} | {("weights",), ("styleid",)}
    named |= {("styleid", c.name or c.callback.__name__) for c in styleid.registered_commands}
    named |= {("weights", c.name or c.callback.__name__) for c in weights.registered_commands}
    assert named == {tuple(command) for command in COMMANDS if command}


def test_examples_parse(moretta):
    """Every example's options exist: it gets as far as its input, which is not there."""
    checked = 0
    for command in (["anonymize"], ["detect"]):
        _, out, _ = moretta(*command, "--help")
        example = re.search(r"Example: moretta (.*?)(?: {2,}|\n\s*\n|╭)", out, re.DOTALL)
        code, _, err = moretta(*example[1].replace("photos", "no-such-folder").split())
        assert code == 2
        assert "there is no file or folder no-such-folder" in err
        checked += 1
    assert checked == 2


@pytest.mark.parametrize(
    "arguments", [["--help"], ["anonymize", "--help"], ["evaluate", "--help"], ["--version"]]
)
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys, json\n"
        f"sys.argv = ['moretta', *{arguments!r}]\n"
        "from moretta.cli.main import main\n"
        "try:\n    main()\n"
        "except SystemExit as ended:\n    assert not ended.code, ended.code\n"
        f"print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]), file=sys.stderr)"
    )
    called = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert json.loads(called.stderr) == []


def test_no_arguments_show_the_help(moretta):
    _, out, err = moretta()
    assert "Commands" in out + err


def test_methods_in_full_and_as_json(moretta):
    code, out, _ = moretta("methods", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["name"] for row in rows] == ["solid", "pixelate", "blur", "newface", "styleid"]
    for row in rows:
        code, out, _ = moretta("methods", row["name"])
        assert code == 0
        assert "not promised" in out
        assert row["source"].split()[0] in out


def test_weights_are_listed(moretta):
    code, out, _ = moretta("weights", "list", "--json")
    rows = json.loads(out)
    assert code == 0
    assert {"yunet", "centerface", "sface"} <= {row["name"] for row in rows}
    assert all(len(row["sha256"]) == 64 and row["licence"] for row in rows)
    assert moretta("weights", "list")[0] == 0
    assert moretta("weights", "verify")[0] == 0


def test_doctor_is_ready(moretta):
    code, out, _ = moretta("doctor")
    assert code == 0
    assert out.rstrip().endswith("ready")
    assert "self-test: passed" in out


def test_demo_says_where_the_picture_lies(tmp_path, moretta):
    code, out, _ = moretta("demo", "--output", tmp_path / "look", "--method", "solid")
    assert code == 0
    assert str(tmp_path / "look" / "before-after.png") in out
    assert (tmp_path / "look" / "before-after.png").exists()


def test_a_closed_pipe_is_no_fault():
    line = f"{sys.executable} -m moretta methods --json | head -c 5; exit ${{PIPESTATUS[0]}}"
    called = subprocess.run(
        ["bash", "-c", line], check=False, capture_output=True, text=True, timeout=60
    )
    assert called.returncode in (0, 1)
    assert "Traceback" not in called.stderr


def test_interrupted_before_the_run(moretta, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("moretta.pipeline.run.listed", interrupted)
    assert moretta("anonymize", tmp_path, "-o", tmp_path / "out")[0] == 130
