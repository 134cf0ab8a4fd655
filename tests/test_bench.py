"""The benches: every contender does the same work, the numbers have their form, and the page is made of them."""

import dataclasses
import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kneeclip import bench, cli, gpu, laps, rivals
from kneeclip.model import load_clip
from kneeclip.presets import Recipe
from kneeclip.prompts import as_prompts
from kneeclip.rivals import VIT_B16, Task
from kneeclip.tables import Table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "bench"


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    monkeypatch.delenv("KNEECLIP_PRESET", raising=False)
    monkeypatch.delenv("KNEECLIP_DATA", raising=False)
    monkeypatch.setenv("KNEECLIP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def task(tiny_folder):
    """A new task each time it is called: 3 updates, the last two of them timed."""

    def make(**settings):
        rng = np.random.default_rng(0)
        images = [Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8)) for _ in range(12)]
        knees = {"image": images, "grade": rng.integers(0, 5, 12), "patient": [*"abcdefghijkl"], "side": [*"LR" * 6]}
        recipe = dataclasses.replace(Recipe(), batch_size=4, epochs=1, lr=1e-3, **settings)
        return Task(*load_clip(tiny_folder), knees, as_prompts("criteria"), recipe, 2)

    return make


@pytest.mark.parametrize("settings", [{"augment": 0.0}, {"balance": 1.0}, {"arm": "flip_aug"}], ids=str)
def test_the_floor_takes_the_very_steps_that_training_takes(task, settings):
    a, b = task(**settings), task(**settings)
    ours, floor = rivals.ours(a), rivals.floor(b)
    assert len(ours.losses) == len(floor.losses) == 3 and len(set(ours.losses)) == 3
    assert floor.losses == pytest.approx(ours.losses, rel=1e-5)
    for p, q in zip(a.model.vision_model.parameters(), b.model.vision_model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)  # k_proj.bias, which AdamW turns into noise, in it
    assert ours.seconds > 0 and floor.seconds > 0


@pytest.mark.parametrize("arm", ["clip", "clip_koa"])
def test_all_contenders_pass_as_many_views_through_the_tower(task, arm):
    seen = {}
    for who in ("ours", "floor", "trainer"):
        one = task(arm=arm)
        before = one.model.visual_projection.weight.detach().clone()
        views, texts = seen[who] = [], []
        one.model.vision_model.embeddings.register_forward_hook(lambda m, i, out, views=views: views.append(len(out)))
        one.model.text_model.embeddings.register_forward_hook(lambda m, i, out, texts=texts: texts.append(len(out)))
        lap = getattr(rivals, who)(one)
        assert lap.seconds > 0 and not torch.equal(before, one.model.visual_projection.weight), who
    views = 4 if arm == "clip" else 8
    assert {who: v for who, (v, _) in seen.items()} == dict.fromkeys(seen, [views] * 3)
    assert seen["ours"][1] == seen["floor"][1] == [5] * 3  # the prompts, once a step
    assert seen["trainer"][1] == [views] * 3  # one text for each image


def test_the_trainer_sees_each_image_with_its_own_text(task):
    one = task()
    collate = rivals._Collator(one.processor)
    batch = collate([(one.knees["image"][0], one.prompts.texts[k][0]) for k in (0, 3)])
    assert batch["return_loss"] is True and batch["pixel_values"].shape == (2, 3, 28, 28)
    said = one.processor.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    assert said[0] != said[1]
    pixels = one.processor(images=one.knees["image"][0], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch["pixel_values"][1], pixels[0])


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["kneeclip", "bench", *map(str, words)])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    out = capsys.readouterr()
    return exit.value.code or 0, out.out, out.err


def check_spread(s):
    assert s["min"] <= s["median"] <= s["max"] and s["min"] > 0


def test_bench_step_writes_its_ratios_by_model(monkeypatch, capsys, tiny_folder, tmp_path):
    words = ("step", "--model", tiny_folder, "--batch-size", 4, "--repeats", 2, "--steps", 1)
    code, out, err = run(monkeypatch, capsys, *words, "--json", tmp_path / "step.json")
    assert code == 0, err
    assert "share of floor" in out and "ratio to trainer" in out and "train_runtime" not in out
    numbers = json.loads((tmp_path / "step.json").read_text())
    name = str(tiny_folder)
    part = numbers["models"][name]
    for key in ("share_of_floor", "share_of_floor_augmented", "ratio_to_trainer", "ratio_to_trainer_augmented"):
        assert numbers[key][name] == part[key]["median"]
        check_spread(part[key])
    speeds = part["views_per_second"]
    assert set(speeds) == {"floor", "ours", "ours, augmented", "Trainer", "Trainer, 2 workers"}
    assert part["views_a_step"] == 8 and numbers["environment"]["threads"] == torch.get_num_threads()


