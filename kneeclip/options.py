"""What several of the shell's commands share: options that mean the same wherever they appear, and ``--json``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from kneeclip import processes
from kneeclip.errors import KneeError
from kneeclip.presets import MAX_SEED


def home(path: Path | None) -> Path | None:
    """`path` with its ``~``: a shell leaves that of ``--out=~/run`` to the command."""
    return path if path is None else Path(os.path.expanduser(path))


#: Files that make up a model or a run, and their beginnings: numbers of the same name would spoil it.
MODEL_FILES = ("config.json", "run.json", "history.json", "prompts.json", "pretraining.json", "vocab.json")
MODEL_FILES += ("merges.txt", "readme.md", "generation_config.json", "added_tokens.json", "chat_template.jinja")
MODEL_STEMS = ("tokenizer", "processor", "preprocessor", "special_tokens")


def _of_a_model(path: Path) -> bool:
    name = path.name.lower()  # Windows and Macs know no other
    return name in MODEL_FILES or name.startswith(MODEL_STEMS) or path.suffix.lower() == ".safetensors"


def beside(json_file: Path | None, out: Path) -> None:
    """Refuse a ``--json`` that would replace a file of the model that is to be written into `out`."""
    if json_file is not None and json_file.resolve().parent == out.resolve() and _of_a_model(json_file):
        raise KneeError("--json names a file of the run itself", json_file, "name another --json FILE")


def _free(path: Path | None) -> Path | None:
    """`path`, unless numbers would replace what a user wants to keep: said before an hour of work, not after it."""
    if path is None:
        return None
    typed, path, remedy = path, home(path), "name another --json FILE"
    if path.is_dir():
        raise KneeError("--json is a folder", path, remedy)
    if sys.argv.count(str(typed)) > 1:
        raise KneeError("--json names a file that the command also uses otherwise", path, remedy)
    if path.exists() and path.suffix.lower() != ".json":
        raise KneeError("--json names a file that is there already and is no .json", path, remedy)
    if _of_a_model(path) and (path.parent / "config.json").exists():
        raise KneeError("--json names a file of a model folder", path, remedy)
    there = next(folder for folder in (*path.absolute().parents,) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise KneeError("--json names a file that can't be written", path, remedy)
    return path


PresetOption = Annotated[str | None, typer.Option("--preset", help="phantom, knees or paper [KNEECLIP_PRESET]")]
DataOption = Annotated[str | None, typer.Option("--data", help="phantom, a folder, a zip, or kaggle [KNEECLIP_DATA]")]
SplitOption = Annotated[str, typer.Option("--split", help="train, tune, validation (val) or test")]
ModelOption = Annotated[str | None, typer.Option("--model", help="a bundled name, a folder or a hub id")]
PromptsOption = Annotated[
    str | None, typer.Option("--prompts", help="names, paper, criteria, ensemble, nonsense, or a .json file of five")
]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, max=MAX_SEED, help="the seed of everything random")]
PatientsOption = Annotated[int | None, typer.Option("--patients", max=100_000, help="phantom patients, two knees each")]
OutOption = Annotated[Path | None, typer.Option("--out", callback=home, help="where the result goes")]
JsonOption = Annotated[Path | None, typer.Option("--json", callback=_free, help="write the numbers to this file too")]


def given(**settings) -> dict:
    """The settings that the user gave; the others stay as the preset has them."""
    return {name: value for name, value in settings.items() if value is not None}


def write_json(path: Path | None, value: object) -> None:
    """Write the numbers to the file that ``--json`` names; of several processes the main one does."""
    from kneeclip import checkpoints

    if path is not None and processes.rank() == 0:
        checkpoints.write_json(path, value)
        typer.echo(f"Numbers: {path}")
