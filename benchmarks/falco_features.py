"""The bundled attribute features beside the composer's attribute code and dlib's bare stages.

    python benchmarks/falco_features.py --data ../shared/data/train --run FOLDER

FOLDER is what `moretta-train features --data ... --out FOLDER` left. For held-out labelled crops: share
whose nearest training crop (cosine) has the same apparent band of age and gender. For held-out pairs that
the composer drew of one scene with two identities: mean difference within pairs over that between scenes.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from moretta.networks.features import FeatureHead
from moretta.training.features import gather, ratio
from moretta.weights import load


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--tight", type=int, default=4000)
    parser.add_argument("--wide", type=int, default=1800)
    parser.add_argument("--pairs", type=int, default=350)
    given = parser.parse_args()
    torch.set_num_threads(1)
    sizes = {"tight": given.tight, "wide": given.wide, "pairs": given.pairs}
    examples = gather(given.data, given.run, **sizes, seed=0)
    head = FeatureHead()
    head.load_state_dict(
        {key: torch.as_tensor(value).float() for key, value in load.tensors("features").items()}
    )

    def seen(rows: np.ndarray) -> dict[str, torch.Tensor]:
        parts = []
        for start in range(0, len(rows), 128):
            places = torch.from_numpy(examples.places[rows[start : start + 128]].astype(np.float32))
            vectors, tokens = head(places)
            bare = ((places - head.mean) * head.scale).mean(1)
            parts.append((vectors, tokens.flatten(1), bare))
        vectors, tokens, bare = (torch.cat(part) for part in zip(*parts, strict=True))
        codes = torch.from_numpy(examples.codes[rows])
        return {
            "features, vector (pairing)": vectors,
            "features, tokens (loss)": tokens,
            "composer's attribute code": codes,
            "dlib's stages, averaged": bare,
        }

    held, train = examples.rows(held=True), examples.rows(held=False)
    held, train = (rows[examples.labels[rows, 0] >= 0] for rows in (held, train))
    firsts = examples.pairs(held=True)
    ours, theirs = seen(held), seen(train)
    pairs = seen(np.stack([firsts, firsts + 1], 1).ravel())
    print(f"{len(held)} held-out crops, {len(train)} to choose from, {len(firsts)} pairs\n")
    print("| | nearest: same gender | same band | within pairs over between scenes |")
    print("|---|---|---|---|")
    for name, vectors in ours.items():
        unit = [torch.nn.functional.normalize(each, dim=1) for each in (vectors, theirs[name])]
        nearest = train[(unit[0] @ unit[1].t()).argmax(1).numpy()]
        band, gender = (
            (examples.labels[nearest, at] == examples.labels[held, at]).mean() for at in (0, 1)
        )
        print(f"| {name} | {gender:.3f} | {band:.3f} | {float(ratio(pairs[name])):.3f} |")


if __name__ == "__main__":
    main()
