"""One kind of error for everything that a user can mend."""

from __future__ import annotations

from collections.abc import Iterable


class KneeError(Exception):
    """What is wrong, with what, and what to do about it, in one sentence.

    Parameters
    ----------
    what : str
        What is wrong, without a full stop: ``"the grade folder is unknown"``.
    culprit : str or iterable of str, optional
        The file, folder, setting or value at fault. Of many, the first three are named and the rest counted.
    remedy : str, optional
        What the user can do: ``"rename it to one of 0, 1, 2, 3, 4"``.

    Examples
    --------
    >>> print(KneeError("the image can't be read", "train/2/9001695L.png", "copy it again"))
    the image can't be read (train/2/9001695L.png): copy it again.
    """

    def __init__(self, what: str, culprit: object | Iterable[object] | None = None, remedy: str | None = None):
        self.what, self.remedy = what, remedy
        self.culprits = _listed(culprit)
        shown = ", ".join(self.culprits[:3])
        if len(self.culprits) > 3:
            shown += f" and {len(self.culprits) - 3} more"
        sentence = what + (f" ({shown})" if shown else "") + (f": {remedy}" if remedy else "")
        super().__init__(printable(sentence.rstrip(".") + "."))


class Diverged(KneeError):
    """A training whose numbers are no longer finite: its settings or images are at fault, not the machine."""


class KneeWarning(UserWarning):
    """Something that works, and that the user should know of all the same."""


def printable(text: str) -> str:
    """`text` with what could break a line or steer a terminal written out: names come from files and zips of others."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _listed(culprit: object) -> list[str]:
    if culprit is None:
        return []
    if isinstance(culprit, (list, tuple, set, frozenset)):
        return [str(c) for c in culprit]
    return [str(culprit)]
