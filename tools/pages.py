"""Notebooks and documents as pages that load nothing from a network: for the class kit.

Pictures and equations lie inside the page (equations as SVG, so that they need no font and no script) and links point
into the kit.
Nothing is executed: a page shows the outputs that the notebook was committed with.
"""

from __future__ import annotations

import base64
import html
import mimetypes
import os
import posixpath
import re
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import ziamath
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.exporters.html import contextfilter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from kneeclip.tutorial import FIGURE

# nbconvert's own page without the scripts that it fetches (require.js, MathJax, mermaid, widgets)
TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}
<style>
main{max-width:62rem;margin:0 auto}
nav.kit{max-width:62rem;margin:0 auto;padding:.6rem 1rem;font:15px/1.5 system-ui,sans-serif;color:#555}
.jp-RenderedMarkdown .highlight{margin:0 0 1em;padding:.5em .8em;background:#f5f5f5;overflow-x:auto}
.jp-RenderedMarkdown .highlight pre{background:none}
.equation{margin:1rem 0;text-align:center;overflow-x:auto}
</style>
{%- endblock -%}
{%- block body_header -%}
{{ super() }}
<nav class="kit"><a href="{{ resources.kit_index }}">All pages</a> · for teaching and research, never for diagnosis
</nav>
{%- endblock -%}
"""
# What ziamath does not know under this name, and the same thing under a name that it knows.
KNOWN_AS = {
    "{aligned}": "{align*}",
    "{gathered}": "{align*}",
    r"\operatorname*": r"\operatorname",
    r"\arg\max": r"\operatorname{arg\,max}",
    r"\arg\min": r"\operatorname{arg\,min}",
}
ziamath.config.svg2 = False  # every equation whole: no shapes that one borrows from another
INLINE, DISPLAY = 15, 17  # pixels; the text around has 14


def drawn(tex: str, *, block: bool = False) -> str:
    """An equation as SVG; a command that would come out as raw TeX stops the kit, so that no page hides one."""
    asked = tex.strip()
    for name, known in KNOWN_AS.items():
        asked = asked.replace(name, known)
    try:
        raw = re.findall(r"<m\w>(\\\w+|&)</m\w>", convert(asked))
        equation = ziamath.Latex(asked, size=DISPLAY if block else INLINE, inline=not block)
        picture, below = equation.svg(), equation.getyofst()
    except Exception as error:  # noqa: BLE001 - the libraries raise a dozen kinds, StopIteration among them
        raw = [type(error).__name__]
    if raw:
        sys.exit(f"the equation {tex.strip()!r} can't be drawn ({', '.join(raw)}): write it in other words")
    what = f'<svg role="img" aria-label="{html.escape(tex.strip())}" style="vertical-align:{below:.1f}px"'
    picture = picture.replace("<svg", what, 1)
    return f'<div class="equation">{picture}</div>' if block else picture


class _Markdown(IPythonRenderer):
    """nbconvert's Markdown, with equations drawn here, local pictures inside the page and no remote ones."""

    def __init__(self, where: Callable[[str], str], folder: Path, **options):
        super().__init__(**options)
        self.where, self.folder = where, folder

    def block_math(self, body: str) -> str:
        return drawn(body, block=True)

    def inline_math(self, body: str) -> str:
        return drawn(body)

    def latex_environment(self, name: str, body: str) -> str:
        return drawn(f"\\begin{{{name}}}{body}\\end{{{name}}}", block=True)

    def link(self, text: str, url: str, title: str | None = None) -> str:
        return super().link(text, self.where(url), title) if text else ""  # a badge has no text left

    def image(self, text: str, url: str, title: str | None = None) -> str:
        picture = self.folder / url
        if re.match(r"\w+://", url) or not picture.is_file():
            return ""
        data = base64.b64encode(picture.read_bytes()).decode("ascii")
        kind = mimetypes.guess_type(picture.name)[0]
        return f'<img alt="{self.escape_html(text)}" style="max-width:100%" src="data:{kind};base64,{data}">'


class _Exporter(HTMLExporter):
    def __init__(self, where: Callable[[str], str], folder: Path, **options):
        super().__init__(raw_template=TEMPLATE + FIGURE, exclude_anchor_links=True, **options)
        self.where, self.folder = where, folder

    @contextfilter
    def markdown2html(self, context, source):
        cell = context.get("cell", {})
        renderer = _Markdown(
            self.where, self.folder, escape=False, attachments=cell.get("attachments", {}), exclude_anchor_links=True
        )
        return MarkdownWithMath(renderer=renderer).render(source)


def write_page(source: Path, target: Path, *, root: Path, kit: Path, places: dict[str, str]) -> None:
    """One notebook or Markdown file of the repository as a page of the kit.

    `places` says where a file of the repository lies in the kit, both as posix paths: a link follows it there, and
    goes to the sources in ``course/`` where no page was made.
    """

    def where(url: str) -> str:
        path, mark, anchor = url.partition("#")
        if re.match(r"\w+:", url) or not path:
            return url
        inside = posixpath.normpath((source.parent.relative_to(root) / path).as_posix())
        there = places.get(inside, f"course/{inside}")
        return Path(os.path.relpath(kit / there, target.parent)).as_posix() + mark + anchor

    text = source.read_text(encoding="utf-8")
    if source.suffix == ".ipynb":
        notebook = nbformat.reads(text, as_version=4)
    else:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    index = Path(os.path.relpath(kit / "index.html", target.parent)).as_posix()
    resources = {"metadata": {"name": title_of(source)}, "kit_index": index}
    page, _ = _Exporter(where, source.parent).from_notebook_node(notebook, resources=resources)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8")


def title_of(source: Path) -> str:
    """The first heading of a notebook or Markdown file."""
    text = source.read_text(encoding="utf-8")
    if source.suffix == ".ipynb":
        text = nbformat.reads(text, as_version=4).cells[0].source
    return next((line[2:].strip() for line in text.splitlines() if line.startswith("# ")), source.stem)
