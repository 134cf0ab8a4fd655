"""Fine-tuning on Accelerate: both views in one forward, the prompts encoded once a step.

Everything random is keyed, nothing is stateful: the order of the images by (seed, epoch), their augmentation by
(seed, epoch, image), or by the place in the epoch where `balance` draws an image several times. A resumed run
therefore needs the step's number and the weights, no generator's state, and on one machine's CPU, with the same number
of threads, ends in the same bits as one that was never killed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import CLIPModel, CLIPProcessor

from kneeclip import model as clip
from kneeclip import processes
from kneeclip.adapting import adapted, count_trained
from kneeclip.batches import epoch_batches, load_resident
from kneeclip.cards import facts_of, write_run
from kneeclip.checkpoints import DAMAGED, fingerprint, load_learnt, load_state, read_json
from kneeclip.errors import KneeError
from kneeclip.evaluation import evaluate, fit_temperature
from kneeclip.presets import Recipe
from kneeclip.processes import make_accelerator
from kneeclip.prompts import PromptSet, as_prompts
from kneeclip.runstate import RunState
from kneeclip.updating import BETAS, EPS, Grader, learning_rate, parameter_groups, update


@dataclass
class Run:
    """A finished training: the model with the chosen weights, and how it got there."""

    model: CLIPModel
    recipe: Recipe
    prompts: PromptSet
    history: list[dict]  # one row an epoch: losses, learning rate, seconds, tune metrics
    steps: list[dict]  # one row a step: losses
    best_epoch: int
    temperature: float | None = None  # folded into the logit scale, if the recipe calibrates
    folder: Path | None = None
    resumed_at: int = 0  # the step that this call started from
    trained: int = 0  # parameters; with LoRA those of the matrices that are merged by now
    notes: list[str] = field(default_factory=list)


def train(
    model: CLIPModel,
    processor: CLIPProcessor,
    knees: Mapping,
    prompts: PromptSet | str,
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    progress: bool = True,
    card: dict | None = None,
    watch: Callable[[list[dict], list[dict]], None] | None = None,
) -> Run:
    """Fine-tune CLIP on graded knees, in place: all of it, or what the recipe's `adapt` names.

    Both views go through the image tower in one forward pass. The prompts are encoded once a step (once a piece,
    where `micro_batch` cuts the step into pieces), not once an image.

    Parameters
    ----------
    knees : mapping
        ``knees["train"]``, and ``knees["tune"]`` to choose the epoch by; each with the columns ``image`` (PIL
        images, or an (N, H, W) uint8 array) and ``grade``, and where known ``patient`` and ``side``. A DatasetDict
        of `load_knees` and a plain dict of arrays both do.
    prompts : PromptSet or name
    recipe : Recipe
    out : folder, optional
        Where checkpoints and the result go. A folder with an unfinished run of the same settings is resumed, one
        with a finished run is read back, one with another run is refused.
    card : dict, optional
        Facts for the run's model card. Base model, data and preset stand there anyway, where model and data come from
        `load_clip` and `load_knees`.
    watch : callable, optional
        ``watch(history, steps)`` is called after every step, and again at the end of an epoch, with the rows so
        far (as in `Run`): to look at, not to change. Only the main process calls it, and the weights are the same
        with and without it. `kneeclip.widgets.live_curve` is one.

    Returns
    -------
    Run

    Raises
    ------
    KneeError
        For data that don't fit, a loss that is no longer finite (the last good checkpoint is kept), a folder that
        holds another run, or a full disk.

    Notes
    -----
    Notebook: 03.
    """
    if not isinstance(recipe, Recipe):
        remedy = "give a Recipe, as preset.recipe is one; Recipe(**settings) makes one of a dict"
        raise KneeError("that is no recipe", type(recipe).__name__, remedy)
    accelerator = make_accelerator(recipe.precision)
    progress = progress and accelerator.is_main_process
    watch = watch if watch is not None and accelerator.is_main_process else lambda history, steps: None
    prompts = as_prompts(prompts)
    data = load_resident(processor, knees, "train", accelerator, recipe, progress)
    tune = load_resident(processor, knees, "tune", accelerator, recipe, progress) if "tune" in knees else None
    model.to(accelerator.device).train()
    with RunState(out, recipe.select, accelerator) as state:
        if out is not None:  # before there are adapters: a run is known by the weights that it starts from
            state.open(_identity(recipe, prompts, data, tune, processor, model))
        if state.finished:
            return _read_back(state, model, recipe, prompts)
        with adapted(model, recipe) as merge:
            _fit(accelerator, model, processor, data, tune, prompts, recipe, state, watch, progress)
            load_learnt(model, state.best_weights if state.folder is None else load_state(state.best_file)[0])
            merge()
            facts = facts_of(model, knees) | (card or {})
            return _finish(state, model, processor, recipe, prompts, tune, accelerator, facts)


def _fit(accelerator, model, processor, data, tune, prompts, recipe, state, watch, progress) -> None:
    """Every epoch that is still to come; what was learnt stands in `state` afterwards."""
    state.trained = count_trained(model)
    if not state.trained:
        raise KneeError("every weight of the model is frozen", None, "call model.requires_grad_(True)")
    tokens = clip.tokenize(model, processor, prompts).to(accelerator.device)
    grader = Grader(model, prompts.counts)
    # fused: one pass over the weights; under loss scaling it would hide from Accelerate that a step was skipped
    groups, fused = parameter_groups(model, recipe.weight_decay), recipe.precision != "fp16"
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=BETAS, eps=EPS, fused=fused)
    grader, optimizer = accelerator.prepare(grader, optimizer)
    state.resume(model, optimizer)
    per_epoch = math.ceil(len(data.grades) / recipe.batch_size)
    total = per_epoch * recipe.epochs
    state.resumed_at = state.step
    # closed by an error too, so that the error's sentence stands on a line of its own
    with tqdm(total=total, initial=state.step, desc=recipe.arm, unit="step", delay=2, disable=not progress) as bar:
        for epoch in range(state.step // per_epoch, recipe.epochs):
            start = time.perf_counter()  # of this epoch; a resumed one counts from where it went on
            batches = epoch_batches(data, recipe, epoch)
            for i in range(state.step % per_epoch, per_epoch):
                batch, draws = batches[i]
                lr = learning_rate(state.step, total, recipe)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                losses = update(accelerator, grader, optimizer, data, tokens, batch, draws, recipe, processor)
                state.steps.append({"step": state.step, "epoch": epoch, **losses})
                state.step += 1
                bar.update()
                watch(state.history, state.steps)
                if recipe.save_every and state.step % recipe.save_every == 0 and i + 1 < per_epoch:
                    state.save(model, optimizer)
            row = _epoch_row(state, epoch, lr, [len(batch) for batch, _ in batches])
            judged = (epoch + 1) % recipe.judge_every == 0 or epoch + 1 == recipe.epochs
            if tune is not None and judged:
                with accelerator.autocast():
                    p, p_flip = processes.predict_shared(model, processor, tune.images, prompts, mirror=tune.mirror)
                row |= _tune_metrics(p, p_flip, tune)
            row["seconds"] = round(time.perf_counter() - start, 2)
            bar.set_postfix(
                {k: f"{row[k]:.3f}" for k in ("total", "tune_accuracy", "tune_qwk") if k in row}, refresh=False
            )
            state.end_of_epoch(row, model, optimizer, judged)
            watch(state.history, state.steps)


def _finish(state, model, processor, recipe, prompts, tune, accelerator, card) -> Run:
    model.eval()
    run = Run(model, recipe, prompts, state.history, state.steps, state.best_epoch, None, state.folder)
    run.resumed_at, run.trained = state.resumed_at, state.trained
    if tune is None:
        kept = "no tune split: the last epoch was kept"
        run.notes.append(kept + (", and nothing was calibrated" if recipe.calibrate else ""))
    elif recipe.calibrate:
        p, _ = processes.predict_shared(model, processor, tune.images, prompts, mirror=tune.mirror)
        grades = tune.grades.cpu().numpy()
        if (p.argmax(1) == grades).all():  # the likelihood would then grow without end, the sharper the better
            run.notes.append("every image of tune was graded right, so no temperature was fitted")
        else:
            run.temperature = fit_temperature(p, grades)
            clip.fold_temperature(model, run.temperature)
    accelerator.wait_for_everyone()  # nobody may still be reading what is removed below
    if state.folder is not None and accelerator.is_main_process:
        clip.save_clip(model, processor, state.folder)
        write_run(run, state.fingerprint, card)
        for file in (state.checkpoint, state.best_file):  # only now is the result safe without them
            file.unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return run


def _identity(recipe, prompts, data, tune, processor, model) -> str:
    # a setting that the rung does not look at makes no other run, nor does `adapt` where everything learns
    idle = {"last_k", "lora_rank"} - {{"last_k": "last_k", "lora": "lora_rank"}.get(recipe.adapt)}
    idle |= {"adapt"} if recipe.adapt == "full" else set()
    asked = {name: value for name, value in vars(recipe).items() if name not in idle}
    settings = [asked, prompts.texts, processor.image_processor.image_mean, processor.image_processor.image_std]
    tensors = {f"train/{name}": getattr(data, name) for name in ("images", "grades", "mirror_on_device")}
    if tune is not None:
        tensors |= {"tune/images": torch.from_numpy(tune.images), "tune/grades": tune.grades}
    return fingerprint(settings, tensors | {f"weights/{k}": v for k, v in model.state_dict().items()})


def _read_back(state, model, recipe, prompts) -> Run:
    done = state.finished
    model.load_state_dict(clip.load_clip(state.folder)[0].state_dict())
    history = read_json(state.folder / "history.json", DAMAGED)
    try:
        run = Run(model.eval(), recipe, prompts, history["epochs"], history["steps"], done["best_epoch"])
        run.temperature, run.folder, run.resumed_at = done["temperature"], state.folder, len(history["steps"])
        run.trained = done.get("trained", 0)
        run.notes = [*done["notes"], "this run was finished before; nothing was trained"]
    except (KeyError, TypeError) as error:
        raise KneeError("the run's record lacks an entry", [state.folder, str(error)], DAMAGED) from error
    return run


def _epoch_row(state, epoch, lr, sizes) -> dict:
    """The epoch's mean losses over its images, from its steps' means and numbers of images: the last has fewer."""
    rows = [row for row in state.steps if row["epoch"] == epoch]
    losses = [name for name in rows[0] if name not in ("step", "epoch")]
    means = {name: sum(n * row[name] for n, row in zip(sizes, rows, strict=True)) / sum(sizes) for name in losses}
    return {"epoch": epoch, "step": state.step, "lr": lr, **means}


def _tune_metrics(p, p_flip, tune) -> dict[str, float]:
    report = evaluate(p, tune.grades.cpu().numpy(), tune.patients, flipped=p_flip, n_boot=0)
    names = ("accuracy", "qwk", "flip_agreement")
    return {f"tune_{name}": report[name] for name in names if report[name] is not None}
