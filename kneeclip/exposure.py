"""From a knee's shadow to a film: chance, texture, artefacts and the film's response.

What an image draws by chance hangs on (seed, key) alone, never on its neighbours in a batch.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F

from kneeclip.sdf import cover, fade, per_image, smoothstep

UNIFORM, NORMAL = 64, 170  # numbers an image may draw; the last 100 normal ones make its clouds
TILE = 672  # side of a noise tile, in pixels of a 224 px image


def draw_chance(keys: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Uniform (N, UNIFORM) and normal (N, NORMAL) numbers, one row an image."""
    u, z = [], []
    for key in keys.long().tolist():
        # torch keeps the low 32 bits of a seed: the prime spreads neighbouring seeds over them.
        g = torch.Generator().manual_seed((seed * 1_000_003 + key) % 2**32)
        u.append(torch.rand(UNIFORM, generator=g))
        z.append(torch.randn(NORMAL, generator=g))
    return torch.stack(u).to(keys.device), torch.stack(z).to(keys.device)


def clouds(z: torch.Tensor, size: int) -> torch.Tensor:
    """Slow variation over the picture, about -1 to 1: (N, S, S)."""
    coarse = z[:, NORMAL - 100 :].reshape(-1, 1, 10, 10)
    return 0.7 * F.interpolate(coarse, (size, size), mode="bicubic").squeeze(1)


