"""python results/knee_clip/further.py DATA TEACHER... [--lesson views] [--lr 3e-4] [--epochs 18]

A trial, not a part of `make.py`: does a finished knee-clip grade better once networks that have seen ImageNet have
taught it too? A TEACHER is what ``photographs.py DATA`` leaves in its work folder. Three lessons:

- half: both views of every train image, and, so that nothing is forgotten, half of what the student is to say is what
  it used to say of the image as it is;
- noted: all that it is to say is what they and it said together of the image as it is, so that nobody is asked again;
- views: the one view that chance draws, all that it is to say is what a teacher says of that very view, and at first
  it learns the teacher's map as well.

`tune` is looked at after every epoch. Prints the history and writes it to --json.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import photographs
import teacher as teaching
import torch
from make import Settings, train_student
from records import Store, data_of
from sklearn.metrics import log_loss

import kneeclip as kc
from kneeclip import model as clip
from kneeclip.cards import environment
from kneeclip.checkpoints import write_json
from kneeclip.evaluation import flip_average

FURTHER = Settings(epochs=6, batch_size=32, lr=1.5e-4, warmup=0.5, dense=0.0, own=0.5, ema=0.995, every=1)
LESSONS = {"half": {}, "noted": {"own": 1.0}, "views": {"own": 0.0, "ce": 0.0, "views": 1, "dense": 0.3}}


def main(data: str, files: list[Path], model_name: str, s: Settings, work: Path, json_file: Path | None) -> None:
    # numbers next to zero, which the teachers' clipped units leave behind, would make a CPU more than twice as slow
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, processor = kc.load_clip(model_name)
    knees = kc.load_knees(data)
    train, tune = knees["train"], knees["tune"]
    films = {name: teaching.turned(knees[name]).to(device) for name in ("train", "tune")}
    noted = {}
    if s.own == 1:
        said = photographs.mean_answers(photographs.tempered_answers(files, knees, films, device, model_name))
        own, teachers = torch.from_numpy(said["train"]).float().to(device), []
        noted = {"tempered_loss": log_loss(tune["grade"], said["tune"], labels=range(5))}
        noted |= {"qwk": kc.evaluate(said["tune"], tune["grade"], tune["patient"], n_boot=0)["qwk"]}
        print("what is taught, on tune", noted, flush=True)
    else:
        own, teachers = None, [photographs.quick(photographs.finished(file, device)[0]) for file in files]
        if s.own:
            said = flip_average(*kc.predict(model.to(device), processor, train["image"], s.prompts))
            own = torch.from_numpy(said).float().to(device)
    grades = torch.tensor(train["grade"], device=device)
    lesson = {"model": model_name, "taught": [photographs.name_of(file) for file in files]}
    store = Store(work, f"further-{s.lr}-{s.own}", asdict(s) | lesson | data_of(grades))
    pixels = clip.preprocess(processor, tune["image"])

    def watch(epoch, losses, average):
        store.note(epoch, losses, *kc.predict(average, processor, pixels, s.prompts), tune)

    model = train_student(model, processor, teachers, films["train"], grades, s, store, watch, own).cpu()
    clip.save_clip(model, processor, work / store.path.stem, half=True)
    told = {"settings": asdict(s), **lesson, "noted": noted, "history": store.history}
    if json_file:
        write_json(json_file, told | {"environment": environment(device)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help="the public data set: a folder or a zip")
    parser.add_argument("teachers", metavar="TEACHER", type=Path, nargs="+", help="runs/photographs/lite0-224-0.pt")
    parser.add_argument("--model", default="knee-clip", help="a folder, or the one that is installed")
    parser.add_argument("--lr", type=float, default=FURTHER.lr)
    parser.add_argument("--epochs", type=int, default=FURTHER.epochs)
    parser.add_argument("--lesson", choices=LESSONS, default="half")
    parser.add_argument("--work", type=Path, default=Path("runs/further"), help="for what a killed run needs")
    parser.add_argument("--json", dest="json_file", type=Path)
    given = parser.parse_args()
    changes = {"lr": given.lr, "epochs": given.epochs} | LESSONS[given.lesson]
    settings = Settings(**asdict(FURTHER) | changes)
    main(given.data, given.teachers, given.model, settings, given.work, given.json_file)
