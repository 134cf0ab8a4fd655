"""The adaptation ladder: what a rung trains changes and nothing else does, and every rung ends in a plain CLIP."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kneeclip.adapting import adapted, count_trained, interpolate, ledger
from kneeclip.checkpoints import learnt, load_state
from kneeclip.errors import KneeError
from kneeclip.model import load_clip, predict
from kneeclip.presets import RUNGS, Recipe
from kneeclip.training import train
from kneeclip.updating import Grader

W, D = 32, 16  # width of both towers and size of the common space in the fixture below
BLOCK = 4 * (W * W + W) + 2 * 2 * W + (W * 4 * W + 4 * W) + (4 * W * W + W)  # attention, two norms, an MLP of 4 W
HEADS = 2 * D * W + 1


@pytest.fixture(scope="session")
def two_blocks(tmp_path_factory, tiny_settings):
    """A CLIP with two blocks in each tower, saved."""
    from kneeclip.model import save_clip
    from kneeclip.newborn import new_clip, train_tokenizer
    from kneeclip.prompts import BUILT_IN

    tokenizer = train_tokenizer([text for prompts in BUILT_IN.values() for text in prompts.flat], 600)
    settings = dataclasses.replace(tiny_settings, layers=2, text_layers=2)
    return save_clip(*new_clip(settings, tokenizer), tmp_path_factory.mktemp("clip") / "two")


@pytest.fixture
def two(two_blocks):
    return load_clip(two_blocks)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_bits(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def learns(rung, name):
    """Which weights of the plain model may change, said again in other words than the room's."""
    if rung == "full":
        return True
    if rung == "lora":
        return name == "logit_scale" or name.endswith(("q_proj.weight", "v_proj.weight"))
    head = name in ("logit_scale", "visual_projection.weight", "text_projection.weight")
    last = ".layers.1." in name or "post_layernorm" in name or "final_layer_norm" in name
    return head or (rung == "last_k" and last)


@pytest.mark.parametrize("rung", RUNGS)
def test_what_a_rung_trains_changes_and_the_rest_keeps_its_bits(rung, two, arrays, recipe):
    model, processor = two
    before = state(model)
    run = train(model, processor, arrays, "criteria", dataclasses.replace(recipe, adapt=rung))
    after = state(run.model)
    assert before.keys() == after.keys() and run.model is model
    odd = (
        "k_proj.bias",
        "embeddings.position_embedding.weight",
        "token_embedding.weight",
    )  # true gradient 0, or few rows
    for name in before:
        changed = not torch.equal(before[name], after[name])
        assert changed == learns(rung, name) or (rung in ("full", "last_k") and name.endswith(odd)), name
    assert all(p.requires_grad for p in model.parameters())  # the next training is free again
    assert not any("lora" in name for name, _ in model.named_modules())
    assert not hasattr(model, "peft_config")


@pytest.mark.parametrize(
    ("rung", "numbers"),
    [
        ({"adapt": "probe"}, HEADS),
        # A is (r, W) and B (W, r), beside q and v, in two blocks of two towers
        ({"adapt": "lora", "lora_rank": 4}, 2 * 4 * W * 2 * 2 * 2 + 1),
        ({"adapt": "last_k", "last_k": 1}, 2 * (BLOCK + 2 * W) + HEADS),
        ({"adapt": "last_k", "last_k": 2}, 2 * (2 * BLOCK + 2 * W) + HEADS),
    ],
)
def test_the_numbers_that_learn_are_those_counted_by_hand(rung, numbers, two, arrays, recipe, tmp_path):
    model, processor = two
    recipe = dataclasses.replace(recipe, epochs=1, **rung)
    with adapted(model, recipe):
        assert count_trained(model) == numbers
        Grader(model, [1] * 5)(torch.rand(2, 3, 28, 28), torch.randint(1, 500, (5, 12))).sum().backward()
        gradients = sum(p.numel() for p in model.parameters() if p.grad is not None)
        model.zero_grad()
    run = train(model, processor, arrays, "criteria", recipe, out=tmp_path / "run")
    assert run.trained == numbers == gradients
    assert json.loads((tmp_path / "run" / "run.json").read_text())["trained"] == numbers
    assert f"{numbers:,} numbers" in (tmp_path / "run" / "README.md").read_text()


