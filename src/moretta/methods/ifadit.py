"""iFADIT: a pseudonym that a key makes, drawn into the surroundings of the old face.

The identity of the face, a unit vector, is turned by a rotation that comes from the face's own secret,
and drawn as `newface` draws. Whoever holds the key can turn back what is read from the picture: a
likeness (pipeline/recovery.py). Only the envelope brings back the original.

Assumes   `crop.secret`: 32 bytes, this face's own. Without them nothing is drawn.
Not here  keys, envelopes, scopes. The published system's learnt flow is a baseline: networks/flow.py.
Sources   Yuan et al. 2025 (iFADIT, arXiv 2501.04390), with the rotation of our facts, 5.2 and 5.5, in
          place of its flow.
Checked   tests/contracts; tests/methods/test_ifadit.py; measured in docs/ifadit.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from moretta.errors import UsageError, count_of
from moretta.records import Crop, Edited, FaceEdit, Method, Settings
from moretta.weights.backends import MASK_FEATHER, MASK_SCALE, NETWORKS, SIDE

if TYPE_CHECKING:
    import torch

    from moretta.privacy.rotation import Vectors

    Turn = Callable[[Sequence[bytes], Vectors], Vectors]

SECRET_BYTES = 32


class Ifadit(Settings):
    """Options of `ifadit`."""

    match: Literal["none", "age", "gender", "age,gender"] = Field(
        "none",
        description="what the pseudonym has in common with the face, as it appears. none: nothing of the"
        " identity. Else one (gender), two (age) or three of its 48 numbers stay, readable without a key",
    )
    pseudonym: Literal["rotation", "flow"] = Field(
        "rotation",
        description="flow: the published system's learnt flow, a baseline for comparisons that hides less;"
        " it keeps nothing of the face, so it takes no --match",
    )
    level: int = Field(
        0, ge=0, le=2, description="hardening: 64, 16 or 0 numbers of the attribute code are kept"
    )

    @model_validator(mode="after")
    def _matched_by_the_rotation(self) -> Self:
        if self.pseudonym == "flow" and self.match != "none":
            raise ValueError("match is for the rotation, and pseudonym is flow: keep one of them")
        return self

    @property
    def networks(self) -> tuple[str, ...]:
        """The flow has a say only where it is asked for."""
        return ("flow",) if self.pseudonym == "flow" else ()


def build(settings: Ifadit, device: str) -> FaceEdit:
    """Return the edit: read the identity, turn it by the secret, draw."""
    import numpy as np
    import torch

    from moretta.faces.crop import points_in
    from moretta.networks.backend import by_batches, noise_of, pictures_of, pixels_of
    from moretta.weights.backends import composer

    backend = composer(device=device)
    to_pseudonyms, _ = turns(settings)

    @torch.inference_mode()
    def drawn(crops: Sequence[Crop]) -> list[Edited]:
        secrets = [secret_of(crop) for crop in crops]
        pictures = pictures_of([crop.pixels for crop in crops], backend.device)
        points = torch.from_numpy(np.stack([points_in(crop) for crop in crops])).to(pictures)
        old = backend.identity(pictures, points).cpu().double().numpy()
        new = to_pseudonyms(secrets, old)
        seeds = [noise_seed(own, crop.seed) for own, crop in zip(secrets, crops, strict=True)]
        code = backend.known(pictures, noise_of(seeds, pictures), level=settings.level)
        asked = torch.from_numpy(new).to(pictures)
        faces = backend.redrawn(pictures, points, asked, code)
        return [Edited(pixels=one) for one in pixels_of(faces)]

    return by_batches(drawn)


def secret_of(crop: Crop) -> bytes:
    """Return the crop's secret. Raises UsageError when it has none: nothing is drawn without a key."""
    if crop.secret is None:
        raise UsageError(
            "ifadit runs only with a key: this face has no secret",
            hint="give --key FILE; `moretta key new FILE` makes one",
        )
    if len(crop.secret) != SECRET_BYTES:
        raise UsageError(
            f"a face's secret has {count_of(len(crop.secret), 'byte')}, not {SECRET_BYTES}",
            hint="give --key FILE; `moretta key new FILE` makes one",
        )
    return crop.secret


