"""What a study leaves on disk: study.json, and one JSON file a run, whole or not there at all."""

from __future__ import annotations

import json
from pathlib import Path

from kneeclip.checkpoints import write_atomically
from kneeclip.errors import KneeError
from kneeclip.grid import Planned, Study, parse_study


def run_file(out: Path, run: Planned) -> Path:
    """Where the record of a run is, or will be."""
    return Path(out) / "runs" / f"{run.name}.json"


def read_results(out: str | Path) -> tuple[Study, dict, dict[Planned, dict]]:
    """A study folder: the study, what study.json says of its images, and the records of the finished runs.

    Raises
    ------
    KneeError
        If there is no study there, or a file of it is damaged.
    """
    path = Path(out) / "study.json"
    if not path.exists():
        raise KneeError("the folder holds no study", out, "make one with kneeclip study CONFIG --out FOLDER")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        settings, images = record["settings"], record["images"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KneeError("the study's record is damaged", path, "restore it") from error
    study = parse_study(settings)
    return study, images, finished_runs(study, Path(out))


def finished_runs(study: Study, out: Path) -> dict[Planned, dict]:
    """The records of the runs that are whole.

    Raises
    ------
    KneeError
        If one is damaged, or was made with other settings.
    """
    records = {}
    for run in study.runs:
        path = run_file(out, run)
        if not path.exists():
            continue
        try:
            records[run] = json.loads(path.read_text(encoding="utf-8"))
            config = records[run]["config"]
        except (ValueError, KeyError, TypeError) as error:
            raise KneeError("a run's record is damaged", path, "delete it, and the study makes it again") from error
        if config != study.hash:
            raise KneeError("a run was made with other settings", path, "move it away, and the study makes it again")
    return records


def write_compact(path: Path, record: dict) -> None:
    """JSON with one line for each entry: small, and a changed entry is a changed line. Atomically."""
    lines = [f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in record.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    write_atomically(path, lambda tmp: tmp.write_text(text, encoding="utf-8"))
