"""python results/knee_clip/further.py DATA TEACHER [--lr 1.5e-4] [--epochs 6]

A trial, not a part of `make.py`: does a finished knee-clip grade better once a network that has seen ImageNet has
taught it too? TEACHER is what ``photographs.py DATA --shown 224`` leaves in its work folder. It teaches both views of
every train image; so that nothing is forgotten, half of what the student is to say is what it used to say of the image
as it is. `tune` is looked at after every epoch. Prints the history and writes it to --json.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import photographs
import teacher as teaching
import torch
from make import Settings, train_student
from records import Store

import kneeclip as kc
from kneeclip import model as clip
from kneeclip.cards import environment
from kneeclip.checkpoints import write_json
from kneeclip.evaluation import flip_average

FURTHER = Settings(epochs=6, batch_size=32, lr=1.5e-4, warmup=0.5, dense=0.0, own=0.5, ema=0.995, every=1)


def main(data: str, file: Path, model_name: str, s: Settings, work: Path, json_file: Path | None) -> None:
    # numbers next to zero, which the teacher's clipped units leave behind, would make a CPU more than twice as slow
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher, _ = photographs.finished(file, device)
    model, processor = kc.load_clip(model_name)
    knees = kc.load_knees(data)
    train, tune = knees["train"], knees["tune"]
    own = flip_average(*kc.predict(model.to(device), processor, train["image"], s.prompts))
    store, pixels = Store(work, f"further-{s.lr}", asdict(s)), clip.preprocess(processor, tune["image"])

    def watch(epoch, losses, average):
        store.note(epoch, losses, *kc.predict(average, processor, pixels, s.prompts), tune)

    films, grades = teaching.turned(train).to(device), torch.tensor(train["grade"], device=device)
    own = torch.from_numpy(own).float().to(device)
    model = train_student(model, processor, [teacher], films, grades, s, store, watch, own).cpu()
    clip.save_clip(model, processor, work / "knee-clip", half=True)
    write_json(json_file, {"settings": asdict(s), "history": store.history, "environment": environment(device)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help="the public data set: a folder or a zip")
    parser.add_argument("teacher", metavar="TEACHER", type=Path, help="runs/photographs/lite0-224-0.pt")
    parser.add_argument("--model", default="knee-clip", help="a folder, or the one that is installed")
    parser.add_argument("--lr", type=float, default=FURTHER.lr)
    parser.add_argument("--epochs", type=int, default=FURTHER.epochs)
    parser.add_argument("--work", type=Path, default=Path("runs/further"), help="for what a killed run needs")
    parser.add_argument("--json", dest="json_file", type=Path)
    given = parser.parse_args()
    settings = Settings(**asdict(FURTHER) | {"lr": given.lr, "epochs": given.epochs})
    main(given.data, given.teacher, given.model, settings, given.work, given.json_file)