def test_full_trains_every_number(two, recipe):
    with adapted(two[0], recipe):
        assert count_trained(two[0]) == sum(p.numel() for p in two[0].parameters())


def test_lora_starts_as_the_model_was_and_its_merge_gives_the_same_logits(two, recipe):
    """In float64: beside LoRA's matrices the MLP takes Transformers' own path, which rounds otherwise."""
    model = two[0].double()
    recipe = dataclasses.replace(recipe, adapt="lora", lora_rank=4)
    pixels = torch.rand(8, 3, 28, 28).double()
    ids = torch.randint(1, 500, (5, 12))
    grader = Grader(model, [1] * 5)
    start = grader(pixels, ids).detach()
    with adapted(model, recipe) as merge, torch.no_grad():
        torch.testing.assert_close(grader(pixels, ids), start, rtol=0, atol=1e-10)
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.3)
        beside = grader(pixels, ids)
        merge()
        merged = grader(pixels, ids)
        assert not any("lora" in name for name in model.state_dict())
    torch.testing.assert_close(merged, beside, rtol=0, atol=1e-5)
    assert (merged - beside).abs().max() < (beside - start).abs().max()


def test_merging_is_the_sum_that_it_is_said_to_be(two, recipe):
    model, _ = two
    linear = model.vision_model.encoder.layers[0].self_attn.q_proj
    before = linear.weight.detach().clone()
    with adapted(model, dataclasses.replace(recipe, adapt="lora", lora_rank=4)), torch.no_grad():
        beside = model.vision_model.encoder.layers[0].self_attn.q_proj
        A, B = beside.lora_A["default"].weight, beside.lora_B["default"].weight
        B.fill_(0.5)
        expected = before + B @ A
    torch.testing.assert_close(linear.weight.detach(), expected)
    assert model.vision_model.encoder.layers[0].self_attn.q_proj is linear


def test_the_seed_draws_the_adapters_and_leaves_the_generator_alone(two, recipe):
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(7)
        with adapted(two[0], dataclasses.replace(recipe, adapt="lora", seed=seed)):
            drawn.append(two[0].text_model.encoder.layers[0].self_attn.v_proj.lora_A["default"].weight.detach().clone())
        assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(7)))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_an_error_inside_leaves_a_plain_model(two, arrays, recipe):
    model, processor = two

    def stop(history, steps):
        if len(steps) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, processor, arrays, "criteria", dataclasses.replace(recipe, adapt="lora"), watch=stop)
    assert not any("lora" in name for name in model.state_dict()) and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("rung", ["lora", "last_k", "probe"])
def test_a_killed_rung_resumes_to_the_same_bits_and_saves_only_what_learns(rung, two_blocks, arrays, recipe, tmp_path):
    recipe = dataclasses.replace(recipe, save_every=1, adapt=rung, lora_rank=4, calibrate=True)
    whole = train(*load_clip(two_blocks), arrays, "criteria", recipe)

    def kill(history, steps):
        if len(steps) == 5:
            raise SystemExit

    with pytest.raises(SystemExit):
        train(*load_clip(two_blocks), arrays, "criteria", recipe, out=tmp_path / "run", watch=kill)
    tensors, meta = load_state(tmp_path / "run" / "checkpoint.safetensors")
    saved = {name.removeprefix("model/") for name in tensors if name.startswith("model/")}
    numbers = sum(tensors[f"model/{name}"].numel() for name in saved)
    assert numbers == whole.trained and meta["step"] >= 3
    moments = sum(t.numel() for name, t in tensors.items() if "/exp_avg" in name)
    assert moments == 2 * whole.trained
    resumed = train(*load_clip(two_blocks), arrays, "criteria", recipe, out=tmp_path / "run")
    assert 3 <= resumed.resumed_at < 6 and resumed.steps == whole.steps
    assert same_bits(state(whole.model), state(resumed.model))
    again = train(*load_clip(two_blocks), arrays, "criteria", recipe, out=tmp_path / "run")
    assert same_bits(state(whole.model), state(again.model)) and again.trained == whole.trained


