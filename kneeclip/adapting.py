"""How much of a CLIP learns: the rungs from two projections to every weight, and the way back (WiSE-FT).

Every rung ends in a plain CLIPModel: what is frozen keeps its bits, LoRA's matrices are merged into the weights that
they stand beside. What is frozen needs no gradient and no moments, and autograd does no work for it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from transformers import CLIPModel

from kneeclip.errors import KneeError
from kneeclip.presets import Recipe

#: What every rung but LoRA trains at least: how features and texts are brought into the common space.
HEADS = ("visual_projection.weight", "text_projection.weight", "logit_scale")
TOWERS = {"vision_model": "vision_model.post_layernorm", "text_model": "text_model.final_layer_norm"}
LORA_TARGETS = ("q_proj", "v_proj")  # as in Hu et al.: the queries and the values of every attention


@contextmanager
def adapted(model: CLIPModel, recipe: Recipe) -> Iterator[Callable[[], None]]:
    """Let learn what the recipe's rung lets learn, and nothing else.

    Parameters
    ----------
    model : CLIPModel
        Changed in place while the context is open. With `lora`, rank-r matrices A and B stand beside the queries and
        values, W x + B A x; B starts at zero, so that the model starts as it was.
    recipe : Recipe
        Its `adapt`, `last_k`, `lora_rank`; the seed draws A.

    Yields
    ------
    callable
        Merges the adapters, W + B A, so that the model is a plain CLIPModel again; without adapters it does nothing.
        The context does it in any case when it is left, by an error too, and every weight is as free as before.

    Raises
    ------
    KneeError
        If a tower has fewer blocks than `last_k`, or the rank is larger than a weight.

    Notes
    -----
    Source: Hu et al. 2022, LoRA, arXiv 2106.09685. Notebook: 06.
    """
    free = {name: p.requires_grad for name, p in model.named_parameters()}
    learns = None if recipe.adapt == "full" else _learning(model, recipe)
    tuner = _with_lora(model, recipe) if recipe.adapt == "lora" else None

    def merge() -> None:
        nonlocal tuner
        if tuner is not None:
            tuner.merge_and_unload()
            tuner = None
            if hasattr(model, "peft_config"):  # peft 0.18 leaves its mark
                del model.peft_config

    try:
        if learns is not None:
            for name, p in model.named_parameters():
                p.requires_grad_(name.startswith(learns) or ".lora_" in name)
        yield merge
    finally:
        merge()
        for name, p in model.named_parameters():
            p.requires_grad_(free[name])


def _learning(model: CLIPModel, recipe: Recipe) -> tuple[str, ...]:
    """The beginnings of the names of the model's own weights that learn."""
    if recipe.adapt == "lora":
        width = min(model.config.vision_config.hidden_size, model.config.text_config.hidden_size)
        if recipe.lora_rank > width:
            raise KneeError(
                "a LoRA's rank can't be larger than the weights beside it are wide",
                f"lora_rank={recipe.lora_rank}, {width} wide",
                f"give a rank up to {width}; 4 or 8 is usual",
            )
        return ("logit_scale",)
    names = list(HEADS)
    for tower, norm in TOWERS.items() if recipe.adapt == "last_k" else ():
        blocks = len(getattr(model, tower).encoder.layers)
        if recipe.last_k > blocks:
            what = f"the {tower.partition('_')[0]} tower has only {blocks} blocks"
            raise KneeError(what, f"last_k={recipe.last_k}", f"give a last_k up to {blocks}, or adapt full")
        names += [f"{norm}.", *(f"{tower}.encoder.layers.{i}." for i in range(blocks - recipe.last_k, blocks))]
    return tuple(names)


def _with_lora(model: CLIPModel, recipe: Recipe):
    from peft import LoraConfig  # here, as the other rungs do without it
    from peft.tuners.lora import LoraModel

    # alpha = rank: what is added is B A itself, and not a multiple of it
    config = LoraConfig(r=recipe.lora_rank, lora_alpha=recipe.lora_rank, target_modules=list(LORA_TARGETS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)  # A is drawn on the CPU, whatever the model's device
        return LoraModel(model, config, "default")


def count_trained(model: CLIPModel) -> int:
    """How many parameters of the model are trained: those that a gradient is computed for."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def ledger(model: CLIPModel, recipe: Recipe, forward: Callable[[CLIPModel], torch.Tensor]) -> dict[str, int]:
    """What a training step holds in memory at this rung, counted in bytes.

    Parameters
    ----------
    model : CLIPModel
        May lie on PyTorch's "meta" device: shapes only, nothing is allocated. As before afterwards.
    recipe : Recipe
        Its rung, and its `precision`.
    forward : callable
        ``forward(model)`` gives the loss of a step, or anything that a backward pass would start from.

    Returns
    -------
    dict
        ``trained`` (how many parameters), and in bytes ``weights`` (all of them), ``gradients``, ``moments``
        (AdamW's two) and ``kept``: what autograd keeps between forward and backward, weights left out.

    Notes
    -----
    A count, not a measurement: an allocator, a library's buffers and the largest temporary come on top.
    Notebook: 06.
    """
    kept: dict[int, int] = {}
    with adapted(model, recipe):
        own = {w.untyped_storage()._cdata for w in model.parameters()}
        trained = [w for w in model.parameters() if w.requires_grad]

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage.nbytes()
            return tensor

        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.precision)
        # the meta device knows no autocast, not even one that is switched off
        half = torch.autocast(model.device.type, kind) if kind else nullcontext()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), half:
            end = forward(model)  # held until here: a storage that is freed gives its address to the next one
        numbers = sum(w.numel() for w in trained)
        learning = sum(w.numel() * w.element_size() for w in trained)
        weights = sum(w.numel() * w.element_size() for w in model.parameters())
        del end
    return {
        "trained": numbers, "weights": weights, "gradients": learning, "moments": 2 * learning,
        "kept": sum(kept.values()),
    }  # fmt: skip


def interpolate(base: CLIPModel, tuned: CLIPModel, alpha: float) -> CLIPModel:
    """WiSE-FT: the straight line between a model's weights before and after fine-tuning.

    Parameters
    ----------
    base, tuned : CLIPModel
        Before and after; neither is changed.
    alpha : float
        0 gives `base` and 1 gives `tuned`, both to the bit; between them (1 − α) · base + α · tuned, weight by
        weight, the logit scale among them.

    Returns
    -------
    CLIPModel
        A new one, in evaluation mode.

    Raises
    ------
    KneeError
        For an alpha outside 0 to 1, or two models of different shapes.

    Notes
    -----
    Source: Wortsman et al. 2022, *Robust fine-tuning of zero-shot models*, arXiv 2109.01903. Notebook: 06.
    """
    if not (math.isfinite(alpha) and 0 <= alpha <= 1):
        raise KneeError("an interpolation lies between its ends", f"alpha={alpha}", "give an alpha from 0 to 1")
    a, b = base.state_dict(), tuned.state_dict()
    if a.keys() != b.keys() or any(a[name].shape != b[name].shape for name in a):
        odd = sorted(
            name for name in a.keys() | b.keys() if name not in a or name not in b or a[name].shape != b[name].shape
        )
        raise KneeError("the two models have different shapes", odd, "take the base that the tuned one started from")
    mixed = copy.deepcopy(tuned).eval()
    mixed.load_state_dict(
        {
            # lerp starts from the nearer end, so both ends come out exactly
            name: torch.lerp(a[name].to(b[name]), b[name], alpha) if b[name].is_floating_point() else b[name]
            for name in b
        }
    )
    return mixed
