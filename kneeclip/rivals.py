"""What `kneeclip bench` races: our training loop, the floor under it, and what one would write instead.

Each takes the same `Task`, runs ``steps + 1`` updates in this process and reports the seconds of all but the first,
which pays for the optimizer's moments and other firsts. Ours and the Trainer are timed from their own callbacks, so all
that their loops do between two updates is in.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from kneeclip import model as clip
from kneeclip.batches import epoch_batches, load_resident, make_views
from kneeclip.presets import Recipe
from kneeclip.processes import make_accelerator
from kneeclip.prompts import PromptSet
from kneeclip.training import train
from kneeclip.updating import BETAS, EPS, Grader, arm_losses, learning_rate, parameter_groups

#: The paper's model under a name of the benches': ViT-B/16 as OpenAI published it, with random weights.
VIT_B16 = "vit-b16"


@dataclass(frozen=True)
class Task:
    """What every contender is given."""

    model: CLIPModel
    processor: CLIPProcessor
    knees: Mapping  # image (PIL), grade, patient, side: batch_size · (steps + 1) knees
    prompts: PromptSet
    recipe: Recipe  # of one epoch
    steps: int  # updates that are timed

    @property
    def views(self) -> int:
        """Views through the image tower in one update."""
        return self.recipe.batch_size * self.recipe.views


@dataclass(frozen=True)
class Lap:
    """What a contender did: seconds of the timed updates, together, and the loss of every update."""

    seconds: float
    losses: list[float]


def load_model(name: str) -> tuple[CLIPModel, CLIPProcessor]:
    """`load_clip`, and ``"vit-b16"``: the architecture of openai/clip-vit-base-patch16, no download.

    Its weights are random and its texts are cut by phantom-clip's tokenizer: neither changes what a step costs, but for
    the number of tokens in a prompt, which is this tokenizer's.
    """
    if name != VIT_B16:
        return clip.load_clip(name)
    processor = clip.load_clip("phantom-clip")[1]
    processor.image_processor.size = {"shortest_edge": 224}
    processor.image_processor.crop_size = {"height": 224, "width": 224}
    torch.manual_seed(0)
    return CLIPModel(vit_b16(processor.tokenizer)).eval(), processor


def vit_b16(tokenizer=None) -> CLIPConfig:
    """The published configuration of openai/clip-vit-base-patch16: 149,620,737 weights."""
    ids = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    if tokenizer is not None:  # the text tower pools where its end token stands
        ids = {name: getattr(tokenizer, name) for name in ids}
    text = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
    image = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    return CLIPConfig(
        projection_dim=512,
        text_config={**text, **ids, "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "quick_gelu"},
        vision_config={**image, "image_size": 224, "patch_size": 16, "hidden_act": "quick_gelu"},
    )


def ours(task: Task) -> Lap:
    """`kneeclip.train` itself, timed from its `watch` callback: views, checks, learning rate and records are all in."""
    marks = []

    def watch(history, steps):
        if not history:  # the last call, after the epoch, is no step's
            marks.append(now())

    run = train(
        task.model, task.processor, {"train": task.knees}, task.prompts, task.recipe, progress=False, watch=watch
    )  # fmt: skip
    return Lap(marks[-1] - marks[0], [row["total"] for row in run.steps])


def floor(task: Task) -> Lap:
    """Forward, backward, gradient clipping and optimizer, on pixels and tokens that lie ready; nothing else.

    The views, the order, the losses and the learning rates are ours to the digit: it takes the same steps.
    """
    recipe, model = task.recipe, task.model
    accelerator = make_accelerator(recipe.precision)
    data = load_resident(task.processor, {"train": task.knees}, "train", accelerator, recipe, False)
    ready = []
    for batch, draws in epoch_batches(data, recipe, 0):
        views = make_views(data.images[batch], data.mirror_on_device[batch], draws, recipe)
        ready.append((clip.to_pixel_values(task.processor, views), data.grades[batch]))
    tokens = clip.tokenize(model.to(accelerator.device), task.processor, task.prompts)
    grader = Grader(model.train(), task.prompts.counts)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, recipe.weight_decay), lr=recipe.lr, betas=BETAS, eps=EPS, fused=True
    )
    parameters = list(model.parameters())
    losses, marks = [], []
    for step, (pixels, grades) in enumerate(ready):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, len(ready), recipe)
        with accelerator.autocast():
            logits = grader(pixels, tokens)
        loss = arm_losses(logits, grades, recipe)["total"].mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        marks.append(now())
    return Lap(marks[-1] - marks[0], torch.stack(losses).tolist())


def views_alone(task: Task) -> Lap:
    """What an update of ours waits for before the model starts: the epoch's plan and the views, no model at all."""
    accelerator = make_accelerator(task.recipe.precision)
    data = load_resident(task.processor, {"train": task.knees}, "train", accelerator, task.recipe, False)
    marks = []
    start = now()
    batches = epoch_batches(data, task.recipe, 0)
    planned = now() - start
    for batch, draws in batches:
        views = make_views(data.images[batch], data.mirror_on_device[batch], draws, task.recipe)
        clip.to_pixel_values(task.processor, views)
        marks.append(now())
    return Lap(planned + marks[-1] - marks[0], [])


def trainer(task: Task, workers: int = 0) -> Lap:
    """`transformers.Trainer` with `CLIPModel`, as Transformers' own contrastive example does it.

    A sample is one view with one text, the first prompt of its grade; in a two-view arm each image gives two samples,
    itself and its flip, so that an update sees as many views as ours. The collator calls the processor on images and
    texts; the loss is CLIP's own contrastive one (``return_loss=True``), over the batch. Nothing is held back: the
    images are decoded and in memory, texts are padded to the longest of the batch only, attention is SDPA, AdamW is
    fused (the Trainer's default), betas, decay, clipping and precision are ours; no logging, saving, evaluation or
    progress bar, and no augmentation (it would need another library). `workers` are the loader's processes.
    """
    samples = []
    for image, grade in zip(task.knees["image"], task.knees["grade"], strict=True):
        text = task.prompts.texts[int(grade)][0]
        image = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
        samples.append((image, text))
        if task.recipe.views == 2:
            samples.append((image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), text))
    watch, recipe = _Marks(), task.recipe
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        arguments = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=task.views, max_steps=task.steps + 1,
            learning_rate=recipe.lr, weight_decay=recipe.weight_decay, max_grad_norm=recipe.clip_norm,
            adam_beta1=BETAS[0], adam_beta2=BETAS[1], adam_epsilon=EPS, lr_scheduler_type="cosine",
            bf16=recipe.precision == "bf16", dataloader_num_workers=workers, remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(), report_to="none", save_strategy="no",
            logging_strategy="no", disable_tqdm=True, seed=recipe.seed,
        )  # fmt: skip
        rival = Trainer(
            task.model, arguments, data_collator=_Collator(task.processor), train_dataset=samples, callbacks=[watch]
        )
        rival.remove_callback(PrinterCallback)
        rival.train()
    return Lap(watch.marks[-1] - watch.marks[0], [])


@dataclass(frozen=True)
class _Collator:
    processor: CLIPProcessor

    def __call__(self, samples: list) -> dict:
        images, texts = zip(*samples, strict=True)
        batch = self.processor(text=list(texts), images=list(images), padding=True, return_tensors="pt")
        return {**batch, "return_loss": True}


class _Marks(TrainerCallback):
    def __init__(self):
        self.marks = []

    def on_step_end(self, args, state, control, **kwargs):
        self.marks.append(now())


def now() -> float:
    """Seconds, after all that a GPU was given is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