def test_another_rung_in_the_folder_is_refused_and_an_idle_setting_is_not(two_blocks, arrays, recipe, tmp_path):
    lora = dataclasses.replace(recipe, epochs=1, adapt="lora", lora_rank=4)
    train(*load_clip(two_blocks), arrays, "criteria", lora, out=tmp_path / "run")
    for other in ({"adapt": "probe"}, {"lora_rank": 2}):
        with pytest.raises(KneeError, match="another run"):
            train(*load_clip(two_blocks), arrays, "criteria", dataclasses.replace(lora, **other), out=tmp_path / "run")
    same = dataclasses.replace(lora, last_k=2)  # lora never looks at it
    assert "finished before" in train(*load_clip(two_blocks), arrays, "criteria", same, out=tmp_path / "run").notes[-1]


def test_a_run_from_before_there_were_rungs_is_still_the_same_run(tiny, arrays, recipe, tmp_path, monkeypatch):
    from kneeclip import training

    seen = []
    real = training.fingerprint
    monkeypatch.setattr(
        training, "fingerprint", lambda settings, tensors: seen.append(settings) or real(settings, tensors)
    )
    train(*tiny, arrays, "criteria", dataclasses.replace(recipe, epochs=1), out=tmp_path / "run")
    assert not {"adapt", "last_k", "lora_rank"} & set(seen[0][0]) and seen[0][0]["arm"] == "clip_koa"


def test_a_checkpoint_of_other_parts_is_refused(two, recipe):
    from kneeclip.checkpoints import load_learnt

    with adapted(two[0], dataclasses.replace(recipe, adapt="lora", lora_rank=4)):
        held = learnt(two[0])
    with adapted(two[0], dataclasses.replace(recipe, adapt="probe")), pytest.raises(KneeError, match="start again"):
        load_learnt(two[0], held)


@pytest.mark.parametrize("rung", ["lora", "probe"])
def test_the_saved_run_is_plain_transformers(rung, two, arrays, recipe, tmp_path, monkeypatch):
    from transformers import CLIPModel

    run = train(*two, arrays, "criteria", dataclasses.replace(recipe, adapt=rung), out=tmp_path / "run")
    plain = CLIPModel.from_pretrained(tmp_path / "run")
    assert same_bits(state(run.model), state(plain))
    p, _ = predict(run.model, two[1], arrays["tune"]["image"], "criteria")
    q, _ = predict(plain, two[1], arrays["tune"]["image"], "criteria")
    np.testing.assert_array_equal(p, q)
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert not any("adapter" in name for name in files)
    monkeypatch.setitem(sys.modules, "peft", None)  # and by somebody who has no peft
    assert same_bits(state(load_clip(tmp_path / "run")[0]), state(plain))


def test_the_ledger_counts_what_a_step_holds(two, recipe):
    model, _ = two
    pixels, ids, grades = torch.rand(6, 3, 28, 28), torch.randint(1, 500, (5, 12)), torch.arange(6) % 5

    def loss(model):
        return F.cross_entropy(Grader(model, [1] * 5)(pixels, ids), grades)

    rows = {rung: ledger(model, dataclasses.replace(recipe, adapt=rung, lora_rank=4), loss) for rung in RUNGS}
    for rung, row in rows.items():
        assert row["gradients"] == 4 * row["trained"] and row["moments"] == 8 * row["trained"], rung
    with adapted(model, dataclasses.replace(recipe, adapt="last_k")):  # and so it is when one is taken
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        loss(model).backward()
        optimizer.step()
        held = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
        moments = sum(v.nbytes for s in optimizer.state.values() for k, v in s.items() if k != "step")
    assert (held, moments) == (rows["last_k"]["gradients"], rows["last_k"]["moments"])
    # towers that don't learn keep nothing; adapters in every block keep most of what full fine-tuning keeps
    assert rows["probe"]["kept"] < 0.05 * rows["full"]["kept"]
    assert 0.4 * rows["full"]["kept"] < rows["lora"]["kept"] < rows["full"]["kept"]
    assert rows["probe"]["kept"] < rows["last_k"]["kept"] < rows["full"]["kept"]
    assert ledger(model, dataclasses.replace(recipe, precision="bf16"), loss)["kept"] < rows["full"]["kept"]


