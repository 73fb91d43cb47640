"""Backends put together from the catalogue's files. torch is imported when one is asked for."""

from __future__ import annotations

import functools
import hashlib
import json
from typing import TYPE_CHECKING, Any

from moretta.errors import DeviceError, WeightsRejected
from moretta.weights import load

if TYPE_CHECKING:
    from pathlib import Path

    from moretta.networks.backend import ComposerBackend
    from moretta.networks.features import Features
    from moretta.networks.pool import Pool
    from moretta.networks.ranking import Ranking
    from moretta.networks.swapper import Swapper
    from moretta.networks.traits import TraitsHead

COMPOSER = "composer"
#: Networks that have a say when the composer draws.
NETWORKS = (COMPOSER, "identity", "dlib")
#: The crop that the bundled composer draws: its side in pixels, and the ellipse it is used in.
SIDE = 128
MASK_SCALE = 1.47  # of the ellipse in design section 4: networks.composer.SEMI_AXES
MASK_FEATHER = 0.05  # the composer has blended already, at its own size
#: Which of the composer's numbers carry identity.
RANKING = "styleid"
#: Gates of the latent swapper: belong to the composer and to the ranking's identity rows.
SWAPPER = "swapper"


def composer(
    name_or_path: str | Path = COMPOSER, *, device: str = "cpu", precision: str = "auto"
) -> ComposerBackend:
    """Return the composer as a backend, frozen, in eval mode, on as many threads as torch is set to.

    name_or_path: a name in the catalogue or a file that `moretta-train composer` wrote. device: "cpu",
    "cuda" or "auto". precision: "float32", "bfloat16" or "auto" (bfloat16 where hardware has it).
    Raises WeightsRejected for a file of another form, DeviceError when CUDA is not there.
    """
    import torch

    from moretta.networks.attributes import AttributeEncoder
    from moretta.networks.backend import ComposerBackend, has_fast_bfloat16
    from moretta.networks.composer import Composer, Shape, placed
    from moretta.networks.identity import Identity
    from moretta.networks.prior import Prior

    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "no CUDA device: this torch does not see one",
            hint="install a torch build for your driver, or use device cpu",
        )
    place = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    tensors, words = load.described_tensors(name_or_path)
    try:
        shape = Shape(**_plain(json.loads(words["shape"])))
        drawing, encoder = Composer(shape), AttributeEncoder(shape.attributes)
        for network, part in ((drawing, "composer"), (encoder, "attributes")):
            network.load_state_dict(
                {
                    key.removeprefix(f"{part}."): torch.as_tensor(value).float()
                    for key, value in tensors.items()
                    if key.startswith(f"{part}.")
                }
            )
        prior = Prior.from_tensors(tensors)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsRejected(
            f"{name_or_path}: not a composer: {str(error).splitlines()[0]}",
            hint="moretta-train composer writes such a file",
        ) from error
    if name_or_path == COMPOSER and shape.side != SIDE:
        raise ValueError(f"the bundled composer draws {shape.side} px, methods cut {SIDE}")
    identity = Identity.from_tensors(load.tensors("dlib"), load.tensors("identity"))
    for whole in (drawing, encoder, identity):
        placed(whole, place).requires_grad_(False).eval()
    fast = place == "cuda" or has_fast_bfloat16()
    wants = precision == "bfloat16" or (precision == "auto" and fast)
    return ComposerBackend(
        drawing, encoder, identity, prior, place, torch.bfloat16 if wants else torch.float32
    )


@functools.cache
def stand_ins() -> tuple[Pool, TraitsHead]:
    """Return the default pool of synthetic identities and the head that labelled it, made once."""
    from moretta.networks import pool
    from moretta.networks.traits import TraitsHead

    head = TraitsHead.from_tensors(load.tensors("identity"))
    return pool.build(pool.COUNT, pool.SEED, head), head


