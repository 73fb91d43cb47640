"""StyleID: a face of which only the numbers that carry identity are another's.

The face is drawn again from its own latent code, in which the features that move identity most and
attributes least are taken from a target: nobody's face, from a public pool. How many are taken is the
strength. A ranking that was measured on the same network says which come first.

latent   the first features of the ranking are the target's, the rest stay the face's own
pixel    the target is drawn whole, in this face's layout, and exchanged region by region
swapper  rows that carry identity are the target's, and a small network says how much of every other
         number is, face by face; strength scales all of it

Checked  tests/contracts, tests/methods/test_styleid.py; what it hides and keeps is in docs/styleid.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, ModelWrapValidatorHandler, model_validator

from moretta.errors import UsageError
from moretta.records import Crop, Edited, FaceEdit, Method, Settings
from moretta.weights.backends import MASK_FEATHER, MASK_SCALE, NETWORKS, RANKING, SIDE, SWAPPER

if TYPE_CHECKING:
    import numpy as np
    import torch

    from moretta.networks.ranking import Floats

#: Recognisers that `auto` asks. The judge may not be one of them.
CALIBRATION = ("dlib",)
MARGIN = 0.3  # of cosine, below a calibration recogniser's threshold
BISECTIONS = 6  # the least strength is found within 1/64
ELIGIBLE = {"channels": 1536, "numbers": 2304, "groups": 18, "rows": 9}
REGIONS_OF = {
    "ellipse": ("eyes", "nose", "mouth", "cheeks", "forehead", "chin", "rim"),
    "face": ("eyes", "nose", "mouth", "cheeks", "forehead", "chin"),
    "features": ("eyes", "nose", "mouth"),
}

#: Of 100 people, whom the judge still knew in the same photo, before it covers them: at strengths 0, 0.1
#: to 1; at auto; and at full strength where less than the ellipse is used. Measured in docs/styleid.md.
KNOWN = {
    "latent": (99, 42, 25, 14, 10, 9, 9, 9, 9, 9, 9),
    "pixel": (100, 100, 100, 93, 88, 74, 55, 46, 34, 23, 10),
    "swapper": (99, 99, 99, 98, 95, 85, 68, 50, 34, 23, 11),
}
KNOWN_AUTO = {"latent": 13, "pixel": 53, "swapper": 21}
KNOWN_IN_REGION = {
    "face": {"latent": 27, "pixel": 27, "swapper": 30},
    "features": {"latent": 87, "pixel": 87, "swapper": 87},
}


class StyleID(Settings):
    """Options of `styleid`."""

    variant: Literal["latent", "pixel", "swapper"] = Field(
        "latent",
        description="latent: ranked features of the code are a target's; pixel: ranked regions of the"
        " picture are, in the face's own layout and colours; swapper: what a trained network says, for"
        " each face",
    )
    share: float = Field(
        0.6,
        ge=0,
        le=1,
        description="strength: share of the ranked features taken; pixel: of the regions, 1 unless given;"
        " swapper: of the way from the face's own code to what the network says, 1 unless given",
    )
    k: int = Field(
        0, ge=0, description="the first k features, or regions, instead of a share; 0: the share"
    )
    adapt: Literal["none", "auto"] = Field(
        "none",
        description="auto: for each face the least share at which no calibration recogniser knows it",
    )
    features: Literal["channels", "numbers", "groups", "rows"] = Field(
        "channels", description="what is ranked: channels of S; numbers, half rows or rows of W+"
    )
    region: Literal["ellipse", "face", "features"] = Field(
        "ellipse",
        description="where the new face is used: all that is drawn; without the rim of hair and outline;"
        " eyes, nose and mouth only. What is left out stays the photo's own",
    )
    code: Literal["own", "drawn"] = Field(
        "own",
        description="the target's light, skin and expression: this face's own, or drawn by chance",
    )
    match: Literal["age,gender", "age", "gender", "none"] = Field(
        "age,gender",
        description="what a target has in common with the face, as it appears; a face shared through"
        " --identity is matched to nobody",
    )
    level: int = Field(
        0, ge=0, le=2, description="hardening: 64, 16 or 0 numbers of the attribute code are kept"
    )

    @model_validator(mode="wrap")
    @classmethod
    def _consistent(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Refuse more than there is, and what would change nothing beside the rest."""
        told = set(given) if isinstance(given, dict) else set()
        if told and given.get("variant") in ("pixel", "swapper"):
            # regions left out would stay the photo's own; the swapper's output is not held back
            given = {"share": 1.0, **given}
        own = handler(given)
        if own.variant == "swapper":
            for name in ("k", "features"):
                if getattr(own, name) != cls.model_fields[name].default:
                    raise ValueError(f"{name} is of no use to the swapper: it ranks nothing")
        pixel = own.variant == "pixel"
        most = len(REGIONS_OF[own.region]) if pixel else ELIGIBLE[own.features]
        what = "regions" if pixel else own.features
        if own.k > most:
            raise ValueError(f"k is {own.k}, and there are {most} {what}")
        if told >= set(cls.model_fields):  # a record names every option, those without effect too
            return own
        if own.k and "share" in told:
            raise ValueError(f"k says how many {what} are taken, and so does share, or strength")
        if own.adapt == "auto" and ("share" in told or own.k):
            raise ValueError("auto finds the share for each face: share and k change nothing")
        if pixel and "features" in told:
            raise ValueError("features are ranked by latent alone: pixel ranks regions")
        if pixel and own.code == "drawn" and own.level:
            raise ValueError(
                "level cuts this face's own code, and code is drawn: level changes nothing"
            )
        return own

    @property
    def networks(self) -> tuple[str, ...]:
        """The swapper has a say only where it is asked for."""
        return (SWAPPER,) if self.variant == "swapper" else ()

    @property
    def weak(self) -> str:
        """Say so where more people are known than at the variant's default, as far as was measured."""
        known, usual = KNOWN[self.variant], 0.6 if self.variant == "latent" else 1.0
        least = known[round(10 * usual)]
        of = len(REGIONS_OF[self.region]) if self.variant == "pixel" else ELIGIBLE[self.features]
        share = self.k / of if self.k else self.share
        found = least if share >= usual else known[int(10 * share + 1e-9)]
        if self.adapt == "auto":
            found = KNOWN_AUTO[self.variant]
        if self.region != "ellipse":
            found = max(found, KNOWN_IN_REGION[self.region][self.variant])
        if found <= least:
            return ""
        strength = "auto" if self.adapt == "auto" else f"{share:.2g}"
        return (
            f"styleid, variant {self.variant}, strength {strength}, region {self.region}: more of each face"
            f" stays than by default. Of 100 people the judge still knew {found}, by default {least}: those"
            " it covers, and what lies just below its threshold is published (docs/styleid.md)"
        )


