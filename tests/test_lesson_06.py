"""Notebook 06: its exercises name the typical mistakes, its figures show what they were given, the shell has rungs."""

import json
import sys
from pathlib import Path

import pytest
import torch

from kneeclip import cli, plots
from kneeclip.checks import check
from kneeclip.errors import KneeError

STUDY = Path(__file__).parents[1] / "results" / "ladder"


def lora(shapes, rank):
    return sum(rank * (rows + columns) for rows, columns in shapes)


def between(base, tuned, alpha):
    return {name: (1 - alpha) * base[name] + alpha * tuned[name] for name in base}


def in_place(base, tuned, alpha):
    for name in base:
        base[name].mul_(1 - alpha).add_(alpha * tuned[name])
    return base


def without_scale(base, tuned, alpha):
    return between(base, tuned, alpha) | {"logit_scale": tuned["logit_scale"]}


SOLUTIONS = [
    ("06", lora),
    ("06-extra", between),
    ("06-extra", lambda base, tuned, alpha: {name: torch.lerp(base[name], tuned[name], alpha) for name in base}),
]
MISTAKES = [
    ("06", lambda shapes, r: sum(a * b for a, b in shapes), "they are frozen"),
    ("06", lambda shapes, r: lora(shapes, r) + sum(a * b for a, b in shapes), "frozen weights too"),
    ("06", lambda shapes, r: sum(r * a * b for a, b in shapes), "as many numbers as W"),
    ("06", lambda shapes, r: sum(r * a for a, _ in shapes), "B alone"),
    ("06", lambda shapes, r: sum(r * b for _, b in shapes), "A alone"),
    ("06", lambda shapes, r: lora(shapes, 1), "rank 1"),
    ("06", lambda shapes, r: r * sum(shapes[0]), "add up"),
    ("06", lambda shapes, r: -1, "B is (rows, r)"),
    ("06", lambda shapes, r: [r * (a + b) for a, b in shapes] * 2, "one whole number"),
    ("06", lambda shapes, r: "many", "no number"),
    ("06-extra", lambda base, tuned, alpha: dict.fromkeys(base, "a"), "no number"),
    ("06-extra", lambda base, tuned, alpha: dict.fromkeys(base, 0.5), "weight by weight"),
    ("06-extra", lambda base, tuned, alpha: between(tuned, base, alpha), "swapped"),
    ("06-extra", in_place, "base itself was changed"),
    ("06-extra", without_scale, "logit scale lies on the line"),
    ("06-extra", lambda base, tuned, a: {n: base[n] + a * tuned[n] for n in base}, "times the difference"),
    ("06-extra", lambda base, tuned, a: {n: tuned[n] for n in base}, "weight by weight"),
    ("06-extra", lambda base, tuned, a: {"a.weight": base["a.weight"]}, "same names"),
]


@pytest.mark.parametrize(("exercise", "answer", "word"), MISTAKES)
def test_a_typical_mistake_is_named(exercise, answer, word, capsys):
    assert check(exercise, answer) is False
    assert word in capsys.readouterr().out


@pytest.mark.parametrize(("exercise", "answer"), SOLUTIONS)
def test_a_right_answer_passes(exercise, answer):
    assert check(exercise, answer) is True


def test_the_ladder_draws_each_rung_where_it_stands():
    rows = [
        {"adapt": "zero-shot", "trained": 0, "reader": (0.5, 0.45, 0.55)},
        {"adapt": "lora", "trained": 24577, "reader": (0.64, 0.6, 0.68)},
    ]
    figure = plots.ladder(rows, {"reader": "accuracy (n = 400)"}, world="phantom knees")
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["zero-shot\n(0 trained)", "lora\n(24,577 trained)"]
    dots = [line.get_xdata()[0] for line in ax.get_lines() if line.get_marker() in ("X", "D")]
    assert dots == [0.5, 0.64]
    with pytest.raises(KneeError, match="no rung"):
        plots.ladder([], {"reader": "accuracy"})


def test_bars_of_memory_add_up():
    row = {"adapt": "lora", "weights": 4 * 2**20, "gradients": 2**20, "moments": 2 * 2**20, "kept": 3 * 2**20}
    ax = plots.memory({"small": [row]}, world="counted").axes[0]
    ends = [patch.get_x() + patch.get_width() for patch in ax.patches]
    assert ends == [4, 5, 7, 10] and "10.0" in [text.get_text() for text in ax.texts]


def test_the_chosen_alpha_is_marked_with_its_values():
    curve = [(0.5, 0.4, 0.6), (0.7, 0.6, 0.8), (0.6, 0.5, 0.7)]
    ax = plots.wise_ft([0, 0.5, 1], {"reader": curve}, chosen=0.5, world="phantom knees").axes[0]
    assert "70.0%" in [text.get_text() for text in ax.texts] and ax.get_title(loc="right") == "α = 0.5"


def test_the_study_of_the_page_is_whole():
    study = json.loads((STUDY / "phantoms.json").read_text(encoding="utf-8"))
    runs = {(run["adapt"], run.get("seed")): run for run in study["runs"]}
    rungs = {name for name, _ in runs} - {"zero-shot"}
    assert rungs == {"probe", "lora", "last_k", "full"} and len(runs) == 1 + 4 * 3
    for rung in rungs:  # each rung's rate did best on tune among at least three
        tried = {row["lr"]: row["tune_accuracy"] for row in study["rates"] if row["adapt"] == rung}
        assert len(tried) >= 3 and tried[study["chosen"][rung]] == max(tried.values())
        assert {run["lr"] for (name, _), run in runs.items() if name == rung} == {study["chosen"][rung]}


def test_the_shell_trains_a_rung(monkeypatch, capsys, tiny_folder, tmp_path):
    from PIL import Image

    for i in range(12):
        place = tmp_path / "knees" / "train" / str(i % 5)
        place.mkdir(parents=True, exist_ok=True)
        Image.new("L", (224, 224), 40 * (i % 5)).save(place / f"{9000000 + i}R.png")
    common = ["--data", str(tmp_path / "knees"), "--model", str(tiny_folder), "--epochs", "1", "--batch-size", "8"]
    out = tmp_path / "run"
    for words, code in (
        (["--adapt", "lora", "--lora-rank", "2", "--out", str(out)], 0),
        (["--adapt", "last_k", "--last-k", "7", "--out", str(tmp_path / "other")], 1),
        (["--adapt", "lori"], 1),
    ):
        monkeypatch.setattr(sys, "argv", ["kneeclip", "train", *common, *words])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        assert (exit.value.code or 0) == code
    recipe = json.loads((out / "run.json").read_text(encoding="utf-8"))["recipe"]
    assert (recipe["adapt"], recipe["lora_rank"]) == ("lora", 2)
    said = capsys.readouterr().err
    assert "only 1 blocks" in said and "full, last_k, lora, probe" in said
