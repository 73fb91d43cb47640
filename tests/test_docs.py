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
