"""Two of the shell's commands, kept beside `cli`: studies and their reports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def study(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="a YAML file: results/NAME/config.yaml")],
    out: Annotated[Path | None, typer.Option("--out", help="where the runs go [the folder of CONFIG]")] = None,
    data: Annotated[str | None, typer.Option("--data", help="where real images are [KNEECLIP_DATA]")] = None,
    only: Annotated[str | None, typer.Option("--only", help="runs whose names match, as in fold0-*")] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="make no more than so many runs", min=1)] = None,
    work: Annotated[Path | None, typer.Option("--work", help="for unfinished runs [runs/study]")] = None,
) -> None:
    """Make the runs of a study; a killed one goes on where it was, and a second shell may help."""
    from kneeclip.study import run_study

    run_study(config, out or config.parent, data=data, only=only, limit=limit, work=work, say=typer.echo)


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a study's folder: results/NAME")],
) -> None:
    """Tables, figures and the finding of a study, finished or not, from the JSON of its runs alone."""
    from kneeclip.findings import write_report

    for path in write_report(folder):
        typer.echo(f"Written: {path}")
