"""Which files are inputs, and what their outputs are called."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moretta.errors import ManifestError, UsageError
from moretta.photos.manifest import NAMES
from moretta.photos.photo import EXTENSION, SUFFIXES
from moretta.pipeline.inputs import listed, renamed

JPEG = b"\xff\xd8\xff\xe0" + bytes(60)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(60)


@pytest.fixture
def make(tmp_path):
    """Make files: (name=content ...) -> their folder."""

    def write(files, root="in"):
        for name, content in files.items():
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return tmp_path / root

    return write


def outputs(items):
    return {item.name: item.output for item in items if item.photo and not item.fault}


def faults(items):
    return {item.name: item.fault for item in items if item.fault}


def test_a_folder_is_mirrored(make, tmp_path):
    source = make({"a.jpg": JPEG, "x/b.png": PNG, "x/y/c.JPG": JPEG, "x/notes.txt": b"hello"})
    items = listed([source], tmp_path / "out")
    assert outputs(items) == {"a.jpg": "a.jpg", "x/b.png": "x/b.png", "x/y/c.JPG": "x/y/c.JPG"}
    assert [item.name for item in items if not item.photo] == ["x/notes.txt"]
    assert [item.name for item in items] == sorted(item.name for item in items)


def test_several_inputs_keep_their_folders_apart(make, tmp_path):
    one, two = make({"a.jpg": JPEG}, "one"), make({"a.jpg": JPEG}, "two")
    single = make({"b.png": PNG}, "three") / "b.png"
    items = listed([one, two, single], tmp_path / "out")
    assert set(outputs(items).values()) == {"one/a.jpg", "two/a.jpg", "b.png"}


def test_folders_of_one_name_meet_and_are_refused(make, tmp_path):
    sources = [make({"p/a.jpg": JPEG}, "one") / "p", make({"p/a.jpg": JPEG}, "two") / "p"]
    items = listed(sources, tmp_path / "out")
    assert not outputs(items)
    assert all(
        "another input would also be written as p/a.jpg" in f for f in faults(items).values()
    )
    assert len(items) == 2


def test_globs(make, tmp_path, monkeypatch):
    make({"a.jpg": JPEG, "b.png": PNG, "x/c.jpg": JPEG})
    monkeypatch.chdir(tmp_path)
    assert outputs(listed(["in/*.jpg"], Path("out"))) == {"a.jpg": "a.jpg"}
    both = listed(["in/**/*.jpg"], Path("out"))
    assert outputs(both) == {"a.jpg": "a.jpg", "c.jpg": "c.jpg"}
    with pytest.raises(UsageError, match="no file or folder"):
        listed(["in/*.gif"], Path("out"))


def test_a_name_with_signs_of_globs_is_a_name_first(make, tmp_path, monkeypatch):
    make({"a[1].jpg": JPEG, "a1.jpg": JPEG, "what?.jpg": JPEG})
    monkeypatch.chdir(tmp_path)
    assert outputs(listed(["in/a[1].jpg"], Path("out"))) == {"a[1].jpg": "a[1].jpg"}
    assert outputs(listed(["in/what?.jpg"], Path("out"))) == {"what?.jpg": "what?.jpg"}


def test_a_file_named_twice_is_one_input(make, tmp_path):
    source = make({"a.jpg": JPEG})
    items = listed([source / "a.jpg", source, source / "." / "a.jpg"], tmp_path / "out")
    assert len(items) == 1


def test_collisions_are_refused_and_neutral_names_solve_them(make, tmp_path):
    source = make({"a.jpg": JPEG, "a": JPEG, "A.JPG": JPEG, "b.png": JPEG, "c.jpg": JPEG})
    items = listed([source], tmp_path / "out")
    assert outputs(items) == {"b.png": "b.jpg", "c.jpg": "c.jpg"}
    assert set(faults(items)) == {"a.jpg", "a", "A.JPG"}
    assert not faults(listed([source], tmp_path / "out", rename=True))


@pytest.mark.parametrize("output", ["in", "in/out", "in/x/../y", "link/out"])
def test_an_output_inside_an_input_is_refused(output, make, tmp_path):
    source = make({"a.jpg": JPEG, "x/b.jpg": JPEG})
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(UsageError, match="lies inside the input"):
        listed([source], tmp_path / output)


def test_an_input_inside_the_output_is_not_replaced(make, tmp_path):
    source = make({"a.jpg": JPEG})
    items = listed([source / "a.jpg"], source)
    assert faults(items) == {"a.jpg": "its output would replace an input; choose another --output"}


def test_an_output_that_is_a_link_to_an_input_is_not_written_through(make, tmp_path):
    source = make({"a.jpg": JPEG})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.jpg").symlink_to(source / "a.jpg")
    assert set(faults(listed([source], tmp_path / "out"))) == {"a.jpg"}


def test_links(make, tmp_path):
    source = make({"a.jpg": JPEG, "x/b.jpg": JPEG})
    make({"far.jpg": JPEG}, "far")
    (source / "broken.jpg").symlink_to("nowhere.jpg")
    (source / "circle").symlink_to("circle")
    (source / "far").symlink_to(tmp_path / "far")
    (source / "far.jpg").symlink_to(tmp_path / "far" / "far.jpg")
    (source / "near.jpg").symlink_to("x/b.jpg")
    (source / "x" / "up").symlink_to(source)
    items = listed([source], tmp_path / "out")
    assert set(outputs(items)) == {"a.jpg", "near.jpg", "x/b.jpg"}
    assert {item.name for item in items if item.outside} == {"far", "far.jpg"}
    named = listed([source, tmp_path / "far"], tmp_path / "out")  # what is an input itself is in
    assert not any(item.outside for item in named)
    nowhere = "a link that leads nowhere, or in a circle"
    assert faults(items) == {
        "broken.jpg": nowhere,
        "circle": nowhere,
        "x/up": "a link back to a folder already read",
    }


def test_a_folder_that_cannot_be_read_is_a_fault(make, tmp_path, monkeypatch):
    source = make({"a.jpg": JPEG, "x/b.jpg": JPEG})
    real = os.scandir

    def scandir(path):
        if str(path).endswith("x"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    items = listed([source], tmp_path / "out")
    assert faults(items) == {"x": "folder cannot be read: Permission denied"}
    assert set(outputs(items)) == {"a.jpg"}


def test_a_pipe_is_not_waited_for(make, tmp_path):
    source = make({"a.jpg": JPEG})
    os.mkfifo(source / "pipe.jpg")
    os.mkfifo(source / "pipe")
    items = listed([source], tmp_path / "out")
    assert faults(items)["pipe.jpg"] == "not a regular file"


def test_our_own_files_and_shadows_are_no_inputs(make, tmp_path):
    source = make({"manifest.jsonl": b"{}", "run.json": b"{}", "._a.jpg": b"\0", "a.jpg": JPEG})
    items = listed([source], tmp_path / "out")
    assert [item.name for item in items if item.photo] == ["a.jpg"]
    assert len(items) == 4, "the others are counted"


def test_our_own_names_are_no_outputs(make, tmp_path):
    source = make({".moretta-part-1.jpg": JPEG})
    assert "our own files" in faults(listed([source], tmp_path / "out"))[".moretta-part-1.jpg"]


CONTENT = {"jpeg": JPEG, "png": PNG}
stem = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12
).filter(lambda name: name.strip(".") and not name.startswith("._"))


@given(
    stem=stem,
    suffix=st.sampled_from(["", ".x", *SUFFIXES, ".JPG", ".Png"]),
    content=st.sampled_from(sorted(CONTENT)),
    wanted=st.none() | st.sampled_from(sorted(EXTENSION)),
)
def test_an_output_has_a_true_suffix_and_stays_beside(
    tmp_path_factory, stem, suffix, content, wanted
):
    """The output's suffix says its format, its folder is the input's, and its stem is kept."""
    source = tmp_path_factory.mktemp("in")
    name = stem + suffix
    (source / "sub").mkdir()
    (source / "sub" / name).write_bytes(CONTENT[content])
    (item,) = listed([source], source.parent / "out", container=wanted)
    assert not item.fault
    folder, _, output = item.output.rpartition("/")
    assert folder == "sub"
    assert SUFFIXES[os.path.splitext(output)[1].lower()] == (wanted or content)  # noqa: PTH122
    assert output.startswith(stem) or name.lower().endswith(tuple(SUFFIXES))
    if SUFFIXES.get(suffix.lower()) == (wanted or content):
        assert output == name


def test_neutral_names_are_kept_when_photos_are_added(make, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    source = make({f"{i}.jpg": JPEG for i in range(5)})
    first = outputs(renamed(listed([source], out, rename=True), out))
    make({"new.png": PNG})
    again = outputs(renamed(listed([source], out, rename=True), out))
    assert {name: again[name] for name in first} == first
    assert len(set(again.values())) == 6
    assert again["new.png"].endswith(".png")
    assert all(name.startswith("photo-") for name in again.values())


def test_the_list_of_names_is_for_one_reader(make, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    renamed(listed([make({"a.jpg": JPEG})], out, rename=True), out)
    assert stat.S_IMODE((out / NAMES).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"3",
        b"\xff",
        b'{"a": 3}',
        b'{"a": "../x"}',
        b'{"a": "photo-000001", "b": "photo-000001"}',
    ],
)
def test_a_damaged_list_of_names_is_refused(make, tmp_path, content):
    out = tmp_path / "out"
    out.mkdir()
    (out / NAMES).write_bytes(content)
    with pytest.raises(ManifestError, match="damaged") as caught:
        renamed(listed([make({"a.jpg": JPEG})], out, rename=True), out)
    assert "--overwrite" in caught.value.hint
    assert (out / NAMES).read_bytes() == content


def test_a_neutral_name_keeps_no_part_of_a_name(make, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    source = make({"x": JPEG})
    (source / "visit.schmidt").symlink_to("nowhere")
    (source / "a.b.jpg.otto").write_bytes(JPEG)
    items = renamed(listed([source], out, rename=True), out)
    suffixes = {Path(item.output).suffix for item in items}
    assert suffixes == {"", ".jpg"}
