"""The settings: a Preset names data, model, prompts and a Recipe.

`Recipe` holds every number that training uses, `Preset` chooses the world (phantom or real knees). Both are
frozen: a variation is a new object, ``dataclasses.replace(recipe, arm="clip")``, never a changed one.
"""

from __future__ import annotations

import dataclasses
import numbers
import os
from dataclasses import dataclass

from kneeclip.errors import KneeError

MAX_SEED = 2**32 - 1  # what every generator takes
GRADES = ("KL0", "KL1", "KL2", "KL3", "KL4")

#: The arms of every comparison. Two-view arms see each image and its horizontal flip in one step.
ARMS = {
    "clip": "cross-entropy on the original view",
    "flip_aug": "cross-entropy on a randomly flipped view",
    "symmetry": "cross-entropy on both views (the Symmetry Loss)",
    "consistency": "cross-entropy on the original view + Consistency Loss",
    "clip_koa": "Symmetry Loss + Consistency Loss",
    "canonical": "cross-entropy, every left knee mirrored to look like a right one",
}
#: What a setting of each type takes; NumPy's numbers are numbers too.
KINDS = {
    "int": (numbers.Integral, "a whole number"),
    "float": (numbers.Real, "a number"),
    "str": (str, "a word"),
    "bool": (bool, "True or False"),
}
#: The rungs of the adaptation ladder: what learns. All else keeps its bits.
RUNGS = {
    "full": "every weight",
    "last_k": "the last k blocks of both towers, the norms behind them, both projections and the logit scale",
    "lora": "matrices of rank r beside the queries and values of every block of both towers, and the logit scale",
    "probe": "both projections and the logit scale: a linear map on frozen features",
}
FORMS = ("js", "kl", "mse", "bhattacharyya")  # of the Consistency Loss; `losses` computes them
TWO_VIEW_ARMS = ("symmetry", "consistency", "clip_koa")


@dataclass(frozen=True)
class Recipe:
    """How to train. We did not see the paper's settings: every default here is ours.

    A *step* is one update of the weights from `batch_size` images (twice as many views in a two-view arm).
    """

    arm: str = "clip_koa"  # one of ARMS
    consistency: str = "js"  # form of the Consistency Loss: js, kl, mse, bhattacharyya
    weight: float = 1.0  # weight of the Consistency Loss in clip_koa and consistency
    epochs: int = 4
    batch_size: int = 64  # images in a step, over all processes
    micro_batch: int | None = None  # images in one forward pass of one process; None: as many as the step has
    lr: float = 3e-4  # peak learning rate of AdamW
    weight_decay: float = 0.05  # on matrices; biases, norms and the logit scale are spared
    warmup: float = 0.1  # share of the steps spent warming up, before the cosine to zero
    clip_norm: float = 1.0  # largest gradient norm
    augment: float = 0.5  # 0 none, 1 the strongest shift, zoom, turn and grey-level change of batches._augment
    balance: float = 0.0  # 0 sample images as they come, 1 every grade equally often
    precision: str = "no"  # Accelerate's mixed_precision: no, bf16, fp16
    select: str = "qwk"  # what `tune` chooses the best epoch by: accuracy, qwk, or none (keep the last epoch)
    judge_every: int = 1  # look at `tune` after every so many epochs, and after the last; only these can be kept
    calibrate: bool = False  # fit a temperature on `tune` and fold it into the logit scale
    save_every: int = 0  # checkpoint every so many steps besides the end of each epoch; 0: epochs only
    seed: int = 0
    adapt: str = "full"  # one of RUNGS: how much of the model learns
    last_k: int = 1  # blocks of each tower that learn with adapt="last_k"
    lora_rank: int = 8  # rank of the matrices that adapt="lora" adds

    def __post_init__(self):
        def check(ok, name, remedy):
            if not ok:
                value = getattr(self, name)
                raise KneeError(f"the recipe's {name} can't be {value!r}", f"{name}={value!r}", remedy)

        for field in dataclasses.fields(self):  # from a file a number comes as text, or true where 1 is meant
            value, kind = getattr(self, field.name), field.type.removesuffix(" | None")
            types, asked = KINDS[kind]
            ok = isinstance(value, types) and (kind == "bool" or not isinstance(value, bool))
            number = ok and kind in ("int", "float")
            plain = value if isinstance(value, int) or not number else float(value)  # an int may be too large for float
            ok = ok and (not number or -1e300 < plain < 1e300)  # neither infinite nor NaN
            text = kind == "float" and isinstance(value, str) and value[:1].isdigit() and "e" in value.lower()
            hint = "; YAML takes 1e-3 for a text, and 1.0e-3 for a number" if text else ""
            check(ok or (value is None and kind != field.type), field.name, f"give {asked}{hint}")
            if number and type(value) not in (int, float):  # as JSON holds numbers
                object.__setattr__(self, field.name, int(value) if kind == "int" else plain)
        check(self.arm in ARMS, "arm", f"choose one of {', '.join(ARMS)}")
        check(self.consistency in FORMS, "consistency", f"choose one of {', '.join(FORMS)}")
        check(self.precision in ("no", "bf16", "fp16"), "precision", "choose no, bf16 or fp16")
        check(self.select in ("accuracy", "qwk", "none"), "select", "choose accuracy, qwk or none")
        for name in ("weight", "weight_decay", "save_every", "seed"):
            check(getattr(self, name) >= 0, name, "give a number that is not negative")
        check(self.seed <= MAX_SEED, "seed", f"give a whole number up to {MAX_SEED}")
        check(self.adapt in RUNGS, "adapt", f"choose one of {', '.join(RUNGS)}")
        for name in ("epochs", "batch_size", "last_k", "lora_rank", "judge_every"):
            check(getattr(self, name) >= 1, name, "give a whole number from 1")
        check(self.micro_batch is None or self.micro_batch >= 1, "micro_batch", "give a whole number from 1, or None")
        for name in ("lr", "clip_norm"):
            check(getattr(self, name) > 0, name, "give a number above 0")
        for name in ("warmup", "balance", "augment"):
            check(0 <= getattr(self, name) <= 1, name, "give a share between 0 and 1")

    @property
    def views(self) -> int:
        """Views of each image that pass through the tower in a step: 1 or 2."""
        return 2 if self.arm in TWO_VIEW_ARMS else 1


