"""The shell's commands for who draws and measures: phantoms, benches, studies, their reports. The others: `cli`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from kneeclip.errors import KneeError
from kneeclip.options import DataOption, JsonOption, OutOption, PatientsOption, SeedOption, given, home, write_json


def phantom(
    compare: Annotated[str | None, typer.Option("--compare", metavar="DATA", help="real knees to compare with")] = None,
    patients: PatientsOption = 500,
    size: Annotated[int, typer.Option("--size", help="pixels")] = 112,
    seed: SeedOption = None,
    out: OutOption = None,
    json_file: JsonOption = None,
) -> None:
    """Draw phantom knees into a figure; with --compare, beside real ones, with distances to their statistics."""
    from kneeclip import plots
    from kneeclip.checkpoints import write_atomically
    from kneeclip.phantom import cohort_statistics, make_phantoms

    knees = make_phantoms(patients, 1 if seed is None else seed, size=size)
    if compare is None:
        rows = [i for grade in range(5) for i in (knees.grades == grade).nonzero()[0][:6]]
        write_json(json_file, cohort_statistics(knees))
        figure = plots.knee_grid(knees.images[rows], knees.grades[rows], columns=6, world="phantom (synthetic) knees")
    else:
        figure, numbers = _compare(compare, knees, size)
        for name, value in numbers.items():
            typer.echo(f"{name:36s} {value:9.3f}")
        write_json(json_file, numbers)
    out = out or Path("build/phantom.png")
    kind = out.suffix.lstrip(".").lower()
    if kind not in figure.canvas.get_supported_filetypes():
        raise KneeError("a figure can't be written in that form", out, "end its name in .png, .svg or .pdf")
    write_atomically(out, lambda tmp: figure.savefig(tmp, format=kind, dpi=120, bbox_inches="tight"))
    typer.echo(f"Figure: {out}")


def bench(
    what: Annotated[str, typer.Argument(metavar="step|data|eval|gpu")] = "step",
    model: Annotated[
        list[str] | None, typer.Option("--model", help="may be given twice; vit-b16: the paper's, random weights")
    ] = None,
    data: DataOption = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="images in a step")] = None,
    repeats: Annotated[int | None, typer.Option("--repeats", help="rounds, every contender once in each")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="steps timed in a round")] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="PyTorch threads")] = None,
    json_file: JsonOption = None,
) -> None:
    """Time training, reading or prediction beside a floor and a rival, in one process and in turns."""
    known = ("step", "data", "eval", "gpu")
    if what not in known:
        raise KneeError("there is no such bench", what, f"choose one of {', '.join(known)}")
    if what == "gpu":
        from kneeclip.gpu import bench_gpu as timed
    else:
        from kneeclip import bench as benches

        timed = getattr(benches, f"bench_{what}")
    from kneeclip.laps import rows
    from kneeclip.tables import Table

    data = data or os.environ.get("KNEECLIP_DATA") or None
    settings = given(batch_size=batch_size, repeats=repeats, steps=steps, threads=threads)
    numbers = timed(model or None, data, **settings)
    typer.echo(f"{numbers['machine']}, {numbers['environment']['threads']} threads; {numbers['world']}")
    typer.echo(str(Table(rows(numbers))))
    if "memory" in numbers:
        typer.echo(str(Table(numbers["memory"])))
    write_json(json_file, numbers)


def study(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="a YAML file: results/NAME/config.yaml")],
    out: Annotated[Path | None, typer.Option("--out", help="where the runs go [the folder of CONFIG]")] = None,
    data: Annotated[str | None, typer.Option("--data", help="where real images are [KNEECLIP_DATA]")] = None,
    only: Annotated[str | None, typer.Option("--only", help="runs whose names match, as in fold0-*")] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="at most this many runs", min=1)] = None,
    work: Annotated[Path | None, typer.Option("--work", help="for unfinished runs [.unfinished in --out]")] = None,
) -> None:
    """Make the runs of a study. A killed one resumes where it stopped; a second shell shares the work."""
    from kneeclip.study import run_study

    run_study(config, out or home(config).parent, data=data, only=only, limit=limit, work=work, say=typer.echo)


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a study's folder: results/NAME")],
) -> None:
    """Write the tables, figures and finding of a study, finished or not, from the JSON of its runs alone."""
    from kneeclip.findings import write_report

    for path in write_report(folder):
        typer.echo(f"Written: {path}")


def _compare(source: str, knees, size: int):
    import numpy as np
    from PIL import Image

    from kneeclip import plots, realism
    from kneeclip.data import load_knees, require_split

    train = require_split(load_knees(source), "train")
    chosen = train.select(range(0, len(train), max(1, len(train) // len(knees.images))))
    real = np.stack([np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)) for image in chosen["image"]])
    comparison = realism.compare(real, knees.images, real_sides=np.array(chosen["side"]), phantom_sides=knees.sides)
    return plots.phantom_comparison(real, knees.images, comparison), comparison["distances"]
