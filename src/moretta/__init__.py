"""Moretta replaces faces in photos, keeps what the photos are used for, and measures both.

>>> import moretta
>>> protected, record = moretta.anonymize_image(rgb, method="pixelate")  # doctest: +SKIP
>>> summary = moretta.Anonymizer(method="solid").run("photos", "protected")  # doctest: +SKIP
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# onnxruntime would send events about each process, with the path of Python in them, to its maker
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = [
    "Anonymizer",
    "MorettaError",
    "PhotoRecord",
    "Summary",
    "__version__",
    "anonymize_image",
    "find_faces",
]

if TYPE_CHECKING:
    from moretta.api import Anonymizer, anonymize_image, find_faces
    from moretta.errors import MorettaError
    from moretta.pipeline.run import Summary
    from moretta.records import PhotoRecord

_HOMES = {
    "Anonymizer": "moretta.api",
    "anonymize_image": "moretta.api",
    "find_faces": "moretta.api",
    "MorettaError": "moretta.errors",
    "PhotoRecord": "moretta.records",
    "Summary": "moretta.pipeline.run",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `moretta --help` answers at once."""
    if name not in _HOMES:
        raise AttributeError(f"module 'moretta' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