def build(settings: StyleID, device: str) -> FaceEdit:
    """Return the edit: read the code, choose a target, swap, draw.

    Raises WeightsRejected for a ranking or a swapper of another network and for a swapper that is not
    there, UsageError where `auto` has nobody to ask.
    """
    import numpy as np
    import torch

    from moretta.faces.crop import points_in
    from moretta.networks import pool as pools
    from moretta.networks import ranking as ranks
    from moretta.networks.backend import by_batches, noise_of, pictures_of, pixels_of
    from moretta.networks.regions import REGIONS, matched, regions
    from moretta.weights import backends

    backend = backends.composer(device=device)
    ranking = backends.ranking()
    limits = limit_of(ranking.thresholds) if settings.adapt == "auto" else {}
    swapper = backends.swapper(backend, ranking) if settings.variant == "swapper" else None
    pool, head = backends.stand_ins()
    places = [REGIONS.index(one) for one in REGIONS_OF[settings.region]]
    pixel = settings.variant == "pixel"
    order = (
        np.array([places.index(i) for i in ranking.spaces["regions"].order if i in places])
        if pixel
        else ranking.spaces[settings.features].order
    )
    wanted = settings.k / len(order) if settings.k else settings.share

    @torch.inference_mode()
    def drawn(crops: Sequence[Crop]) -> list[Edited]:
        pictures = pictures_of([crop.pixels for crop in crops], backend.device)
        points = torch.from_numpy(np.stack([points_in(crop) for crop in crops])).to(pictures)
        old = backend.identity(pictures, points)
        new = [chosen(crop, one) for crop, one in zip(crops, old.cpu().numpy(), strict=True)]
        asked = torch.from_numpy(np.stack([pool.identities[i] for i in new])).to(backend.device)
        noise = noise_of([crop.seed for crop in crops], old)
        code = backend.known(pictures, noise, level=settings.level)
        sources, targets = backend.rows(old, code), backend.rows(asked, lent(crops, code))
        context = backend.context(pictures)
        mask = backend.composed(torch.zeros_like(pictures), torch.ones_like(pictures))[:, :1]
        every = regions(points, mask)
        parts, skin = every[:, places], every[:, :-1].sum(1, keepdim=True)
        whole = None
        if pixel:
            faces = backend.draw_styles(context, points, backend.styles(targets))
            whole = coloured(faces, pictures, skin)
        gates = swapper(sources, targets) if swapper else None

        def swapped(shares: Floats) -> torch.Tensor:
            """Pictures at each face's share."""
            if gates is not None:
                share = torch.from_numpy(shares).to(gates)[:, None, None]
                styles = backend.styles(ranks.swapped(sources, targets, share * gates))
                return blended(styles)
            weights = torch.from_numpy(ranks.strengths(order, shares)).to(pictures)
            if whole is not None:
                return torch.lerp(pictures, whole, (parts * weights[:, :, None, None]).sum(1, True))
            return blended(
                ranks.swapped_styles(backend, sources, targets, weights, settings.features)
            )

        def blended(styles: torch.Tensor) -> torch.Tensor:
            """Draw and blend into the regions that are asked for."""
            faces = backend.draw_styles(context, points, styles)
            if settings.region == "ellipse":
                return backend.composed(pictures, faces)
            share = parts.sum(1, keepdim=True)
            return torch.lerp(pictures, coloured(faces, pictures, skin), share)

        shares = np.full(len(crops), wanted)
        figures: list[dict[str, float]] = [{} for _ in crops]
        if limits:
            shares, cosines = least(lambda tried: seen(swapped(tried), points, old), len(crops))
            figures = [{"dlib": round(one, 4)} for one in cosines.tolist()]
        return [
            Edited(pixels=one, figures={"share": round(float(share), 4)} | more)
            for one, share, more in zip(pixels_of(swapped(shares)), shares, figures, strict=True)
        ]

    def coloured(faces: torch.Tensor, pictures: torch.Tensor, skin: torch.Tensor) -> torch.Tensor:
        """Match colours on the face; the rim was drawn to meet what surrounds it, and stays."""
        return torch.lerp(faces, matched(faces, pictures, skin), skin)

    def seen(pictures: torch.Tensor, points: torch.Tensor, old: torch.Tensor) -> Floats:
        """How near each picture is to the old identity, as the pixels that leave show it."""
        shown = pictures_of(pixels_of(pictures), backend.device)
        cosines = (backend.identity(shown, points) * old).sum(1)
        return cosines.double().cpu().numpy()

    def least(known: Any, count: int) -> tuple[Floats, Floats]:
        """Return the least share below the limit, within 1/64, and the cosine there; else all of it."""
        low, high = np.zeros(count), np.ones(count)
        at_high = known(high)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            cosines = known(middle)
            hidden = cosines <= limits["dlib"]
            low, high = np.where(hidden, low, middle), np.where(hidden, middle, high)
            at_high = np.where(hidden, cosines, at_high)
        return high, at_high

    def lent(crops: Sequence[Crop], code: torch.Tensor) -> torch.Tensor:
        """Attribute codes of the targets."""
        if settings.code == "own":
            return code
        drawn = [backend.prior.sample(1, crop.seed, truncation=0.7)[0] for crop in crops]
        return torch.cat(drawn).to(code)

    def chosen(crop: Crop, old: np.ndarray) -> int:
        if (
            crop.identity is not None
        ):  # shared by faces that may look unlike: nothing is read from them
            index = pools.choose(pool, None, "none", np.random.default_rng(crop.identity))
            if float(pool.identities[index] @ old) >= ranking.thresholds.get(
                "dlib", pools.TOO_NEAR
            ):
                raise UsageError(
                    "the target is the face's own likeness", hint="give another --seed"
                )
            return index
        rng = np.random.default_rng(crop.seed)
        looks = None if settings.match == "none" else head.read(old)
        index, far = pools.stranger(pool, old, looks, settings.match, rng)
        if not far:
            raise UsageError("every target is this face's own likeness", hint="try --match none")
        return index

    return by_batches(drawn)