def textures(u: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Trabeculae and film grain: a window of each tile, chosen by chance, for every image; (N, S, S) twice."""
    bone, grain = _tiles(size).to(u.device)
    at = (u[:, :4] * (len(bone) - size)).long().tolist()
    return (
        torch.stack([bone[r : r + size, c : c + size] for r, c, _, _ in at]),
        torch.stack([grain[r : r + size, c : c + size] for _, _, r, c in at]),
    )


@lru_cache(maxsize=4)
def _tiles(size: int) -> torch.Tensor:
    """Two noise tiles (2, T, T), of unit variance at 224 px; made once for a size, the same on every machine."""
    noise = torch.randn(2, TILE, TILE, generator=torch.Generator().manual_seed(2504))
    f = torch.fft.fftfreq(TILE)
    fy, fx = f.view(-1, 1).abs(), f.view(1, -1).abs()
    radius = (fx**2 + fy**2).sqrt()
    # Trabeculae: some 2 to 7 px apart across, drawn out along the bone; a share of them runs anyhow.
    upright = torch.exp(-(((fx - 0.27) / 0.13) ** 2)) * torch.exp(-((fy / 0.07) ** 2))
    anyhow = torch.exp(-((radius / 0.30) ** 2)) * (1 - torch.exp(-((radius / 0.10) ** 2)))
    grain = torch.exp(-((radius / 0.6) ** 2))
    tiles = torch.fft.ifft2(torch.fft.fft2(noise) * torch.stack([upright + 0.55 * anyhow, grain])).real
    # Wires, bright where a slower noise crosses zero: single strong trabeculae and folds of the cortex.
    along = torch.exp(-(((fx - 0.09) / 0.06) ** 2)) * torch.exp(-((fy / 0.03) ** 2))
    across = torch.exp(-((radius / 0.10) ** 2)) * (1 - torch.exp(-((radius / 0.04) ** 2)))
    slow = torch.fft.ifft2(torch.fft.fft2(noise.flip(2)[:1]) * (along + 0.25 * across)).real
    wires = torch.exp(-((slow / (0.25 * slow.std())) ** 2))
    tiles[0] = 0.85 * tiles[0] / tiles[0].std() + 0.5 * (wires[0] - wires.mean()) / wires.std()
    tiles = tiles / tiles.std((1, 2), keepdim=True)
    if size == 224:
        return tiles
    side = max(size + 16, round(TILE * size / 224))
    return F.interpolate(tiles[None], (side, side), mode="bicubic", antialias=size < 224)[0]


def add_artefacts(a, grey: torch.Tensor, x: torch.Tensor, y: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Negatives, a brightness step, a black collimation edge, hardware and bright dots, as often as in real films.

    `grey` (N, S, S) holds 1 for white; x (N, 1, S) and y (N, S, 1) are in plateau widths. An anatomy whose
    `artefacts` is 0 gets none.
    """
    size, often = grey.shape[2], per_image(a.artefacts)

    def chance(i):
        return per_image(u[:, i])

    across = torch.linspace(0, 1, size, device=grey.device).view(1, 1, -1)
    down = across.transpose(1, 2)
    grey = torch.where(chance(20) < 0.012 * often, 1.05 - grey, grey)
    step = (chance(21) < 0.05 * often) * (across < 0.2 + 0.04 * (chance(22) - 0.5))
    grey = grey + 0.14 * (chance(23) - 0.6) * step
    edge = torch.where(chance(25) < 0.5, across, 1 - across) + 0.06 * (chance(26) - 0.5) * down
    dark = (chance(24) < 0.07 * often) * smoothstep((0.02 + 0.10 * chance(27) - edge) / 0.012 + 0.5)
    grey = grey * (1 - dark) + (0.1 - 0.4 * chance(38)) * dark
    metal = (chance(28) < 0.02 * often).float()
    if bool(metal.any()):
        turn = 6.283 * chance(30)
        mx, my = x - 0.5 * (chance(31) - 0.5), y - torch.where(chance(29) < 0.5, -0.35, 0.25)
        along, off = mx * turn.cos() + my * turn.sin(), my * turn.cos() - mx * turn.sin()
        half = 0.014 + 0.012 * chance(37) + 0.004 * torch.sin(along * 200)  # the thread of a screw
        screw = cover(torch.maximum(off.abs() - half, along.abs() - 0.08 - 0.05 * chance(32)), 0.006)
        grey = torch.maximum(grey, metal * screw * (0.95 + 0.1 * chance(33)))
    from_dot = (x - 0.9 * (chance(35) - 0.5)).square() + (y - chance(36) + 0.5).square()
    return grey + 0.35 * (chance(34) < 0.12 * often) * fade(from_dot / 0.006**2)


def film(grey: torch.Tensor) -> torch.Tensor:
    """The film's shoulder and toe: over-exposure washes out and leaves the joint just visible; 0 to 1."""
    grey = torch.where(grey > 0.8, 0.8 + 0.2 * torch.tanh((grey - 0.8) / 0.2), grey)
    return torch.where(grey < 0.1, 0.1 * torch.exp((grey - 0.1) / 0.1), grey).clamp(0, 1)


def reexposed(films: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """The same knees on other films: (N, S, S) uint8 to grey levels (N, S, S), 0 to 255, with nothing moved.

    Softer or sharper, another gamma and contrast, an uneven field, more grain, and one in fifty a negative: what a
    model that is to read real films must not rely on.
    """
    n, size = len(films), films.shape[-1]
    u = (torch.rand(n, 8, generator=g) * 2 - 1).to(films.device)[..., None, None]
    if films.device.type == "cuda":  # a number for every pixel, drawn on the CPU, would be all that a GPU waits for
        g = torch.Generator(films.device).manual_seed(int(torch.randint(2**31, (), generator=g)))
    grain = torch.randn(n, size, size, generator=g, device=g.device).to(films.device)
    x = films.float() / 255
    soft = x[:, None]
    for _ in range(2):
        soft = F.avg_pool2d(soft, 3, 1, 1, count_include_pad=False)
    x = x + torch.where(u[:, 0] > 0, 2 * u[:, 0], u[:, 0]) * (x - soft[:, 0])
    x = x.clamp(1e-4, 1) ** torch.exp(0.5 * u[:, 1])
    at = torch.linspace(-1, 1, size, device=films.device)
    x = x + 0.12 * (u[:, 2] * at + u[:, 3] * at[:, None]) + 0.01 * (1 + u[:, 4]) * grain
    mean = x.mean((1, 2), keepdim=True)
    x = (x - mean) * (1 + 0.25 * u[:, 5]) + mean + 0.08 * u[:, 6]
    return 255 * torch.where(u[:, 7] > 0.96, 1 - x, x).clamp(0, 1)
