"""Notebook 03: its exercises name the typical mistakes, its figures draw, and watching a training changes nothing."""

import dataclasses
import math

import accelerate
import matplotlib as mpl
import nbformat
import pytest
import torch
from nbclient import NotebookClient

from kneeclip import plots
from kneeclip.checks import check
from kneeclip.errors import KneeError
from kneeclip.model import load_clip
from kneeclip.training import train


def rate(step, total, warmup):
    warm = max(1, round(warmup * total))
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


def accumulate(losses, sizes):
    return sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / sum(sizes)


SOLUTIONS = [
    ("03", rate),
    ("03-extra", accumulate),
    ("03-extra", lambda losses, sizes: torch.tensor(losses) @ torch.tensor(sizes).float() / sum(sizes)),
]
MISTAKES = [
    ("03", lambda step, total, warmup: 1.0, "warm-up rises"),
    ("03", lambda step, total, warmup: step / 2 if step < 2 else rate(step, total, warmup), "nothing would be learnt"),
    ("03", lambda step, total, warmup: rate(step, total, warmup) if step < 2 else 1 - (step - 2) / 8, "straight line"),
    (
        "03",
        lambda step, total, w: rate(step, total, w) if step < 2 else 0.5 * (1 + math.cos(math.pi * step / total)),
        "end of the warm-up",
    ),
    ("03-extra", lambda losses, sizes: sum(losses) / len(losses), "mean of the means"),
    ("03-extra", lambda losses, sizes: sum(losses), "number of pieces"),
    ("03-extra", lambda losses, sizes: accumulate(losses, sizes) * sum(sizes), "sum over the images"),
    ("03-extra", lambda losses, sizes: max(losses), "count the same"),
]


@pytest.mark.parametrize(("exercise", "answer", "word"), MISTAKES)
def test_a_typical_mistake_is_named(exercise, answer, word, capsys):
    assert check(exercise, answer) is False
    assert word in capsys.readouterr().out


@pytest.mark.parametrize(("exercise", "answer"), SOLUTIONS)
def test_a_right_answer_passes(exercise, answer):
    assert check(exercise, answer) is True


