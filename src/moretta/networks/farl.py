"""FaRL's image encoder, ViT-B/16: attribute features for whoever has its official weights.

Assumes   tensors named as in OpenAI's CLIP (`visual.*`), as FaRL's checkpoint has them.
Promise   one input range for photos and drawings: -1..1 becomes 0..1, then CLIP's mean and deviation.
Sources   Zheng et al. 2022 (FaRL); Radford et al. 2021 (CLIP), the visual transformer. Tokens are the
          last block's output before the final layer norm, as FALCO takes them (facts of FALCO, 1.6).
Not here  the weights: they are not ours to ship. Never run on the official file by us, only on random
          weights of its shapes.
Checked   tests/networks/test_farl.py, against torch's own transformer layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from moretta.networks.features import Seen

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
PATCH = 16
_HEAD = 64  # channels of one head of attention, in every CLIP


class FaRL(nn.Module):
    """The visual transformer; every size comes from the tensors."""

    name = "farl"
    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        width = tensors["visual.class_embedding"].shape[0]
        places = tensors["visual.positional_embedding"].shape[0]
        depth = len({name.split(".")[3] for name in tensors if name.startswith(_BLOCKS)})
        self.side = round((places - 1) ** 0.5) * PATCH
        self.conv1 = nn.Conv2d(3, width, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(places, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.ModuleDict(
            {"resblocks": nn.ModuleList(_Block(width) for _ in range(depth))}
        )
        self.proj = nn.Parameter(torch.zeros(tensors["visual.proj"].shape))
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None], persistent=False)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Any], device: str = "cpu") -> FaRL:
        """Build it, frozen. Raises KeyError and RuntimeError when it is no such checkpoint."""
        visual = {
            name: torch.as_tensor(value).float()
            for name, value in tensors.items()
            if name.startswith("visual.")
        }
        network = cls(visual)
        network.load_state_dict({name.removeprefix("visual."): v for name, v in visual.items()})
        return network.to(device).requires_grad_(False).eval()

    def of(
        self,
        pictures: torch.Tensor,
        points: torch.Tensor,  # noqa: ARG002
        *,
        maps: Sequence[torch.Tensor] | None = None,  # noqa: ARG002
    ) -> Seen:
        """(n, 3, side, side) -> vectors (n, 512), tokens (n, 197, 768). Points and maps are not used."""
        shown = functional.interpolate(
            (pictures.clamp(-1, 1) + 1) / 2,
            (self.side, self.side),
            mode="bilinear",
            antialias=True,
            align_corners=False,
        )
        x = self.conv1((shown - self.mean) / self.deviation).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1)
        x = self.ln_pre(x + self.positional_embedding)
        blocks: Any = self.transformer["resblocks"]
        for block in blocks:
            x = block(x)
        return Seen(self.ln_post(x[:, 0]) @ self.proj, x)


_BLOCKS = "visual.transformer.resblocks."


class _Block(nn.Module):
    """Attention and a perceptron, each behind a layer norm and beside a way around it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // _HEAD, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, tokens, width) -> the same."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        z = self.mlp["c_fc"](self.ln_2(x))
        out: torch.Tensor = x + self.mlp["c_proj"](z * torch.sigmoid(1.702 * z))  # CLIP's GELU
        return out
