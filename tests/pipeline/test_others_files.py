"""Files that no run of ours wrote are left alone, whatever the options."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest
from PIL import Image

from moretta.errors import ManifestError, UsageError
from moretta.pipeline.options import options
from moretta.pipeline.run import run


def go(source, out, *, seed=1, jobs=1, method="solid", rename=False, **given):
    sources = source if isinstance(source, list) else [source]
    return run(
        sources,
        out,
        options({"seed": seed, "method": method, "rename": rename}),
        jobs=jobs,
        **given,
    )


def age(path):
    os.utime(path, (1_500_000_000, 1_500_000_000))


def test_overwrite_leaves_an_edited_output_and_a_strangers_file(folder, tmp_path, quick):
    source, out = folder(3), tmp_path / "out"
    (source / "p02.png").rename(tmp_path / "later.png")
    go(source, out)
    (out / "p00.png").write_bytes(b"retouched by hand")
    (out / "p02.png").write_bytes(b"mine")
    age(out / "p02.png")
    (tmp_path / "later.png").rename(source / "p02.png")
    summary = go(source, out, method="pixelate", overwrite=True)
    assert (out / "p00.png").read_bytes() == b"retouched by hand"
    assert (out / "p02.png").read_bytes() == b"mine"
    assert (summary.published, summary.failed) == (1, 2)


@pytest.mark.parametrize("rename", [False, True])
def test_a_folder_with_files_of_others_keeps_them_and_says_how_many(
    folder, tmp_path, quick, tree, rename
):
    """Also those with names of sidecars and numbered photos, links, and those in new folders."""
    source, out = folder(2), tmp_path / "out"
    for name in ("notes.txt", "p00.png.ifad", "deep/p00.png", "photo-000009.png"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"mine")
    (out / "link").symlink_to(tmp_path / "nowhere")
    before = tree(out)
    summary = go(source, out, rename=rename)
    after = tree(out)
    assert {name: after.get(name) for name in before} == before
    assert (out / "link").is_symlink()
    assert (summary.published, summary.others_in_output, summary.exit_code) == (2, 5, 0)
    for again in ({"resume": True}, {"overwrite": True}):
        if again.get("resume") and rename:
            continue  # a finished run's names are destroyed
        for name in before:
            age(out / name)
        os.utime(out / "link", (1_500_000_000, 1_500_000_000), follow_symlinks=False)
        summary = go(source, out, rename=rename, **again)
        assert summary.others_in_output == 5
        assert {name: tree(out).get(name) for name in before} == before


def test_an_empty_folder_holds_no_files_of_others(folder, tmp_path, quick):
    (tmp_path / "out").mkdir()
    assert go(folder(1), tmp_path / "out").others_in_output == 0


def test_resume_leaves_a_strangers_file(folder, tmp_path, quick):
    source, out = folder(1), tmp_path / "out"
    go(source, out)
    (source / "c.jpg").write_bytes(b"")
    (out / "c.jpg").write_bytes(b"mine")
    age(out / "c.jpg")
    summary = go(source, out, resume=True)
    assert (out / "c.jpg").read_bytes() == b"mine"
    assert summary.failed == 1


def test_outputs_of_a_run_are_no_inputs_of_the_next(folder, tmp_path, quick):
    source, out = folder(2), tmp_path / "out"
    go(source, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UsageError, match="lies in the output folder"):
        go([str(out / "p00.png")], out, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_foreign_run_file_is_not_removed(folder, tmp_path, quick):
    out = tmp_path / "out"
    out.mkdir()
    (out / "run.json").write_text('{"mine": 1}')
    with pytest.raises(ManifestError, match="not ours"):
        go(folder(1), out, overwrite=True)
    assert (out / "run.json").read_text() == '{"mine": 1}'


def test_a_link_in_the_output_leads_nowhere_else(folder, tmp_path, quick):
    source, out, victim = folder(1, name="in/sub"), tmp_path / "out", tmp_path / "victim"
    victim.mkdir()
    out.mkdir()
    (out / "sub").symlink_to(victim)
    summary = go(tmp_path / "in", out)
    assert summary.failed == 1
    assert "link" in summary.troubles[0][2]
    assert not list(victim.iterdir())
    assert source.exists()


def test_rename_keeps_two_photos_of_one_name_apart(folder, tmp_path, quick):
    first, second = folder(1, name="p"), folder(1, name="q")
    Image.fromarray(np.asarray(Image.open(second / "p00.png"))[::1, ::-1]).save(second / "p00.png")
    out = tmp_path / "out"
    summary = go([str(first / "p00.png"), str(second / "p00.png")], out, rename=True)
    assert summary.published == 2
    contents = {hashlib.sha256(path.read_bytes()).hexdigest() for path in out.glob("photo-*.png")}
    assert len(contents) == 2


def test_detect_keeps_a_list_edited_by_hand_and_foreign_overlays(folder, tmp_path, moretta):
    source, boxes, look = folder(1), tmp_path / "boxes.jsonl", tmp_path / "look"
    boxes.write_text("my edits\n")
    code, _, err = moretta("detect", source, "--json", boxes)
    assert (code, boxes.read_text()) == (2, "my edits\n")
    assert "--overwrite" in err
    look.mkdir()
    (look / "p00.png.png").write_bytes(b"mine")
    code, _, _ = moretta("detect", source, "--overlay", look)
    assert (code, (look / "p00.png.png").read_bytes()) == (2, b"mine")


def test_an_internal_record_is_not_any_json_file(folder, tmp_path, quick):
    package = tmp_path / "package.json"
    package.write_text('{"my": "project"}')
    with pytest.raises(UsageError, match="not an internal record"):
        go(folder(1), tmp_path / "out", internal_record=package)
    assert package.read_text() == '{"my": "project"}'


def test_photos_that_cannot_be_read_fail_by_name(tmp_path, quick):
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.jp2").write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n")
    (source / "notes.txt").write_text("no photo")
    summary = go(source, tmp_path / "out")
    assert (summary.failed, summary.not_photos, summary.exit_code) == (1, 1, 4)
    (source / "a.jp2").unlink()
    with pytest.raises(UsageError, match="no photo in the inputs"):
        go(source, tmp_path / "out2")


def test_no_text_of_an_input_reaches_the_output_folder(folder, tmp_path, quick, tree):
    """Names in a colour profile, in a boxes file and in metadata stay where they are."""
    source, out = folder(1, suffix=".jpg"), tmp_path / "out"
    boxes = tmp_path / "boxes.jsonl"
    boxes.write_text(
        '{"name": "p00.jpg", "width": 160, "height": 160, '
        '"faces": [{"box": [55, 20, 90, 60], "detector": "Jane Secret"}]}\n'
    )
    picture = Image.open(source / "p00.jpg")
    picture.save(source / "p00.jpg", comment=b"Jane Secret")
    go(source, out, boxes=boxes)
    for name, content in tree(out).items():
        assert b"Jane" not in content, name
