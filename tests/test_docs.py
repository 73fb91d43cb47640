"""The documentation is true where a test can tell."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from moretta.methods import METHODS, method
from moretta.pipeline.options import Options, options

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
#: Options on our pages that none of our commands has: the published FALCO's, and a benchmark's.
OF_OTHERS = {"--latent-space", "--lr-milestones", "--some", "--facenet", "--rows", "--wrong-keys"}


def test_the_toml_example_names_every_option_and_is_accepted():
    blocks = re.findall(
        r"```toml\n(.*?)```", (ROOT / "docs/configuration.md").read_text(), re.DOTALL
    )
    examples = [tomllib.loads(block) for block in blocks]
    whole = max(examples, key=len)
    named = set(whole) | set(re.findall(r"^# (\w+) = ", max(blocks, key=len), re.MULTILINE))
    assert {key.replace("-", "_") for key in named} == set(Options.model_fields)
    for example in examples:
        options(example)


def test_the_table_of_settings_is_what_the_code_writes():
    from moretta.cli.methods import settings_table

    text = (ROOT / "docs/configuration.md").read_text()
    written = re.search(r"<!-- settings -->\n(.*?)\n<!-- /settings -->", text, re.DOTALL)
    assert written[1].splitlines() == settings_table().splitlines()
    for name in METHODS:
        for key in method(name).settings.model_fields:
            assert f"| `{name}` | `{key}` |" in written[1]


def test_the_toml_example_names_every_method_and_those_with_a_scale():
    lines = (ROOT / "docs/configuration.md").read_text().splitlines()
    (what,) = (line for line in lines if line.startswith("# what is done to each face: "))
    assert what.partition(": ")[2].split(", ") == list(METHODS)
    (scale,) = (line for line in lines if line.startswith("# 0..1, for methods that have a scale"))
    scaled = [name for name in METHODS if method(name).strength]
    assert scale.partition("(")[2].partition(";")[0].split(", ") == scaled


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_there_are_pages():
    assert len(PAGES) >= 15


def test_every_schema_key_is_documented():
    from dataclasses import fields

    from moretta.records import FaceRecord, PhotoRecord

    text = (ROOT / "docs/manifest.md").read_text()
    for kind in (PhotoRecord, FaceRecord):
        for one in fields(kind):
            assert f"`{one.name}`" in text, f"{kind.__name__}.{one.name}"


def test_every_method_has_its_page_in_the_command():
    for name in METHODS:
        assert method(name).summary
        assert name in (ROOT / "README.md").read_text()


def test_no_word_that_promises_too_much():
    for page in PAGES:
        for word in (
            "GDPR-compliant",
            "fully anonymous",
            "100 % anonymous",
            "guaranteed anonymous",
        ):
            assert word not in page.read_text(), page


def test_how_weights_were_made_names_options_as_the_commands_do():
    import inspect
    from importlib import import_module

    from typer.main import get_command

    from moretta.cli import main, train
    from moretta.weights import load

    apps = {"moretta": get_command(main.app), "moretta-train": get_command(train.app)}
    checked = 0
    for entry in load.catalogue().values():
        words = entry.conversion.partition(":")[0].split()
        if words[:2] == ["python", "-m"]:
            offered = re.findall(r'"(--\w+)"', inspect.getsource(import_module(words[2])))
        else:
            command = apps[words[0]]
            for word in words[1:]:
                if word in getattr(command, "commands", {}):
                    command = command.commands[word]
            offered = [one.opts[0] for one in command.params]
        used = [word for word in words if word.startswith("--")]
        assert set(used) <= set(offered), entry.name
        checked += len(used)
    assert checked >= 7


def test_pages_name_options_that_some_command_has():
    import typer
    from typer.main import get_command

    from moretta.cli import main, train

    def offered(command, context):
        found = {"--help"}
        for one in command.get_params(context):
            found |= {*one.opts, *one.secondary_opts}
        for inner in getattr(command, "commands", {}).values():
            found |= offered(inner, typer.Context(inner, parent=context))
        return found

    known = set()
    for app in (main.app, train.app):
        command = get_command(app)
        known |= offered(command, typer.Context(command))
    checked = 0
    for page in PAGES:
        if page.name == "CHANGELOG.md":  # it may name what is gone
            continue
        for span in re.findall(r"`([^`\n]+)`", page.read_text()):
            words = span.split()
            if words[0].startswith("--") or words[0] in ("moretta", "moretta-train"):
                used = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
                assert used <= known | OF_OTHERS, f"{page}: {span}"
                checked += len(used)
    assert checked > 300


def test_the_tests_that_modules_name_are_there():
    named = [
        (source.name, test)
        for source in (ROOT / "src").rglob("*.py")
        for test in re.findall(r"tests/[\w/]+\.py", source.read_text())
    ]
    assert len(named) > 40
    assert [one for one in named if not (ROOT / one[1]).exists()] == []


def test_the_page_of_rooms_names_what_is_in_them():
    block = re.search(
        r"```\nsrc/moretta/\n(.*?)```", (ROOT / "docs/architecture.md").read_text(), re.DOTALL
    )
    rooms = re.split(r"^  (?=\S)", block[1], flags=re.MULTILINE)
    said = {room.split()[0]: set(re.findall(r"\w+", room)) for room in rooms if room.strip()}
    package = ROOT / "src/moretta"
    for room in sorted(path.parent.name for path in package.glob("*/__init__.py")):
        words = said[f"{room}/"]
        if room == "cli":  # one file a command
            continue
        here = {one.stem for one in (package / room).iterdir() if one.suffix == ".py"}
        here |= {one.parent.name for one in (package / room).glob("*/__init__.py")}
        assert {name for name in here if not name.startswith("_")} <= words, room


def test_every_network_that_ships_is_on_its_pages():
    from moretta.weights.load import catalogue

    networks = (ROOT / "docs/networks.md").read_text()
    shipping, _, others = networks.partition("do not ship")
    licences = (ROOT / "src/moretta/weights/bundled/LICENSES.md").read_text()
    for name, entry in catalogue().items():
        assert re.search(
            rf"^\|.*`{name}`.*\|", shipping if entry.ships else others, re.MULTILINE
        ), name
        if entry.ships:
            assert f"| `{entry.file}` |" in licences


def test_tables_have_no_blank_line_within():
    for page in PAGES:
        for row, ruled in re.findall(
            r"^\|[^\n]*\|\n\n(\|[^\n]*)\n([^\n]*)", page.read_text(), re.MULTILINE
        ):
            assert re.match(r"\|[-:| ]+\|$", ruled), f"{page.name}: {row[:60]}"


def test_the_page_of_run_json_names_what_a_run_adds():
    page = (ROOT / "docs/manifest.md").read_text()
    source = (ROOT / "src/moretta/pipeline/run.py").read_text()
    added = set(re.findall(r"settings\[\"(\w+)\"\] = ", source))
    assert added == {"persons", "settings", "keys", "boxes_sha256"}
    for key in ("keys", "boxes_sha256"):
        assert f"| `settings.{key}` |" in page
