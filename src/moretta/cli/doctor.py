"""`moretta doctor`: versions, devices, weights, and one photo through the whole pipeline."""

from __future__ import annotations

import typer

PACKAGES = (
    "numpy",
    "pillow",
    "opencv-python-headless",
    "onnxruntime",
    "typer",
    "pydantic",
    "cryptography",
    "pillow-heif",
    "torch",
    "safetensors",
)


def command() -> None:
    """Check the installation. Exit code 0 when everything needed works.

    Example: [bold]moretta doctor[/bold]
    """
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from moretta import __version__

    print(f"moretta {__version__}, Python {platform.python_version()}, {platform.platform()}")  # noqa: T201
    for name in PACKAGES:
        try:
            print(f"  {name} {version(name)}")  # noqa: T201
        except PackageNotFoundError:
            print(f"  {name}: not installed{_meaning(name)}")  # noqa: T201
    import onnxruntime
    from PIL import features

    print(f"devices: {', '.join(onnxruntime.get_available_providers())}")  # noqa: T201
    avif = "yes" if features.check("avif") else "no"
    print(f"AVIF: {avif}; WebP: {'yes' if features.check('webp') else 'no'}")  # noqa: T201
    from moretta.weights import load

    good = True
    for one, fine, reason in load.verify():
        good &= fine
        print(f"weights {one.name}: {'unaltered' if fine else reason}")  # noqa: T201
    if good:
        good = _self_test()
    print("ready" if good else "not ready")  # noqa: T201
    raise typer.Exit(0 if good else 1)


def _meaning(name: str) -> str:
    return {
        "pillow-heif": ' (HEIC photos: pip install "moretta[heic]")',
        "torch": ' (generative methods: pip install "moretta[generative]")',
        "safetensors": ' (generative methods: pip install "moretta[generative]")',
    }.get(name, "")


def _self_test() -> bool:
    """Protect the photo that ships with the package; its one face must be found and changed."""
    from moretta.api import Anonymizer
    from moretta.cli.demo import photo

    rgb, record = Anonymizer().image(photo())
    good = record.decision == "published" and len(record.faces) == 1
    print(f"self-test: {'passed' if good else 'failed'}: {record.reason}")  # noqa: T201
    return good and bool((rgb != photo()).any())
