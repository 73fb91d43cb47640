"""Every command explains itself, with an example, and answers before any network is imported."""

import json
import re
import subprocess
import sys

import pytest

from moretta.methods import METHODS

COMMANDS = [
    [],
    ["anonymize"],
    ["detect"],
    ["evaluate"],
    ["benchmark"],
    ["methods"],
    ["budget"],
    ["budget", "show"],
    ["budget", "export"],
    ["budget", "merge"],
    ["budget", "reset"],
    ["weights"],
    ["weights", "list"],
    ["weights", "verify"],
    ["recover"],
    ["key"],
    *(
        ["key", name]
        for name in ["new", "phrase", "show", "export", "rotate", "shred", "split", "combine"]
    ),
    ["log"],
    ["log", "verify"],
    ["log", "sign"],
    ["doctor"],
    ["demo"],
    ["sample"],
    ["styleid"],
    ["styleid", "rank"],
    ["pool"],
    ["pool", "build"],
]
HEADINGS = (["weights"], ["key"], ["log"], ["styleid"], ["pool"])
HEAVY = ("numpy", "cv2", "onnxruntime", "torch", "PIL", "safetensors", "scipy", "matplotlib")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example(command, moretta):
    code, out, _ = moretta(*command, "--help")
    assert code == 0
    assert "Usage" in out
    if command not in HEADINGS:  # their commands have the examples
        assert " ".join(["Example: moretta", *command]) in " ".join(out.split())


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_mistyped_option_of_any_command_is_told_as_all_faults_are(command, moretta):
    code, out, err = moretta(*command, "--no-such")
    assert (code, out) == (2, "")
    fault, hint = err.splitlines()
    assert fault == "moretta: error: there is no option --no-such"
    assert hint.startswith("moretta: hint: ")
    assert " ".join(["moretta", *command, "--help"]) in hint


def test_mistyped_training_is_told_so_too(monkeypatch, capfd):
    from moretta.cli.train import main

    for words, fault in (
        (["flow", "--no-such"], "there is no option --no-such"),
        (["flow", "--seed", "-1"], "--seed is "),
    ):
        monkeypatch.setattr("sys.argv", ["moretta-train", *words])
        with pytest.raises(SystemExit, match="2"):
            main()
        err = capfd.readouterr().err
        assert err.startswith(f"moretta-train: error: {fault}")
        assert err.count("\n") == 2


def test_the_list_of_commands_is_complete():
    from moretta.cli.main import app

    named = {(c.name,) for c in app.registered_commands}
    for group in app.registered_groups:
        named.add((group.name,))
        for c in group.typer_instance.registered_commands:
            named.add((group.name, c.name or c.callback.__name__))
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
    "arguments",
    [
        ["--help"],
        ["anonymize", "--help"],
        ["evaluate", "--help"],
        ["recover", "--help"],
        ["key", "rotate", "--help"],
        ["--version"],
    ],
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
    assert [row["name"] for row in rows] == list(METHODS)
    for row in rows:
        code, out, _ = moretta("methods", row["name"])
        assert code == 0
        assert "not promised" in out
        assert row["source"].split()[0] in out
    out = " ".join(moretta("methods", "identitydp")[1].split())
    assert "default none, takes none / age / gender / age,gender" in out
    assert "default 0, takes from 0 to 650" in out


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


def test_every_output_has_one_name():
    import typer

    from moretta.cli import main, train

    def walk(command, words):
        for name, one in getattr(command, "commands", {}).items():
            yield from walk(one, [*words, name])
        yield words, [option.opts for option in command.params]

    for app in (main.app, train.app):
        for words, params in walk(typer.main.get_command(app), []):
            for names in params:
                if {"--out", "--output"} & set(names):
                    assert names == ["--output", "-o", "--out"], words


def test_options_of_several_methods_say_each_default_and_choices():
    from moretta.cli.anonymize import _method_options

    def text(name):
        return _method_options()[name].annotation.__metadata__[0].help

    assert "newface: default age,gender, identitydp: default none" in text("match")
    assert "pool | privunit | laplace" in text("mechanism")
    assert "falco: features | farl, styleid: channels | numbers" in text("features")


def test_only_anonymize_reads_the_methods():
    code = (
        "import sys; sys.argv = ['moretta', '--help']\n"
        "from moretta.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert 'moretta.methods' in sys.modules\n"
        "assert not {'pydantic', 'importlib.metadata'} & set(sys.modules)"  # 30 ms, for doctor
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
