"""What lies beside pixels: names in metadata are seen, however the photos were laid in folders."""

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from moretta.evaluation.pairs import Pair
from moretta.evaluation.sidechannels import NAMED, side_channels


@pytest.mark.parametrize(
    ("person", "seen"),
    [
        ("Anna Smith", True),
        ("set/Anna Smith", True),
        ("set/part/anna smith", True),
        ("Anna Smith/01", False),
        ("set/An", False),
        ("set/Berta Smith", False),
    ],
)
def test_a_name_in_metadata_is_seen_in_nested_folders_too(person, seen, tmp_path):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Author", "photo of Anna Smith, 01")
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, pnginfo=notes)
    pair = Pair(name="a.png", person=person, original=path, released=path)
    said = side_channels([pair])
    assert "Author data in 1 released file" in said
    assert any(line.startswith(NAMED) for line in said) == seen