@dataclass(frozen=True)
class Preset:
    """A world: where the knees come from, which CLIP, which prompts, which recipe."""

    name: str
    data: str  # "phantom", a folder, a zip, or "kaggle"; empty where nobody has said where the real images are
    model: str  # a bundled name, a folder or a hub id
    prompts: str  # a built-in PromptSet
    recipe: Recipe
    world: str  # what a figure's caption calls this world

    @property
    def is_phantom(self) -> bool:
        return self.data == "phantom"


#: What a figure's caption and a run's card call real knees: the public splits of Chen 2018, or any others.
PUBLIC, OTHERS = "real knees (Chen 2018)", "real knees (not the public splits)"

PRESETS = {
    # Small enough for a laptop: the numbers show how the method behaves where the truth is known.
    "phantom": Preset("phantom", "phantom", "phantom-clip", "criteria", Recipe(lr=1e-4, augment=0.2), "phantom knees"),
    # Real images, small model, CPU: the first real run.
    "knees": Preset("knees", "", "phantom-clip", "criteria", Recipe(epochs=12, lr=5e-4, calibrate=True), PUBLIC),
    # The paper's architecture and prompts. Ours and untuned: we had no pretrained weights to tune them on.
    "paper": Preset(
        "paper",
        "",
        "openai/clip-vit-base-patch16",
        "paper",
        Recipe(epochs=10, batch_size=64, micro_batch=16, lr=1e-5, weight_decay=0.1, augment=0.3, calibrate=True),
        PUBLIC,
    ),
}


def get_preset(name: str | None = None, *, data: str | None = None) -> Preset:
    """The preset called `name`, or the one that the environment asks for.

    Parameters
    ----------
    name : {"phantom", "knees", "paper"}, optional
        Without it, ``KNEECLIP_PRESET`` decides, and "phantom" where that is not set.
    data : str, optional
        Where the real images are; without it ``KNEECLIP_DATA`` says so. Where neither does, the preset's `data` is
        empty, and `load_knees` asks for it. A preset of phantoms ignores ``KNEECLIP_DATA``.

    Raises
    ------
    KneeError
        For an unknown name, and for a preset of real knees with phantoms as its data, or the other way round.

    Notes
    -----
    Notebook: 01.
    """
    asked = name or os.environ.get("KNEECLIP_PRESET") or "phantom"
    if asked not in PRESETS:
        origin = "" if name else " in KNEECLIP_PRESET"
        raise KneeError(f"there is no preset of that name{origin}", asked, f"choose one of {', '.join(PRESETS)}")
    preset = PRESETS[asked]
    source = data or ("" if preset.is_phantom else os.environ.get("KNEECLIP_DATA", ""))
    if source and preset.is_phantom != (source == "phantom"):
        culprit = source if data else f"KNEECLIP_DATA={source}"
        remedy = "leave one of the two away, or choose the preset knees for real images and phantom for phantoms"
        raise KneeError(f"the preset {asked} and the data don't go together", culprit, remedy)
    return preset if preset.is_phantom else dataclasses.replace(preset, data=source)
