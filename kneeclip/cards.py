"""What lies beside the weights of a run: its numbers, its prompts, its history and a model card."""

from __future__ import annotations

import dataclasses
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from kneeclip.checkpoints import DAMAGED, read_json, write_atomically, write_json
from kneeclip.errors import KneeError
from kneeclip.presets import OTHERS, PRESETS, PUBLIC
from kneeclip.prompts import PromptSet, read_prompts

NOT_FOR_DIAGNOSIS = "For teaching and research, never for diagnosis."


def environment(device: torch.device | None = None) -> dict:
    """Versions, machine and commit that a number was made with.

    `device` is where it was made; without it this machine's accelerator, or its CPU, is taken for it.
    """
    packages = ("torch", "transformers", "accelerate", "datasets", "numpy")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "device": _device(device),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }


def facts_of(model, knees) -> dict:
    """What model and data tell of themselves: the base model, the world, and a preset of that world."""
    world = getattr(getattr(knees["train"], "info", None), "description", "")
    preset = {PRESETS["phantom"].world: "phantom", PUBLIC: "knees", OTHERS: "knees"}.get(world, "")
    facts = {"base": model.name_or_path, "data": world, "preset": preset}
    return {name: fact for name, fact in facts.items() if fact}


def write_run(run, fingerprint: str, facts: dict) -> None:
    """history.json, prompts.json, README.md and, last of all, run.json: its presence means that the run is whole."""
    folder = run.folder
    write_json(folder / "history.json", {"epochs": run.history, "steps": run.steps}, resumes=True)
    write_json(folder / "prompts.json", dataclasses.asdict(run.prompts), resumes=True)
    chosen = run.history[run.best_epoch]
    record = {
        "recipe": dataclasses.asdict(run.recipe),
        "prompts": run.prompts.name,
        "best_epoch": run.best_epoch,
        "temperature": run.temperature,
        "trained": run.trained,
        "seconds": round(sum(row["seconds"] for row in run.history), 1),
        "notes": run.notes,
        **facts,
        "environment": environment(run.model.device),
        "fingerprint": fingerprint,
    }
    page = _card(record, chosen, several=max(run.prompts.counts) > 1)
    write_atomically(folder / "README.md", lambda tmp: tmp.write_text(page, encoding="utf-8"), resumes=True)
    write_json(folder / "run.json", record, resumes=True)


def read_run(folder: Path) -> tuple[dict, PromptSet | None]:
    """run.json and the prompts beside a run's weights; ``({}, None)`` where there is no run.

    Raises
    ------
    KneeError
        If either is missing, damaged or not what `write_run` writes.
    """
    if not (folder / "run.json").exists():
        return {}, None
    record = read_json(folder / "run.json", DAMAGED)
    if not isinstance(record.get("recipe"), dict) or not isinstance(record.get("preset", ""), str):
        raise KneeError("the run's record lacks an entry", folder / "run.json", DAMAGED)
    return record, read_prompts(folder / "prompts.json")


def _card(record: dict, chosen: dict, several: bool) -> str:
    recipe = record["recipe"]
    judged = recipe["select"] != "none" and any(name.startswith("tune_") for name in chosen)
    how = f"chosen on `tune` by {recipe['select']}" if judged else "the last"
    flatter = "The tune figures chose the epoch, so they flatter: report those of `kneeclip evaluate`.\n\n"
    flatter = flatter if judged else ""
    rows = [
        ("base model", record.get("base", "not stated")),
        ("trained on", record.get("data", "not stated")),
        ("arm", recipe["arm"]),
        ("what learnt", f"{recipe['adapt']}: {record['trained']:,} numbers"),
        ("prompts", record["prompts"]),
        ("epoch kept", f"{record['best_epoch'] + 1} of {recipe['epochs']}, {how}"),
        ("seed", recipe["seed"]),
        *[(name.replace("_", " "), f"{chosen[name]:.3f}") for name in chosen if name.startswith("tune_")],
    ]
    use = (
        "Use: `CLIPModel.from_pretrained(folder)`, with the texts of `prompts.json` as the classes. A "
        '`transformers.pipeline` of it needs `hypothesis_template="{}"`: its own template puts words around them.\n'
    )
    if several:
        use = (
            "Use: `kneeclip.load_clip(folder)`. A grade has several texts, and its class is the mean of their "
            "embeddings, which `pipeline` does not take.\n"
        )
    if recipe["arm"] == "canonical":
        use += "\nIt learnt left knees mirrored: mirror them before you show them (`kneeclip` does it by file name).\n"
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return (
        "---\nlibrary_name: transformers\npipeline_tag: zero-shot-image-classification\n---\n"
        "# A CLIP that grades knee radiographs (Kellgren–Lawrence 0–4)\n\n"
        f"**{NOT_FOR_DIAGNOSIS}** Trained by `kneeclip`, a tutorial on CLIP-KOA (arXiv 2504.19443).\n\n"
        f"| | |\n|---|---|\n{table}\n\n"
        f"{flatter}{use}"
    )


def _device(device: torch.device | None) -> str:
    device = device or torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "MPS" if device.type == "mps" else f"CPU, {platform.machine()}"


def _commit() -> str | None:
    here = Path(__file__)
    try:  # first whether this file is tracked: an environment may lie inside somebody else's checkout
        for words in (["ls-files", "--error-unmatch", here.name], ["rev-parse", "HEAD"]):
            out = subprocess.run(["git", *words], cwd=here.parent, capture_output=True, text=True, timeout=5)
            if out.returncode:
                return None
    except (OSError, subprocess.SubprocessError):
        return None
    return out.stdout.strip() or None