@pytest.mark.parametrize("arm", ["clip", "clip_koa"])
def test_watching_sees_every_step_and_changes_no_bit(arm, tiny_folder, arrays, recipe):
    recipe, seen = dataclasses.replace(recipe, arm=arm), []
    plain = train(*load_clip(tiny_folder), arrays, "criteria", recipe)
    watched = train(
        *load_clip(tiny_folder), arrays, "criteria", recipe, watch=lambda h, s: seen.append((len(h), dict(s[-1])))
    )
    per_epoch = len(plain.steps) // recipe.epochs
    expected = []
    for i, row in enumerate(plain.steps):
        expected.append((i // per_epoch, row))
        if (i + 1) % per_epoch == 0:
            expected.append((i // per_epoch + 1, row))  # once more, when the epoch has been judged
    assert seen == expected
    a, b = plain.model.state_dict(), watched.model.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert plain.steps == watched.steps


def test_a_watched_run_that_is_interrupted_resumes_to_the_same_bits(tiny_folder, arrays, recipe, tmp_path):
    recipe = dataclasses.replace(recipe, save_every=1)
    whole = train(*load_clip(tiny_folder), arrays, "criteria", recipe)

    def stop(history, steps):  # what the stop button of a notebook does, while the curve is drawn
        if len(steps) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(*load_clip(tiny_folder), arrays, "criteria", recipe, out=tmp_path / "run", watch=stop)
    seen = []
    resumed = train(
        *load_clip(tiny_folder), arrays, "criteria", recipe, out=tmp_path / "run",
        watch=lambda h, s: seen.append(s[-1]["step"]),
    )  # fmt: skip
    assert 3 <= resumed.resumed_at <= 5
    assert seen == [*range(resumed.resumed_at, 6), 5]
    a, b = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_only_the_main_process_watches(tiny, arrays, recipe, monkeypatch):
    class Second(accelerate.Accelerator):
        is_main_process = False

    monkeypatch.setattr(accelerate, "Accelerator", Second)
    seen = []
    run = train(*tiny, arrays, "criteria", recipe, watch=lambda *rows: seen.append(rows))
    assert len(run.steps) == 6 and not seen


LIVE = """
from kneeclip import plots, widgets
watch = widgets.live_curve(world="phantom knees", every=0)
history, steps = [], []
for step in range(6):
    steps.append({"step": step, "epoch": step // 3, "total": 2 - 0.1 * step})
    watch(history, steps)
    if step % 3 == 2:
        history.append({"step": step + 1, "epoch": step // 3, "total": 1.9, "lr": 1e-4, "tune_qwk": 0.5})
        watch(history, steps)
"""
STILL = 'plots.history(history, steps=steps, world="phantom knees")'


def test_a_live_curve_leaves_one_picture_the_last_one(tmp_path):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(LIVE), nbformat.v4.new_code_cell(STILL)])
    NotebookClient(book, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    live, still = (cell.outputs for cell in book.cells)
    assert [output.output_type for output in live] == ["display_data"]
    assert live[0].data["image/png"] == still[0].data["image/png"]


def test_a_live_curve_draws_no_more_often_than_asked_but_always_a_judged_epoch(monkeypatch):
    from kneeclip import widgets

    clock, drawn = [0.0], []
    monkeypatch.setattr(widgets.time, "monotonic", lambda: clock[0])

    class Handle:
        def display(self, figure):
            drawn.append(clock[0])

        update = display

    monkeypatch.setattr(widgets, "DisplayHandle", Handle)
    watch, history, steps = widgets.live_curve(every=1.0), [], []
    for step in range(10):  # four steps a second
        clock[0] = step / 4
        steps.append({"step": step, "epoch": 0, "total": 1.0})
        watch(history, steps)
    assert drawn == [0.0, 1.0, 2.0]
    history.append({"step": 10, "epoch": 0, "total": 1.0})
    watch(history, steps)
    assert drawn == [0.0, 1.0, 2.0, 2.25]


CURVES = {"1e-4": [0.6, 0.5, 0.4], "1e-2": [0.6, 3.0, 1.5]}


def test_history_of_a_first_epoch_that_still_runs():
    steps = [{"step": s, "epoch": 0, "total": 1.0 - 0.1 * s, "original": 1.0 - 0.1 * s} for s in range(3)]
    (ax,) = plots.history([], steps=steps).axes
    assert ax.get_lines()[0].get_ydata().tolist() == [row["total"] for row in steps]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["loss"]


def test_loss_curves():
    (ax,) = plots.loss_curves(CURVES, on_top={"by hand": [0.6, 0.5]}, references={"log 5": math.log(5)}).axes
    labelled = {line.get_label(): line for line in ax.get_lines() if not line.get_label().startswith("_")}
    assert labelled["1e-2"].get_xydata().tolist() == [[1, 0.6], [2, 3.0], [3, 1.5]]
    assert labelled["by hand"].get_markerfacecolor() == "none" and labelled["by hand"].get_linestyle() == "None"
    styles = {(labelled[name].get_linestyle(), labelled[name].get_marker()) for name in CURVES}
    assert len(styles) == 2, "told apart without colour"
    assert [t.get_text() for t in ax.texts] == ["log 5"] and ax.get_ylim()[0] == 0
    with pytest.raises(KneeError, match="no loss"):
        plots.loss_curves({"empty": []})


def test_schedule():
    rates = [0.5, 1.0, 0.75, 0.25]
    left, right = plots.schedule(rates, CURVES, warm=2, chosen="1e-2").axes
    assert left.get_lines()[0].get_xydata().tolist() == [[1, 0.5], [2, 1.0], [3, 0.75], [4, 0.25]]
    (shade,) = left.patches
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (0.5, 2.5)
    bold = {line.get_label() for line in right.get_lines() if line.get_alpha() == 1}
    assert bold == {"1e-2"}
    assert (left.get_xlabel(), left.get_ylabel()) == ("step", "learning rate")
    assert (right.get_xlabel(), right.get_ylabel()) == ("step", "loss of the step (nats)")
    assert mpl.colors.to_hex(right.get_lines()[0].get_color()) != mpl.colors.to_hex(right.get_lines()[1].get_color())