def test_bench_data_reads_into_a_cache_of_its_own(monkeypatch, capsys, tiny_folder, tmp_path):
    for i in range(6):
        place = tmp_path / "knees" / "train" / str(i % 5)
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (60, 60), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{9000000 + i}L.png")
    words = ("data", "--data", tmp_path / "knees", "--model", tiny_folder, "--batch-size", 4, "--repeats", 1)
    code, out, err = run(monkeypatch, capsys, *words, "--steps", 2, "--json", tmp_path / "data.json")
    assert code == 0, err
    numbers = json.loads((tmp_path / "data.json").read_text())
    assert numbers["images"] == 6 and not (tmp_path / "cache").exists()
    for key in ("build_seconds", "reopen_seconds", "peak_mib", "imports_mib", "import_seconds", "help_seconds"):
        check_spread(numbers[key])
    assert numbers["peak_mib"]["median"] >= numbers["imports_mib"]["median"] > 10
    assert 0 < numbers["waiting_share"][str(tiny_folder)] and "waiting share" in out


def test_bench_eval_predicts_what_its_floor_does(tiny_folder):
    numbers = bench.bench_eval([str(tiny_folder)], batch_size=4, repeats=1, steps=2)
    part = numbers["models"][str(tiny_folder)]
    assert part["film_size"] == [224, 224]
    assert numbers["share_of_forward"] == {str(tiny_folder): part["share_of_forward"]["median"]}
    assert {"forward", "predict", "predict, from films"} == set(part["views_per_second"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("stop",), "step, data, eval, gpu"),
        (("step", "--repeats", 0), "repeats=0"),
        (("step", "--steps", 0), "steps=0"),
        (("step", "--batch-size", 0), "batch_size"),
        (("eval", "--model", "nosuchmodel"), "no model of that name"),
        (("data", "--data", "nowhere"), "nowhere"),
    ],
)
def test_bad_words_end_in_one_sentence(monkeypatch, capsys, words, sentence):
    code, _, err = run(monkeypatch, capsys, *words)
    assert code == 1 and sentence in err and err.count("\n") == 1 and "Traceback" not in err


def test_the_rounds_turn_round():
    order = []
    found = laps.in_turns({who: lambda who=who: order.append(who) or len(order) for who in "abc"}, 2)
    assert "".join(order) == "abccba" and found["a"].tolist() == [1, 6]
    assert laps.spread([3.0, 1.0, 2.00004]) == {"median": 2.0, "min": 1.0, "max": 3.0}


def test_vit_b16_is_openais_architecture_and_its_operations_are_counted():
    from transformers import CLIPModel

    config = rivals.vit_b16(load_clip("phantom-clip")[1].tokenizer)
    with torch.device("meta"):
        assert sum(p.numel() for p in CLIPModel(config).parameters()) == 149_620_737
    assert gpu.view_flops(config.vision_config) == pytest.approx(105.1e9, rel=1e-3)


def test_bench_gpu_says_that_there_is_no_card(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = run(monkeypatch, capsys, "gpu")
    assert code == 1 and "CUDA" in err and err.count("\n") == 1


def test_what_bench_gpu_is_made_of_works_without_a_card(task):
    """torch.compile's plumbing with a backend that compiles nothing, checkpointing, the product's rate, the table."""
    plain = rivals.ours(task())
    torch._dynamo.reset()
    with gpu.dynamo("eager"):
        traced = rivals.ours(task())
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    assert traced.losses == pytest.approx(plain.losses, rel=1e-5)
    again = task()
    again.model.gradient_checkpointing_enable()
    assert rivals.ours(again).losses == pytest.approx(plain.losses, rel=1e-5)
    assert gpu.matmul_rate(64, 2, "cpu") > 0
    rows = [{"pairs": 16, "gradient checkpointing": True, "views_per_second": None, "peak_gib": None}]
    assert "–" in str(Table(rows))


def test_a_table_stands_as_it_is_read():
    rows = [{"who": "KL1", "points": "-0.3 [-1.1, +0.5]", "qwk": qwk, "note": ""} for qwk in ("not seen", "0.838")]
    page = Table(rows)._repr_mimebundle_()["text/html"]
    assert "-0.3 [-1.1,\N{NO-BREAK SPACE}+0.5]" in page  # no line ends inside the brackets
    left = re.findall(r'<th style="text-align: left">(\w+)', page)
    assert left == ["who", "note"] and page.count("–") == 2  # columns of words; an empty cell is no oversight
    assert "-0.3 [-1.1, +0.5]" in str(Table(rows))


def test_the_page_is_made_of_the_numbers():
    spec = importlib.util.spec_from_file_location("bench_page", RESULTS / "page.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    text = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert page.filled(text) == text, "run python results/bench/page.py"
    for name in ("step", "data", "eval"):
        numbers = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        assert numbers["bench"] == name and f"| {laps.rows(numbers)[0]['median']} |" in text
    step = json.loads((RESULTS / "step.json").read_text(encoding="utf-8"))
    assert {"phantom-clip", VIT_B16} >= set(step["share_of_floor"]) >= {"phantom-clip"}
