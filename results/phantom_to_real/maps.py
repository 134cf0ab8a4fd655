"""python results/phantom_to_real/maps.py FILE [--patients 20000] [--seed 1000000] [--sides both]

What a network that knows photographs sees in the phantoms of phantom-clip: its map of features, at the centres of the
model's patches, of every phantom that ``kneeclip pretrain --maps FILE`` learns from, on another film. The network is an
EfficientNet-Lite0 as ImageNet's classes have taught it (packages of PyPI; `photographs` in `results/knee_clip`); it has
seen no knee, so what learns from it has not either. On two cores a quarter of an hour for 40,000 phantoms, and 0.3 GB.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "knee_clip"))
import photographs
import teacher as teaching

from kneeclip.checkpoints import require_writable, save_state
from kneeclip.errors import KneeError
from kneeclip.exposure import reexposed
from kneeclip.heads import phantoms_of
from kneeclip.newborn import Pretraining
from kneeclip.pretrain import cohort

#: Pixels of a phantom, of its middle, and those that this middle is shown at: a joint space is then some pixels wide.
FILM, MIDDLE, SHOWN = 224, 176, 224

NETWORK = "EfficientNet-Lite0 (Google, Apache 2.0), trained on ImageNet"


class Sight(torch.nn.Module):
    """Standardised films (N, 1, S, S) to the network's features at a sixteenth of that, (N, C, S/16, S/16)."""

    def __init__(self, weights: bool = True):
        super().__init__()
        self.network = photographs.Photographer(photographs.Settings(shown=SHOWN, size=SHOWN), weights).eval()

    def forward(self, x):
        return self.network(x)[1]


@torch.no_grad()
def maps(settings: Pretraining, sight: torch.nn.Module, batch: int = 50) -> dict[str, torch.Tensor]:
    """Of every phantom and every patch whose centre lies in the middle: features of mean 0 and spread 1."""
    side = settings.image_size // settings.patch_size
    centres = (2 * torch.arange(side) + 1) / side - 1  # -1 to 1 over the film
    inside = centres.abs() < MIDDLE / FILM
    where = centres[inside] * FILM / MIDDLE
    grid = torch.stack(torch.meshgrid(where, where, indexing="xy"), -1)[None]  # (1, p, p, 2)
    knees = cohort(settings, torch.device("cpu"), FILM)
    films, g = torch.from_numpy(knees.images), torch.Generator().manual_seed(settings.seed)
    found = []
    for part in tqdm(films.split(batch), desc="maps", unit="batch"):
        x = teaching.warped(reexposed(part, g).byte(), SHOWN, MIDDLE / FILM, None)
        seen = sight(teaching.standardised(x))
        seen = F.grid_sample(seen, grid.expand(len(part), -1, -1, -1), padding_mode="border", align_corners=False)
        seen = seen.flatten(2).transpose(1, 2)  # (N, p · p, C)
        found.append(F.layer_norm(seen, seen.shape[-1:]).half())
    patches = (inside[:, None] & inside).flatten().nonzero()[:, 0]
    return {"maps": torch.cat(found), "patches": patches}


def main(file: Path, settings: Pretraining) -> None:
    if file.exists():
        raise KneeError("the file is there already", file, "name another, or delete it")
    require_writable(file.parent)
    torch.set_flush_denormal(True)
    seen = maps(settings, photographs.quick(Sight()))
    save_state(file, seen, {"of": phantoms_of(settings), "network": NETWORK})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE", type=Path, help="runs/maps.safetensors")
    parser.add_argument("--patients", type=int, default=Pretraining.patients)
    parser.add_argument("--seed", type=int, default=Pretraining.seed)
    parser.add_argument("--sides", choices=("both", "L", "R"), default=Pretraining.sides)
    given = vars(parser.parse_args())
    main(given.pop("file"), dataclasses.replace(Pretraining(), **given))
