"""Small tables that read well in a notebook, in a terminal and by a program."""

from __future__ import annotations

import re
from collections.abc import Sequence

ARMS_MIME = "application/vnd.kneeclip.arms+json"
#: A cell that holds a number, with its unit or interval, or an interval alone; what else there is is text.
NUMBER = re.compile(r"[-+−]?\d[\d.,]*(e[-+]?\d+)?( ?%)?( \[.*\])?|\[.*\]")


class Table:
    """Rows of dicts, shown as HTML in a notebook and as aligned text elsewhere.

    As HTML, columns without a number stand at the left, and no interval breaks inside its brackets.

    Parameters
    ----------
    rows : sequence of dict
        All with the same keys; floats are shown with three decimals.
    mime : str, optional
        The type under which the rows go into a notebook's output as JSON too, for programs.
    """

    def __init__(self, rows: Sequence[dict], *, mime: str | None = None):
        self.rows, self.mime = list(rows), mime

    def __str__(self) -> str:
        if not self.rows:
            return "(no rows)"
        cells = [list(self.rows[0]), *[[_shown(value) for value in row.values()] for row in self.rows]]
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
        ]
        return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])

    __repr__ = __str__

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        import html

        cells = [[_shown(value) for value in row.values()] for row in self.rows]
        words = [not any(map(NUMBER.fullmatch, column)) for column in zip(*cells, strict=True)]

        def row(texts, tag):
            places = [' style="text-align: left"' if text else "" for text in words]
            shown = [html.escape(re.sub(r"\[[^]]*\]", _unbroken, text)) for text in texts]
            return "<tr>" + "".join(f"<{tag}{at}>{x}</{tag}>" for at, x in zip(places, shown, strict=True)) + "</tr>"

        head = row(list(self.rows[0]), "th") if self.rows else "<tr></tr>"
        body = "".join(row(texts, "td") for texts in cells)
        bundle = {"text/plain": str(self), "text/html": f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"}
        return bundle | ({self.mime: self.rows} if self.mime else {})


def report_rows(report: dict) -> list[dict]:
    """The headline metrics of an `evaluate` report as rows: metric, value, 95 % interval, flip-averaged value."""
    names = ("accuracy", "balanced_accuracy", "macro_f1", "qwk", "mae", "auc_kl2", "ece", "flip_agreement")
    averaged = report.get("averaged") or {}
    return [
        {
            "metric": name,
            "value": report[name],
            "interval": _interval(report["ci"].get(name)),
            "flip-averaged": averaged.get(name, ""),
        }
        for name in names
    ]


def _interval(pair) -> str:
    return "" if not pair else f"[{pair[0]:.3f}, {pair[1]:.3f}]"


def _shown(value) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "–" if value is None or value == "" else str(value)


def _unbroken(brackets: re.Match) -> str:
    return brackets.group().replace(" ", "\N{NO-BREAK SPACE}")