def turns(settings: Ifadit) -> tuple[Turn, Turn]:
    """Return the way to the pseudonyms and the way back: (secrets, identities (n, 48)) -> (n, 48).

    Raises UsageError when the flow is asked for and zuko is not installed.
    """
    import numpy as np

    from moretta.privacy.rotation import rotate, rotate_back

    if settings.pseudonym == "flow":
        return _flow_turns()
    kept = kept_directions(settings)

    def there(secrets: Sequence[bytes], own: Vectors) -> Vectors:
        pairs = zip(secrets, own, strict=True)
        return np.concatenate([rotate(secret, one[None], kept=kept) for secret, one in pairs])

    def back(secrets: Sequence[bytes], pseudonyms: Vectors) -> Vectors:
        pairs = zip(secrets, pseudonyms, strict=True)
        return np.concatenate([rotate_back(secret, one[None], kept=kept) for secret, one in pairs])

    return there, back


def kept_directions(settings: Ifadit) -> Vectors | None:
    """Return along what a setting `match` leaves identities roughly as they are; None for nothing.

    (k, 48) orthonormal rows: see `privacy.rotation.matched` and `TraitsHead.directions`.
    """
    from moretta.networks.traits import TraitsHead
    from moretta.weights import load

    if settings.match == "none":
        return None
    return TraitsHead.from_tensors(load.tensors("identity")).directions(settings.match)


def _flow_turns() -> tuple[Turn, Turn]:
    if find_spec("zuko") is None:
        raise UsageError(
            "ifadit --pseudonym flow needs zuko, which is not installed",
            hint="pip install 'moretta[train]', or leave --pseudonym out",
        )
    import numpy as np
    import torch

    from moretta.networks.flow import Flow, key_of
    from moretta.weights import load

    flow = Flow.from_tensors(load.tensors("flow"))

    def moved(way: Callable[..., torch.Tensor]) -> Turn:
        def turn(secrets: Sequence[bytes], vectors: Vectors) -> Vectors:
            keys = torch.from_numpy(np.stack([key_of(secret) for secret in secrets]))
            with torch.no_grad():
                made: Vectors = way(torch.from_numpy(vectors).float(), keys).double().numpy()
            return made

        return turn

    return moved(flow), moved(flow.back)


def noise_seed(secret: bytes, seed: int) -> int:
    """Seed of the attribute code's noise: not to be had without the key, even where --seed is known."""
    digest = hashlib.shake_256(b"ifadit/noise/v1" + secret + seed.to_bytes(8, "big")).digest(32)
    return int.from_bytes(digest, "big")


METHOD = Method(
    name="ifadit",
    summary="pseudonymised: a face that a key makes, and that only the key leads back from",
    settings=Ifadit,
    build=build,
    template="wide",
    side=SIDE,
    mask_scale=MASK_SCALE,
    mask_feather=MASK_FEATHER,
    promise="measured",
    promises="the face is pseudonymised: its identity is turned by a secret rotation before it is drawn;"
    " without the key its direction is as likely as any other; the judge has compared the result",
    excludes="whoever holds the key can get back: a likeness from the picture, the original from the"
    " envelope; what surrounds the face stays and is drawn upon; skin, light, pose and expression are"
    " kept roughly; drawn faces are softer than a sharp photo",
    source="Yuan et al. 2025 (iFADIT, arXiv 2501.04390), with a rotation in place of the learnt flow",
    reversible=True,
    keyed=True,
    networks=NETWORKS,
    needs=("torch", "safetensors"),
    trained_with=("dlib",),
)
