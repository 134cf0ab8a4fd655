"""The paper's path: ViT-B/16 with CLIP's exact architecture, here with random weights, on a few real knees.

Heavy (600 MB of weights), so there is one test: it writes the checkpoint, loads it the real way, takes a step under the
paper preset and evaluates.
"""

import dataclasses

import numpy as np
import pytest
import torch


@pytest.mark.real
def test_vit_b16_trains_a_step_and_evaluates_on_real_knees(real_data, clip_tokenizer, tmp_path):
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

    import kneeclip as kc

    tokenizer = CLIPTokenizer.from_pretrained(clip_tokenizer)
    # openai/clip-vit-base-patch16: the published config's figures
    config = CLIPConfig(
        projection_dim=512,
        text_config={"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8,
                     "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "quick_gelu",
                     "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407},
        vision_config={"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
                       "num_attention_heads": 12, "image_size": 224, "patch_size": 16, "hidden_act": "quick_gelu"},
    )  # fmt: skip
    torch.manual_seed(0)
    model = CLIPModel(config)
    assert sum(p.numel() for p in model.parameters()) == 149_620_737  # OpenAI's ViT-B/16
    kc.save_clip(
        model, CLIPProcessor(image_processor=CLIPImageProcessorPil(), tokenizer=tokenizer), tmp_path / "b16", half=True
    )
    del model

    preset = kc.get_preset("paper", data=str(real_data))
    model, processor = kc.load_clip(tmp_path / "b16")
    knees = kc.load_knees(preset.data)
    few = {
        name: knees[name].select(range(0, len(knees[name]), len(knees[name]) // 2)).select(range(2))
        for name in ("train", "validation")
    }
    before = model.visual_projection.weight.detach().clone()
    recipe = dataclasses.replace(preset.recipe, epochs=1, batch_size=2, micro_batch=None)
    run = kc.train(model, processor, {"train": few["train"]}, preset.prompts, recipe)
    assert np.isfinite(run.steps[0]["total"]) and len(run.steps) == 1
    assert not torch.equal(before, model.visual_projection.weight)
    p, p_flip = kc.predict(model, processor, few["validation"]["image"], preset.prompts)
    report = kc.evaluate(p, few["validation"]["grade"], few["validation"]["patient"], flipped=p_flip, n_boot=0)
    assert report["n"] == 2 and p.shape == p_flip.shape == (2, 5)
