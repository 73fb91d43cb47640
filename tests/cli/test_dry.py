"""`moretta anonymize --dry-run`: it refuses what the run refuses, in the same words, and writes nothing."""

import json
from types import SimpleNamespace

import pytest

from moretta.pipeline import budget

SAME = ("--seed", "1")


def without(tmp_path, folder, moretta):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("none")
    return tmp_path / "empty", ()


def internal_in_output(tmp_path, folder, moretta):
    return folder(1), ("--internal-record", tmp_path / "out" / "links.jsonl")


def internal_that_is_none(tmp_path, folder, moretta):
    (tmp_path / "mine.txt").write_text("mine")
    return folder(1), ("--internal-record", tmp_path / "mine.txt")


def internal_below_a_file(tmp_path, folder, moretta):
    (tmp_path / "mine.txt").write_text("mine")
    return folder(1), ("--internal-record", tmp_path / "mine.txt" / "links.jsonl")


def ledger_in_output(tmp_path, folder, moretta):
    counted = ("--method", "identitydp", "--epsilon", "1")
    return folder(1), (*counted, "--ledger", tmp_path / "out" / "l.sqlite")


def ledger_without_key(tmp_path, folder, moretta):
    budget.opened(tmp_path / "l.sqlite").close()
    (tmp_path / "l.sqlite.key").unlink()
    counted = ("--method", "identitydp", "--epsilon", "1")
    return folder(1), (*counted, "--ledger", tmp_path / "l.sqlite")


def output_is_a_file(tmp_path, folder, moretta):
    (tmp_path / "out").write_text("mine")
    return folder(1), ()


def output_below_a_file(tmp_path, folder, moretta):
    (tmp_path / "file").write_text("mine")
    return folder(1), ("-o", tmp_path / "file" / "out")


def earlier_run(tmp_path, folder, moretta):
    assert moretta("anonymize", folder(1), "-o", tmp_path / "out")[0] == 0
    return folder(1), ()


def earlier_run_with_other_settings(tmp_path, folder, moretta):
    assert moretta("anonymize", folder(1), "-o", tmp_path / "out", *SAME)[0] == 0
    return folder(1), ("--resume", "--seed", "2")


def damaged_manifest(tmp_path, folder, moretta):
    assert moretta("anonymize", folder(1), "-o", tmp_path / "out")[0] == 0
    (tmp_path / "out" / "manifest.jsonl").write_text("{}\n")
    return folder(1), ("--resume",)


def finished_run_with_neutral_names(tmp_path, folder, moretta):
    words = ("anonymize", folder(1), "-o", tmp_path / "out", "--rename")
    assert moretta(*words)[0] == 0
    return folder(1), ("--rename", "--resume")


def finished_run_with_persons(tmp_path, folder, moretta):
    pytest.importorskip("torch")
    more = ("--method", "newface", "--identity", "per-run")
    assert moretta("anonymize", folder(1), "-o", tmp_path / "out", *more)[0] in (0, 3)
    return folder(1), (*more, "--resume")


@pytest.mark.parametrize(
    ("begin", "said"),
    [
        (without, "there is no photo in the inputs"),
        (internal_in_output, "would lie in the output folder"),
        (internal_that_is_none, "is not an internal record"),
        (internal_below_a_file, "mine.txt cannot be made: File exists"),
        (ledger_in_output, "would lie in the output folder"),
        (ledger_without_key, "without its key"),
        (output_is_a_file, "cannot be made: File exists"),
        (output_below_a_file, "cannot be made: Not a directory"),
        (earlier_run, "holds an earlier run"),
        (earlier_run_with_other_settings, "seed was 1, is 2"),
        (damaged_manifest, "line 1 is damaged"),
        (finished_run_with_persons, "new faces came from was destroyed"),
        (finished_run_with_neutral_names, "whose list of names was destroyed"),
    ],
)
def test_a_dry_run_refuses_what_the_run_refuses(
    begin, said, moretta, folder, tmp_path, tree, quick, monkeypatch
):
    monkeypatch.setattr("moretta.pipeline.protect.Protector", quick)
    source, more = begin(tmp_path, folder, moretta)
    output = () if "-o" in more else ("-o", tmp_path / "out")
    words = ("anonymize", source, *output, *more)
    before = tree(tmp_path)
    dry_code, out, dry = moretta(*words, "--dry-run")
    assert tree(tmp_path) == before
    code, _, err = moretta(*words)
    assert code == 2
    assert said in err
    assert (dry_code, dry) == (code, err)
    assert out == ""


def test_a_dry_run_of_a_resumed_run_is_ready(moretta, folder, tmp_path, tree, quick):
    words = ("anonymize", folder(2), "-o", tmp_path / "out")
    assert moretta(*words)[0] == 0
    before = tree(tmp_path)
    for more in ("--resume", "--overwrite"):
        code, out, _ = moretta(*words, more, "--dry-run", "--json")
        assert (code, json.loads(out)["ready"]) == (0, True)
    assert tree(tmp_path) == before


def test_a_full_disk_is_not_ready(moretta, folder, tmp_path, monkeypatch, quick):
    words = ("anonymize", folder(1), "-o", tmp_path / "out")
    assert moretta(*words)[0] == 0
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10_000))
    code, out, _ = moretta(*words, "--overwrite", "--dry-run", "--json")
    assert (code, json.loads(out)["ready"]) == (4, False)
    code, out, _ = moretta(*words, "--overwrite", "--dry-run")
    assert code == 4
    assert "not ready: the photos take" in out
    assert moretta(*words, "--resume", "--dry-run")[0] == 0  # what is done takes no room