def test_the_ledger_reads_a_model_that_has_shapes_only(two, recipe):
    from transformers import CLIPModel

    with torch.device("meta"):
        shapes = CLIPModel(two[0].config)

    def loss(model):
        place = model.device
        pixels, ids = torch.zeros(6, 3, 28, 28, device=place), torch.ones(5, 12, dtype=torch.long, device=place)
        return F.cross_entropy(Grader(model, [1] * 5)(pixels, ids), torch.zeros(6, dtype=torch.long, device=place))

    counted, real = ledger(shapes, recipe, loss), ledger(two[0], recipe, loss)
    assert {k: v for k, v in counted.items() if k != "kept"} == {k: v for k, v in real.items() if k != "kept"}
    assert counted["kept"] == pytest.approx(real["kept"], rel=0.25)  # another attention kernel keeps a little more


def test_wise_ft_ends_where_it_should_and_lies_between(two_blocks):
    (base, _), (tuned, _) = load_clip(two_blocks), load_clip(two_blocks, fresh_seed=3)
    with torch.no_grad():
        base.logit_scale.fill_(1.0)
        tuned.logit_scale.fill_(3.0)
    before = state(base), state(tuned)
    assert same_bits(state(interpolate(base, tuned, 0)), before[0])
    assert same_bits(state(interpolate(base, tuned, 1)), before[1])
    middle = interpolate(base, tuned, 0.25)
    assert middle.logit_scale.item() == pytest.approx(0.75 * 1.0 + 0.25 * 3.0) and not middle.training
    for name, value in middle.state_dict().items():
        by_hand = 0.75 * before[0][name].double() + 0.25 * before[1][name].double()
        torch.testing.assert_close(value.double(), by_hand, rtol=1e-5, atol=1e-7)
    assert same_bits(state(base), before[0]) and same_bits(state(tuned), before[1])


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_wise_ft_stays_between_its_ends(alpha, two):
    with pytest.raises(KneeError, match="alpha.*from 0 to 1"):
        interpolate(two[0], two[0], alpha)


def test_wise_ft_wants_two_models_of_one_shape(two, tiny):
    with pytest.raises(KneeError, match="different shapes.*encoder.layers.1.*started from"):
        interpolate(tiny[0], two[0], 0.5)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"adapt": "linear"}, "full, last_k, lora, probe"),
        ({"adapt": "last_k", "last_k": 0}, "whole number"),
        ({"adapt": "lora", "lora_rank": 1.5}, "whole number"),
        ({"adapt": "last_k", "last_k": 3}, "only 2 blocks.*last_k=3.*up to 2"),
        ({"adapt": "lora", "lora_rank": 33}, "lora_rank=33.*up to 32"),
    ],
)
def test_wrong_settings_are_told_in_a_sentence(settings, sentence, two, arrays):
    model, processor = two
    with pytest.raises(KneeError, match=sentence):
        train(model, processor, arrays, "criteria", Recipe(epochs=1, batch_size=8, **settings))
    assert all(p.requires_grad for p in model.parameters()) and not any("lora" in n for n in model.state_dict())


def test_frozen_towers_build_no_graph(two, recipe):
    with adapted(two[0], dataclasses.replace(recipe, adapt="probe")):
        features = two[0].vision_model(torch.rand(2, 3, 28, 28)).pooler_output
        assert not features.requires_grad and two[0].visual_projection(features).requires_grad
    with adapted(two[0], dataclasses.replace(recipe, adapt="last_k")):
        out = two[0].vision_model(torch.rand(2, 3, 28, 28), output_hidden_states=True)
        assert [h.requires_grad for h in out.hidden_states] == [False, False, True]
