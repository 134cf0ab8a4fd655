"""What a phantom knows besides its caption, asked of the image tower while it learns, and thrown away afterwards.

Which structures a patch covers; the anatomy of the whole image; and, where somebody has looked, what a network that
knows photographs sees in a patch [a map of features to copy, as in FitNets, Romero et al. 2015].
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F

from kneeclip.checkpoints import load_state
from kneeclip.data import drawing
from kneeclip.errors import KneeError
from kneeclip.newborn import Pretraining
from kneeclip.phantom import masks

#: What the second head reads off the image: the disease, and where the joint lies.
ANATOMY = (
    *("medial_space", "lateral_space", "attrition", "sclerosis_medial", "sclerosis_lateral"),
    *("osteophyte_femur_medial", "osteophyte_femur_lateral", "osteophyte_tibia_medial", "osteophyte_tibia_lateral"),
    *("joint_height", "centre_x", "plateau_width", "rotation"),
)


def phantoms_of(settings: Pretraining) -> dict:
    """Which phantoms a pretraining learns from, and in which patches: what a file of maps must agree with."""
    names = ("patients", "seed", "variety", "sides", "image_size", "patch_size")
    return {name: value for name, value in asdict(settings).items() if name in names} | {"drawing": drawing()[:12]}


def load_maps(file: str | Path, settings: Pretraining) -> dict:
    """What `results/phantom_to_real/maps.py` wrote: maps (N, p, C) in half precision, their patches (p,) and network.

    Raises
    ------
    KneeError
        For a file that can't be read, or one of other phantoms or patches.
    """
    file = Path(os.path.expanduser(file))
    remedy = "make it with results/phantom_to_real/maps.py"
    asked = phantoms_of(settings)
    if not file.exists():
        raise KneeError("there is no file of maps", file, remedy)
    try:
        tensors, meta = load_state(file)
        found = {"maps": tensors["maps"], "patches": tensors["patches"], "network": meta["network"]}
        differs = [
            f"{name} {meta['of'][name]}, not {value}" for name, value in asked.items() if meta["of"][name] != value
        ]
    except (KneeError, KeyError, TypeError):  # a torn file, or another program's
        raise KneeError("the file of maps can't be read", file, remedy) from None
    if differs:
        what = ", ".join(differs)
        raise KneeError(f"the maps are of other phantoms ({what})", file, remedy + ", for the same settings")
    return found


class Heads(torch.nn.Module):
    """Linear heads on the image tower's tokens, and what they are to say of each of N phantoms.

    `maps` is what `load_maps` gives; with ``None`` nobody has looked.
    """

    def __init__(self, anatomy, settings: Pretraining, maps: dict | None = None):
        super().__init__()
        size, patch = settings.image_size, settings.patch_size
        # 512 knees at a time: the masks of all of them at full size would be gigabytes
        pieces = [masks(anatomy[i : i + 512], size=size) for i in range(0, len(anatomy), 512)]
        covered = [F.avg_pool2d(torch.stack(list(m.values()), 1).float(), patch) for m in pieces]
        covered = torch.cat(covered).flatten(2).transpose(1, 2)  # (N, P, structures), shares of a patch
        values = torch.stack([getattr(anatomy, name) for name in ANATOMY], 1)  # (N, A)
        values = (values - values.mean(0)) / values.std(0).clamp_min(1e-6)
        # a quarter of a patch is as good as all of it: a joint space is thinner than a patch
        self.register_buffer("covered", (4 * covered).clamp(max=1), persistent=False)
        self.register_buffer("values", values.clamp(-4, 4), persistent=False)
        self.structures = torch.nn.Linear(settings.width, covered.shape[2])
        self.anatomy = torch.nn.Linear(settings.width, values.shape[1])
        self.sight = None
        if maps is not None:
            self.register_buffer("seen", maps["maps"], persistent=False)
            self.register_buffer("patches", maps["patches"], persistent=False)
            self.sight = torch.nn.Linear(settings.width, maps["maps"].shape[2])

    def forward(self, tokens: torch.Tensor, index: torch.Tensor, settings: Pretraining) -> torch.Tensor:
        index = index.to(tokens.device)
        where = F.binary_cross_entropy_with_logits(self.structures(tokens[:, 1:]), self.covered[index])
        what = F.mse_loss(self.anatomy(tokens[:, 0]), self.values[index])
        loss = settings.structure_weight * where + settings.anatomy_weight * what
        if self.sight is None:
            return loss
        seen = self.sight(tokens[:, 1 + self.patches])
        return loss + settings.map_weight * F.mse_loss(seen, self.seen[index].float())
