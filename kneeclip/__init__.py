"""kneeclip: CLIP-KOA (arXiv 2504.19443), built step by step. For teaching and research, never for diagnosis.

``import kneeclip as kc`` gives every public name. Each is imported from its room when first used, so that the
import itself stays quick.
"""

from importlib import import_module

__version__ = "0.1.0"

_ROOMS = {
    "errors": ["KneeError", "KneeWarning"],
    "reading": ["agreement", "agreement_table"],
    "presets": ["ARMS", "GRADES", "RUNGS", "Preset", "Recipe", "get_preset"],
    "data": ["load_knees", "require_split", "tune_mask"],
    "films": ["read_grey"],
    "auditing": ["audit"],
    "checks": ["check", "quiz"],
    "prompts": ["PromptSet", "get_prompts"],
    "model": [
        "encode_images",
        "encode_texts",
        "load_clip",
        "predict",
        "preprocess",
        "save_clip",
        "similarity",
        "to_pixel_values",
    ],
    "losses": ["clip_koa_loss", "consistency_loss", "symmetry_loss"],
    "training": ["Run", "train"],
    "adapting": ["interpolate"],
    "study": ["run_study"],
    "findings": ["write_report"],
    "ablation": ["compare_arms"],
    "evaluation": ["compare", "evaluate", "expected_grade", "fit_temperature", "flip_average", "mcnemar"],
}
_MODULES = [
    "adapting",
    "classroom",
    "data",
    "evaluation",
    "explain",
    "losses",
    "model",
    "phantom",
    "plots",
    "presets",
    "probe",
    "processes",
    "prompts",
    "tables",
    "training",
    "widgets",
    "xray",
]
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted([*_HOME, *_MODULES])


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"kneeclip.{_HOME[name]}"), name)
    if name in _MODULES:
        return import_module(f"kneeclip.{name}")
    raise AttributeError(f"module 'kneeclip' has no attribute {name!r}")


def __dir__():
    return __all__
