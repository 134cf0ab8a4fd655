"""The same steps from a shell: ``kneeclip --help``.

Heavy imports stand inside the commands, so that the help comes at once.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from kneeclip import commands, processes
from kneeclip.errors import KneeError
from kneeclip.options import (
    DataOption,
    JsonOption,
    ModelOption,
    OutOption,
    PatientsOption,
    PresetOption,
    PromptsOption,
    SeedOption,
    SplitOption,
    beside,
    given,
    home,
    write_json,
)
from kneeclip.shell import invoke

app = typer.Typer(
    help="CLIP-KOA, step by step: grading knee radiographs with CLIP. For teaching and research, never for diagnosis. "
    "(--debug, with any command, shows the traceback of an error.)",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def tutorial(
    notebooks: Annotated[Path, typer.Option("--notebooks", help="the folder of the notebooks")] = Path("notebooks"),
    out: OutOption = None,
    preset: PresetOption = None,
    data: DataOption = None,
) -> None:
    """Run the numbered notebooks and write executed copies and an index."""
    from kneeclip.tutorial import run_tutorial

    chosen = _preset(preset, data)
    _environment(chosen)
    out = out or Path("build/tutorial")
    run_tutorial(notebooks, out, world=chosen.world)
    typer.echo(f"\nRead on: {out / 'index.html'}  (or `jupyter lab {notebooks}` to run them yourself)")


@app.command()
def audit(data: Annotated[str, typer.Argument(metavar="DATA")], json_file: JsonOption = None) -> None:
    """Check a data set against its card: splits, patients, duplicates, unreadable files."""
    from kneeclip.auditing import audit as run_audit

    report = run_audit(data)
    typer.echo(report.text())
    write_json(json_file, report.to_dict())
    if not report.ok:
        faults = [file for finding in report.errors for file in finding.files] or [data]
        kinds = ", ".join(finding.kind for finding in report.errors).replace("source", "nothing to audit")
        raise KneeError(f"the audit found errors: {kinds}", faults, "mend what the report lists, then audit again")


app.command()(commands.phantom)


@app.command()
def pretrain(
    out: OutOption = None,
    seed: SeedOption = None,
    patients: PatientsOption = None,
    epochs: Annotated[int | None, typer.Option("--epochs")] = None,
    sides: Annotated[str, typer.Option("--sides", help="knees to learn from: both, R or L")] = "both",
    maps: Annotated[Path | None, typer.Option("--maps", help="of results/phantom_to_real/maps.py")] = None,
) -> None:
    """Make phantom-clip: a small CLIP trained from scratch on captioned phantoms."""
    from kneeclip.newborn import Pretraining
    from kneeclip.pretrain import pretrain as run_pretraining

    settings = dataclasses.replace(Pretraining(), **given(seed=seed, patients=patients, epochs=epochs), sides=sides)
    folder = run_pretraining(out or Path("runs/phantom-clip"), settings, maps=maps)
    typer.echo(f"Model: {folder}")


@app.command()
def train(
    preset: PresetOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    prompts: PromptsOption = None,
    arm: Annotated[
        str | None, typer.Option("--arm", help="clip, flip_aug, symmetry, consistency, clip_koa, canonical")
    ] = None,
    consistency: Annotated[str | None, typer.Option("--consistency", help="js, kl, mse or bhattacharyya")] = None,
    weight: Annotated[float | None, typer.Option("--weight", help="weight of the Consistency Loss")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="peak learning rate")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="images in a step")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="no, bf16 or fp16")] = None,
    adapt: Annotated[str | None, typer.Option("--adapt", help="what is trained: full, last_k, lora or probe")] = None,
    last_k: Annotated[int | None, typer.Option("--last-k", help="blocks of each tower, for last_k")] = None,
    lora_rank: Annotated[int | None, typer.Option("--lora-rank", help="rank of the added matrices, for lora")] = None,
    sides: Annotated[str, typer.Option("--sides", help="knees to train on: both, R or L")] = "both",
    fresh: Annotated[bool, typer.Option("--fresh", help="random weights: the control without pretraining")] = False,
    seed: SeedOption = None,
    out: OutOption = None,
    json_file: JsonOption = None,
) -> None:
    """Fine-tune CLIP on graded knees; the same command resumes a killed run."""
    from kneeclip.data import load_knees
    from kneeclip.model import load_clip
    from kneeclip.training import train as run_training

    chosen = _preset(preset, data)
    settings = given(
        arm=arm, consistency=consistency, weight=weight, epochs=epochs, lr=lr, batch_size=batch_size,
        precision=precision, adapt=adapt, last_k=last_k, lora_rank=lora_rank, seed=seed,
    )  # fmt: skip
    recipe = dataclasses.replace(chosen.recipe, **settings)
    base = model or chosen.model
    out = out or Path("runs") / f"{chosen.name}-{recipe.arm}-seed{recipe.seed}"
    beside(json_file, out)
    clip, processor = load_clip(base, fresh_seed=recipe.seed if fresh else None)
    facts = {"preset": chosen.name, "base": f"{base}, random weights" if fresh else base, "sides": sides}
    with processes.main_first():  # one decodes, the others open what it stored
        knees = load_knees(chosen.data, sides=sides)
    facts["data"] = next(iter(knees.values())).info.description
    run = run_training(clip, processor, knees, prompts or chosen.prompts, recipe, out=out, card=facts)
    for note in run.notes:
        typer.echo(f"Note: {note}.")
    best = run.history[run.best_epoch]
    tuned = ", ".join(f"{k.removeprefix('tune_')} {best[k]:.3f}" for k in best if k.startswith("tune_"))
    typer.echo(f"Kept epoch {run.best_epoch + 1} of {recipe.epochs} (tune: {tuned or 'none'}).")
    typer.echo(
        f"Model: {run.folder}\nNext: "
        + _typed(["kneeclip", "evaluate", str(run.folder), *(["--data", data] if data else [])])
    )
    write_json(json_file, {"best_epoch": run.best_epoch, "temperature": run.temperature, "history": run.history})


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a run folder, a bundled name or a hub id")],
    preset: PresetOption = None,
    data: DataOption = None,
    split: SplitOption = "validation",
    prompts: PromptsOption = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="the seed of the bootstrap")] = 0,
    json_file: JsonOption = None,
) -> None:
    """Grade a split and report every metric with its 95 % interval (patients resampled)."""
    from kneeclip import evaluation
    from kneeclip.cards import read_run
    from kneeclip.data import load_knees, require_split
    from kneeclip.loading import load_clip, model_folder
    from kneeclip.tables import Table, report_rows

    record, texts = read_run(model_folder(model))
    # a run is judged in the world that it was trained in, unless somebody says otherwise
    chosen = _preset(preset or (None if data else record.get("preset")), data)
    clip, processor = load_clip(model)
    texts = prompts or texts or chosen.prompts
    with processes.main_first():
        knees = require_split(load_knees(chosen.data), split)
    mirror = _mirrored(record, knees["side"])
    p, p_flip = processes.predict_shared(clip, processor, knees["image"], texts, mirror=mirror)
    if processes.rank() > 0:
        return  # it has graded its share; the main process counts and reports
    report = evaluation.evaluate(p, list(knees["grade"]), list(knees["patient"]), flipped=p_flip, seed=seed)
    split = {"val": "validation"}.get(split, split)
    name = texts if isinstance(texts, str) else texts.name
    world = knees.info.description
    folder = home(Path(model))
    called = (folder.resolve() if folder.is_dir() else folder).name  # of "." too
    report = {"model": called, "world": world, "split": split, "prompts": name, **report}
    typer.echo(f"{called} on {world}, {split}: {report['n']} images, {report['n_patients']} patients")
    typer.echo(str(Table(report_rows(report))))
    typer.echo(_disclaimer())
    write_json(json_file, report)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…")],
    model: Annotated[str, typer.Option("--model", help="a run folder, a bundled name or a hub id")] = "knee-clip",
    prompts: PromptsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Print the probability of each grade for single-knee radiographs."""
    import numpy as np

    from kneeclip.auditing import ODD, doubts
    from kneeclip.cards import read_run
    from kneeclip.films import patient_and_side, read_grey
    from kneeclip.loading import load_clip, model_folder
    from kneeclip.presets import GRADES
    from kneeclip.tables import Table

    images = [home(path) for path in images]
    films = [read_grey(path) for path in images]
    clip, processor = load_clip(model)
    record, texts = read_run(model_folder(model))
    mirror = _mirrored(record, [patient_and_side(path.stem)[1] for path in images])
    p, _ = processes.predict_shared(clip, processor, films, prompts or texts or "criteria", mirror=mirror)
    if processes.rank() > 0:
        return
    twins = len({path.name for path in images}) < len(images)  # of two folders: a name alone would not tell which
    rows = [
        {"image": str(path) if twins else path.name, "grade": GRADES[row.argmax()]}
        | dict(zip(GRADES, map(float, row), strict=True))
        for path, row in zip(images, p, strict=True)
    ]
    typer.echo(str(Table(rows)))
    for path, film in zip(images, films, strict=True):
        for doubt, found in doubts(np.asarray(film)).items():
            if found:
                typer.echo(f"Warning: {path.name}: {ODD[doubt]}.", err=True)
    typer.echo(_disclaimer())
    write_json(json_file, rows)