def ranking(name_or_path: str | Path = RANKING, *, backend: str | None = None) -> Ranking:
    """Return the ranking of a backend's features: a name in the catalogue, or a file of `styleid rank`.

    backend: sha256 of the weights that it must belong to; the bundled composer's by default. Raises
    WeightsRejected for a file of another form and for a ranking of other weights.
    """
    from moretta.networks.ranking import Ranking

    tensors, said = load.described_tensors(name_or_path)
    try:
        found = Ranking.from_tensors(tensors, json.loads(said["about"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsRejected(
            f"{name_or_path}: not a ranking: {str(error).splitlines()[0] if str(error) else error!r}",
            hint="moretta styleid rank writes such a file",
        ) from error
    wanted = backend or load.entry(COMPOSER).sha256
    if found.backend != wanted:
        raise WeightsRejected(
            f"{name_or_path}: a ranking of other weights ({found.backend[:12]}, not {wanted[:12]})",
            hint="make one for these weights: moretta styleid rank",
        )
    return found


def swapper(
    backend: ComposerBackend, ranking: Ranking, name_or_path: str | Path = SWAPPER
) -> Swapper:
    """Return the latent swapper of a backend: a name in the catalogue, or a file of the recipe.

    ranking: the backend's, as `ranking` returns it. Raises WeightsRejected when the file is missing, of
    another form, trained on other weights, or locks other rows than the ranking says.
    """
    from moretta.networks.swapper import Swapper, locked_rows

    again = "make one for these weights: moretta-train swapper"
    tensors, said = load.described_tensors(name_or_path)
    try:
        about = json.loads(said["about"])
        made_for, locked = str(about["backend"]), tuple(int(row) for row in about["locked"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsRejected(
            f"{name_or_path}: not a swapper: it does not say what it was trained on", hint=again
        ) from error
    if made_for != ranking.backend:
        raise WeightsRejected(
            f"{name_or_path}: a swapper of other weights ({made_for[:12]}, not {ranking.backend[:12]})",
            hint=again,
        )
    wanted = locked_rows(ranking)
    if locked != wanted:
        raise WeightsRejected(
            f"{name_or_path}: it locks the rows {list(locked)}, the ranking says {list(wanted)}",
            hint=again,
        )
    try:
        latent = backend.composer.shape.latent
        return Swapper.from_tensors(tensors, backend.layers, latent, locked, backend.device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise WeightsRejected(
            f"{name_or_path}: not a swapper: {str(error).splitlines()[0]}", hint=again
        ) from error


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }


#: Official checkpoint of FaRL, looked for in the folders of `load.folders`.
FARL = "FaRL-Base-Patch16-LAIONFace20M-ep64.pth"


def features(name: str, backend: ComposerBackend) -> Features:
    """Return attribute features: "features", which are bundled, or "farl" where its weights lie.

    Raises WeightsRejected when FaRL's file is missing or of another form.
    """
    import torch

    from moretta.networks.farl import FaRL
    from moretta.networks.features import SmallFeatures

    if name == "features":
        return SmallFeatures.from_tensors(backend.identify, load.tensors(name), backend.device)
    path = _farl()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return FaRL.from_tensors(state.get("state_dict", state), backend.device)
    except Exception as error:  # torch's faults share no base
        raise WeightsRejected(
            f"{path.name}: not FaRL's checkpoint: {type(error).__name__}: {str(error).splitlines()[0]}",
            hint="get the official file again, or leave --features out",
        ) from error


def digests(name: str) -> dict[str, str]:
    """Return name -> sha256 of the networks that a pool with these features hangs on."""
    found = {one: load.entry(one).sha256 for one in NETWORKS}
    if name == "features":
        return {**found, name: load.entry(name).sha256}
    with _farl().open("rb") as file:
        return {**found, name: hashlib.file_digest(file, "sha256").hexdigest()}


def _farl() -> Path:
    for folder in load.folders():
        if (path := folder / FARL).is_file():
            return path
    raise WeightsRejected(
        f"{FARL} is missing: FaRL's official weights do not ship with Moretta",
        hint=f"put it into {load.folders()[-1]}, or leave --features out: features are bundled",
    )
