"""The written rule that grades a phantom knee, and simulated readers, who follow it with habits of their own."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kneeclip.anatomy import SITES, Anatomy


@dataclass(frozen=True)
class Reader:
    """Somebody who grades: sees osteophytes smaller or larger than they are, and narrowing not quite as it is."""

    osteophyte_shift: float = 0.0  # added to every cut on the osteophyte's size
    narrowing_noise: float = 0.0  # standard deviation on the share of joint space lost, on a good exposure
    seed: int = 0


#: Two readers, an eager one, who soon calls an osteophyte definite, and a strict one.
READERS = (Reader(-0.14, 0.07, seed=1), Reader(0.14, 0.07, seed=2))


def narrowing(anatomy: Anatomy) -> torch.Tensor:
    """r: share of the joint space lost in the worse compartment, 0 to 1; (N,). Notebook: 01."""
    left = torch.minimum(anatomy.medial_space / anatomy.medial_normal, anatomy.lateral_space / anatomy.lateral_normal)
    return (1 - left).clamp(0, 1)


def osteophyte(anatomy: Anatomy) -> torch.Tensor:
    """o: size of the largest osteophyte, 0 to 3; (N,). Notebook: 01."""
    return torch.stack([getattr(anatomy, f"osteophyte_{site}") for site in SITES]).amax(0)


def grade(anatomy: Anatomy) -> torch.Tensor:
    """The KL grade by the written rule.

    With r the share of joint space lost in the worse compartment and o the largest osteophyte (0-3):

    ====  ==================================================================================================
     4    r >= .67, o >= 2, and severe sclerosis (>= 2) or deformity (attrition >= .5); or bone on bone
          (r >= .95) with a definite osteophyte
     3    r >= .33 and o >= 1
     2    o >= 1
     1    o >= .5 or r >= .15, without a definite osteophyte
     0    otherwise
    ====  ==================================================================================================

    *Atrophic* knees (`is_atrophic`) are undefined in the KL text. The rule leaves them at 1, as nothing above 1 comes
    without a definite osteophyte: a convention, and the place where readers split.

    Parameters
    ----------
    anatomy : Anatomy

    Returns
    -------
    (N,) int64

    Notes
    -----
    Source: thirds of the joint space follow Nagaosa 2000; the other cuts are ours. Notebook: 01.
    """
    return _rule(narrowing(anatomy), osteophyte(anatomy), _is_severe(anatomy))


def is_atrophic(anatomy: Anatomy) -> torch.Tensor:
    """Narrowed by a third or more with no definite osteophyte: (N,) bool. Notebook: 01."""
    return (narrowing(anatomy) >= 0.33) & (osteophyte(anatomy) < 1)


def read(anatomy: Anatomy, reader: Reader) -> torch.Tensor:
    """The grades that `reader` gives: the rule, on osteophytes and narrowing as they see them.

    Parameters
    ----------
    anatomy : Anatomy
    reader : Reader
        The same reader reads the same knee alike every time; two readers with one seed share their slips.

    Returns
    -------
    (N,) int64

    Notes
    -----
    The shift of the osteophyte threshold is the larger source of disagreement, as in OAI; the noise on narrowing is
    up to three times as large on a blurred film. Both sizes are ours, set so that `READERS` agree as published
    readers do (63-75 % exact, QWK about .83). Notebook: 01.
    """
    noise = _slips(anatomy.key, reader.seed) * reader.narrowing_noise * (1 + 2 * anatomy.blur.clamp(0, 1))
    seen = (narrowing(anatomy) + noise).clamp(0, 1)
    return _rule(seen, osteophyte(anatomy) - reader.osteophyte_shift, _is_severe(anatomy))


def _rule(r: torch.Tensor, o: torch.Tensor, severe: torch.Tensor) -> torch.Tensor:
    kl = torch.zeros_like(r, dtype=torch.int64)
    kl[(o >= 0.5) | (r >= 0.15)] = 1
    kl[o >= 1] = 2
    kl[(o >= 1) & (r >= 0.33)] = 3
    kl[((r >= 0.67) & (o >= 2) & severe) | ((r >= 0.95) & (o >= 1))] = 4
    return kl


def _is_severe(a: Anatomy) -> torch.Tensor:
    return (torch.maximum(a.sclerosis_medial, a.sclerosis_lateral) >= 2) | (a.attrition >= 0.5)


def _slips(keys: torch.Tensor, seed: int) -> torch.Tensor:
    """A standard normal number for every (key, seed), whatever else is in the batch."""
    hashed = (torch.sin(keys.double() * 12.9898 + (seed + 1) * 78.233) * 43758.5453).remainder(1.0)
    return torch.special.ndtri(hashed.clamp(1e-6, 1 - 1e-6)).float()