app.command()(commands.bench)
app.command()(commands.study)
app.command()(commands.report)


def _preset(name: str | None, data: str | None):
    from kneeclip.presets import get_preset

    if name is None and data is not None and not os.environ.get("KNEECLIP_PRESET"):
        name = "phantom" if data == "phantom" else "knees"  # who names real data means real knees
    chosen = get_preset(name, data=data)
    if not chosen.data:  # before a model is loaded, or even downloaded
        from kneeclip.data import find_source

        find_source(chosen.data)
    return chosen


def _typed(words: list[str]) -> str:
    """A command to copy into this system's shell; cmd.exe knows no single quotes."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _environment(preset) -> None:
    """What the notebooks' kernels read."""
    os.environ["KNEECLIP_PRESET"] = preset.name
    if not preset.is_phantom:
        where = preset.data if preset.data == "kaggle" else str(Path(os.path.expanduser(preset.data)).resolve())
        os.environ["KNEECLIP_DATA"] = where


def _mirrored(record: dict, sides) -> list[bool] | None:
    """Which knees a model of the canonical arm wants mirrored: the left ones. None for the other arms."""
    if record.get("recipe", {}).get("arm") != "canonical":
        return None
    if not set(sides) <= {"L", "R"}:
        what = "this model grades left knees mirrored, and the file names don't say which they are"
        raise KneeError(what, None, "end the names in L or R, as in 9001695L.png, or use a model of another arm")
    return [side == "L" for side in sides]