def limit_of(thresholds: Any) -> dict[str, float]:
    """Return the cosine that `auto` stays below, for each calibration recogniser.

    Raises UsageError where the ranking holds no threshold of one.
    """
    missing = [name for name in CALIBRATION if name not in thresholds]
    if missing or not CALIBRATION:
        raise UsageError(
            f"auto has no calibration recogniser: the ranking has no threshold of {', '.join(missing)}",
            hint="make the ranking again with `moretta styleid rank`, or give a strength",
        )
    return {name: thresholds[name] - MARGIN for name in CALIBRATION}


METHOD = Method(
    name="styleid",
    summary="the features that carry identity are another's, the rest stays the face's own",
    settings=StyleID,
    build=build,
    template="wide",
    side=SIDE,
    mask_scale=MASK_SCALE,
    mask_feather=MASK_FEATHER,
    promise="measured",
    promises="the features of the drawn face that carry most identity are those of a target from a public"
    " pool: six tenths of them by default; the judge has compared the result",
    excludes="what is not swapped is the face's own and can be recognised: the lower the strength the more;"
    " surroundings stay; apparent age and gender are kept by default; nothing is proved",
    source="Le & Carlsson 2023 (StyleID), PoPETs 2023(1); docs/styleid.md says what is ours",
    draws_identity=True,
    strength=lambda value: {"share": value},
    auto={"adapt": "auto"},
    networks=(*NETWORKS, RANKING),
    needs=("torch", "safetensors"),
    trained_with=("dlib",),
)
