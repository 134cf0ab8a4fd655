"""Findings in plain radiographic words: the phrases that captions are built from.

No pain, no "cartilage" (a radiograph does not show it), no side and no compartment: a mirrored knee keeps its
caption. The degrees match those of the grading rule: possible, definite, marked, bone on bone.
"""

from __future__ import annotations

import numpy as np

STYLES = ("findings", "grade", "mixed")
OPENERS = (
    "a knee radiograph",
    "a radiograph of a knee",
    "a frontal knee radiograph",
    "knee radiograph",
    "an x-ray of a knee",
)
SPACE_CUTS = (0.15, 0.33, 0.67, 0.95)  # of the share lost
SPACE = (
    ("a normal joint space", "normal joint space", "a preserved joint space", "no joint space narrowing"),
    ("possible joint space narrowing", "a possibly narrowed joint space", "doubtful narrowing of the joint space"),
    (
        "definite joint space narrowing",
        "a definitely narrowed joint space",
        "definite narrowing of the joint space",
        "moderate joint space narrowing",
    ),
    ("marked joint space narrowing", "marked narrowing", "a markedly narrowed joint space", "severe narrowing"),
    ("bone on bone contact", "a joint space that is lost, bone on bone", "complete loss of the joint space"),
)
AT_MOST_POSSIBLE = ("no more than possible narrowing", "at most possible joint space narrowing")
SPUR_CUTS = (0.5, 1.0, 1.6, 2.3)  # of the largest osteophyte
SPUR = (
    ("no osteophyte", "no osteophytes", "smooth bone margins", "margins free of osteophytes"),
    ("a doubtful osteophyte", "doubtful osteophytes", "a possible osteophyte", "possible osteophytic lipping"),
    ("a definite osteophyte", "definite small osteophytes", "a small definite osteophyte", "minimal osteophytes"),
    ("moderate osteophytes", "multiple moderate osteophytes", "osteophytes of moderate size"),
    ("large osteophytes", "multiple large osteophytes", "marked osteophytes"),
)
SCLEROSIS_CUTS = (0.8, 2.0)
SCLEROSIS = (
    ("no sclerosis", "no subchondral sclerosis"),
    ("some sclerosis", "some subchondral sclerosis", "mild sclerosis"),
    ("severe sclerosis", "dense subchondral sclerosis", "marked sclerosis"),
)
DEFORMITY = ("bone deformity", "deformity of the bone ends", "bone attrition")
GRADES = (("normal",), ("doubtful",), ("minimal", "mild"), ("moderate",), ("severe",))
GRADE_FORMS = (
    "Kellgren-Lawrence grade {k}",
    "KL grade {k}",
    "KL {k}",
    "Kellgren and Lawrence grade {k}",
    "Kellgren-Lawrence grade {k}, {w}",
    "{w} knee osteoarthritis",
    "{w} osteoarthritis of the knee",
    "{w} knee osteoarthritis, KL grade {k}",
)
HEALTHY_FORMS = ("no knee osteoarthritis", "no osteoarthritis, KL grade 0")


def findings(rng: np.random.Generator, lost: float, spur: float, sclerosis: float, deformed: bool, drop: bool) -> str:
    """Osteophytes, joint space, sclerosis and deformity in words, in any order; `drop` may leave one out."""
    degree = int(np.searchsorted(SPACE_CUTS, lost, "right"))
    hedged = spur >= 1 and degree < 2 and rng.random() < 0.3
    parts = [
        _pick(rng, SPUR[int(np.searchsorted(SPUR_CUTS, spur, "right"))]),
        _pick(rng, AT_MOST_POSSIBLE if hedged else SPACE[degree]),
    ]
    hard = int(np.searchsorted(SCLEROSIS_CUTS, sclerosis, "right"))
    if hard or rng.random() < 0.15:
        parts.append(_pick(rng, SCLEROSIS[hard]))
    if deformed:
        parts.append(_pick(rng, DEFORMITY))
    if drop:
        parts.pop(rng.integers(len(parts)))
    rng.shuffle(parts)
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def named_grade(rng: np.random.Generator, grade: int) -> str:
    """The grade by its number, its word or both."""
    form = _pick(rng, GRADE_FORMS + (HEALTHY_FORMS if grade == 0 else ()))
    return form.format(k=grade, w=_pick(rng, GRADES[grade]))


def caption(rng: np.random.Generator, style: str, grade: int, **seen) -> str:
    """One caption; `seen` is what `findings` takes. Mixed: findings, the grade, or both."""
    use = style if style != "mixed" else ("findings", "grade", "both")[rng.choice(3, p=(0.4, 0.3, 0.3))]
    opener = _pick(rng, OPENERS)
    if use == "grade":
        named = named_grade(rng, grade)
        return _pick(rng, (named, f"{opener}, {named}", f"{opener} showing {named}"))
    words = findings(rng, **seen, drop=style == "mixed" and rng.random() < 0.25)
    if use == "findings":
        return f"{opener} with {words}"
    named = named_grade(rng, grade)
    return _pick(rng, (f"{opener} with {words}, {named}", f"{named}: {opener} with {words}"))


def _pick(rng, choices):
    return choices[rng.integers(len(choices))]