def _disclaimer() -> str:
    from kneeclip.cards import NOT_FOR_DIAGNOSIS

    return NOT_FOR_DIAGNOSIS


def _of_the_system(error: OSError) -> KneeError:
    """What the system refused, as one sentence with the file."""
    remedy = {errno.ENAMETOOLONG: "give a shorter name", errno.ENOSPC: "free some space"}.get(error.errno)
    remedy = remedy or "check the path, and who may read and write there"
    return KneeError(f"the system refuses it: {error.strerror or error}", error.filename, remedy)


def main() -> None:
    """The shell's entry: a failure ends in one sentence and a non-zero exit; ``--debug`` shows the traceback.

    In a launch of several processes only the main one prints, and only the first to fail says so.
    """
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    try:
        with processes.one_voice():
            invoke(app)
    except KneeError as error:
        if debug:
            raise
        processes.complain(f"kneeclip: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        processes.complain("kneeclip: stopped; the same command goes on where a training run was.")
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - whatever it is, a user gets a sentence
        if debug:
            raise
        text = " ".join(str(error).split())[:200]
        refused = isinstance(error, OSError) and error.errno is not None  # errors of HTTP are OSErrors without one
        told = _of_the_system(error) if refused else f"{type(error).__name__}: {text} (--debug shows where)."
        processes.complain(f"kneeclip: {told}")
        sys.exit(1)
    finally:
        processes.part()
