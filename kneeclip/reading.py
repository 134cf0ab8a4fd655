"""How alike two readers grade: the share of equal grades, and Cohen's kappa with its weights named."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.metrics import cohen_kappa_score

from kneeclip.errors import KneeError

GRADES = range(5)


def agreement(first: Sequence, second: Sequence) -> dict:
    """Agreement of two readers on the knees that both have graded.

    Parameters
    ----------
    first, second : sequence of N grades
        Whole numbers; None where a reader has not graded the knee.

    Returns
    -------
    dict
        ``n``, the knees that both graded; ``same``, on how many of them the grades are equal; ``kappa_quadratic`` and
        ``kappa_linear``: 1 perfect, 0 chance, below 0 worse than chance. None where kappa is undefined: no knee, or
        one and the same grade everywhere.

    Raises
    ------
    KneeError
        For two lists of different lengths.

    Notes
    -----
    Source: Cohen 1968 (weighted kappa). Notebook: 01.
    """
    first, second = list(first), list(second)
    if len(first) != len(second):
        raise KneeError("the readers graded different numbers of knees", f"{len(first)} and {len(second)}")
    both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if odd := [pair for pair in both if not set(pair) <= set(GRADES)]:
        raise KneeError("a reader's grade lies outside 0 to 4", odd, "use KL grades 0 to 4, or None")
    defined = len({grade for pair in both for grade in pair}) > 1
    a, b = np.array(both, dtype=int).reshape(-1, 2).T
    kappas = {  # with the labels named: scikit-learn counts how many labels lie between two grades, not grades
        f"kappa_{weights}": float(cohen_kappa_score(a, b, weights=weights, labels=GRADES)) if defined else None
        for weights in ("quadratic", "linear")
    }
    return {"n": len(both), "same": int((a == b).sum()), **kappas}


def agreement_table(graders: Mapping[str, Sequence]) -> str:
    """`agreement` of every two graders, a line each, ready to print. Whoever has graded no knee is left out.

    Parameters
    ----------
    graders : mapping of str to sequence of N grades
        None where a knee was not graded.

    Notes
    -----
    Notebook: 01.
    """
    played = {name: grades for name, grades in graders.items() if any(g is not None for g in grades)}
    pairs = list(itertools.combinations(played, 2))
    width = max([len(f"{a} and {b}") for a, b in pairs], default=0)
    lines = [f"{'':{width}}  same grade  kappa: quadratic  linear"]
    for a, b in pairs:
        found = agreement(played[a], played[b])
        kappas = ["–" if found[name] is None else f"{found[name]:.2f}" for name in ("kappa_quadratic", "kappa_linear")]
        same = f"{found['same']} of {found['n']}"
        lines.append(f"{f'{a} and {b}':{width}}  {same:>10}  {kappas[0]:>16}  {kappas[1]:>6}")
    return "\n".join(lines)
