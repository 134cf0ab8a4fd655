"""Keep the notebooks alike: their badges and first cells, their outputs, the times that they promise.

python tools/notebooks.py badges [ADDRESS]   the repository's address into pyproject.toml and every page
python tools/notebooks.py run [NAME ...]     run notebooks from a fresh kernel, on phantoms, and keep clean outputs
python tools/notebooks.py figures            the figures that README and docs show, from the pages' outputs
python tools/notebooks.py guide              the questions and what lies behind each choice, into docs/teaching.md
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
COLAB = "https://colab.research.google.com"
BADGE = "[![Open In Colab]({colab}/assets/colab-badge.svg)]({colab}/github/{slug}/blob/main/{path})"
SETUP = """\
# Where kneeclip is installed (JupyterLab, VS Code) this cell does nothing. In Colab it installs it.
import importlib.util
import os
import subprocess
import sys

ADDRESS = "{address}"
CLONE, ROOT = "kneeclip-course", "{above}"  # ROOT is the repository, seen from this notebook
installed = importlib.util.find_spec("kneeclip") is not None
if not installed and not os.path.exists(f"{{ROOT}}/pyproject.toml") and not os.path.isdir(CLONE):
    if subprocess.run(["git", "clone", "-q", "--depth", "1", ADDRESS, CLONE]).returncode:
        sys.exit(f"{{ADDRESS}} could not be fetched: check the network, or use the class kit")
if os.path.isdir(CLONE):
    os.chdir(f"{{CLONE}}/{folder}")
if not installed:
    pip = [sys.executable, "-m", "pip", "install", "-q", ROOT, "ipywidgets"]
    if subprocess.run(pip).returncode:
        sys.exit("kneeclip could not be installed: pip says why above this line")
    importlib.invalidate_caches()"""
VERSIONS = """\
# NBVAL_IGNORE_OUTPUT
import platform

import kneeclip as kc
import torch
import transformers

preset = kc.get_preset()
device = "GPU" if torch.cuda.is_available() else "CPU"
print(f"Python {platform.python_version()}, torch {torch.__version__}, {device}")
print(f"transformers {transformers.__version__}")
print(f"preset {preset.name}: {preset.world}, model {preset.model}, prompts {preset.prompts}")"""
TIME = re.compile(r"(?<=\*\*Time:\*\* )\d+ s")
# the figure of each notebook that the README shows: the first one of the first cell with these words
README_FIGURES = {
    "01": "kc.plots.labelled(",
    "02": "kc.plots.similarity_map(",
    "03": "kc.plots.loss_curves(curves",
    "04": "kc.plots.one_sided(",
    "05": "all folds, over {over}",
    "06": "kc.plots.learnt_and_kept(",
}
# where the README's part of a figure begins, as a share of its width: a column there is some 380 pixels wide
FROM = {"01": 0.49}
GUIDE = re.compile(r"(?s)(?<=<!-- questions -->\n).*?(?=<!-- end of questions -->)")


def address(pyproject: str | None = None) -> str:
    """Where the repository lives: the one place is [project.urls] of pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8") if pyproject is None else pyproject
    return tomllib.loads(text)["project"]["urls"]["Repository"].removesuffix(".git").rstrip("/")


def notebooks() -> list[Path]:
    return [*sorted(FOLDER.glob("0*.ipynb")), *sorted((FOLDER / "solutions").glob("0*.ipynb"))]


def with_address(notebook, path: Path, where: str):
    """A notebook whose badge and first two code cells are those of every notebook; changed in place, returned."""
    inside = path.relative_to(ROOT).as_posix()
    badge = BADGE.format(colab=COLAB, slug=where.removeprefix("https://github.com/"), path=inside)
    first = notebook.cells[0]
    if "colab-badge.svg" in first.source:
        first.source = re.sub(r"(?m)^\[!\[Open In Colab\].*$", lambda _: badge, first.source)
    else:
        title, _, rest = first.source.partition("\n")
        first.source = f"{title}\n\n{badge}\n\n{rest.strip()}"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    above = "/".join([".."] * inside.count("/"))
    code[0].source = SETUP.format(address=where, above=above, folder=path.parent.relative_to(ROOT).as_posix())
    code[1].source = VERSIONS
    return notebook


def badges(new: str | None = None) -> list[Path]:
    """Write the address into pyproject.toml (if given), CITATION.cff and every notebook; the files that changed."""
    import nbformat

    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "pyproject.toml", ROOT / "CITATION.cff")}
    if new is not None:
        if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", new):
            sys.exit(f"{new} is no address of a repository: give https://github.com/OWNER/NAME")
        old = address()
        texts = {path: text.replace(old, new) for path, text in texts.items()}
    changed = [path for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    for path in changed:
        path.write_text(texts[path], encoding="utf-8")
    for path in notebooks():
        before = path.read_text(encoding="utf-8")
        after = nbformat.writes(with_address(nbformat.reads(before, as_version=4), path, address())) + "\n"
        if after != before:
            path.write_text(after, encoding="utf-8")
            changed.append(path)
    return changed


def clean(notebook):
    """Without what differs from machine to machine: times of execution, and widgets, which a page can't show."""
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i:02d}"
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [
                o for o in cell.outputs if "application/vnd.jupyter.widget-view+json" not in o.get("data", {})
            ]
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = smaller(output.data["image/png"])
    notebook.metadata.pop("widgets", None)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def smaller(png: str) -> str:
    """The same pixels in fewer bytes: without an alpha channel that hides nothing."""
    import base64
    import io

    from PIL import Image

    picture, out = Image.open(io.BytesIO(base64.b64decode(png))), io.BytesIO()
    opaque = picture.mode == "RGBA" and picture.getextrema()[3] == (255, 255)
    (picture.convert("RGB") if opaque else picture).save(out, "png", optimize=True)
    found = base64.b64encode(out.getvalue()).decode()
    return found if len(found) < len(png) else png


def run(path: Path) -> float:
    """Execute one notebook in place, from a fresh kernel; seconds. Its opening cell states them."""
    import nbformat

    from kneeclip.tutorial import notebook_client

    notebook = with_address(nbformat.read(path, as_version=4), path, address())
    phantoms = {name: value for name, value in os.environ.items() if name not in ("KNEECLIP_PRESET", "KNEECLIP_DATA")}
    client = notebook_client(notebook, path.parent, timeout=900)
    start = time.perf_counter()
    try:
        client.execute(env=phantoms)
    finally:
        seconds = time.perf_counter() - start
        notebook.cells[0].source = TIME.sub(f"{seconds:.0f} s", notebook.cells[0].source)
        path.write_text(nbformat.writes(clean(notebook)) + "\n", encoding="utf-8")
    return seconds


def figures() -> dict[Path, bytes]:
    """Where each of the README's figures goes, and its PNG as the notebook shows it, or the part in FROM."""
    import base64

    import nbformat

    found = {}
    for path in sorted(FOLDER.glob("0*.ipynb")):
        number = path.name[:2]
        cells = nbformat.read(path, as_version=4).cells
        shown = [
            output["data"]["image/png"]
            for cell in cells
            if cell.cell_type == "code" and README_FIGURES[number] in cell.source
            for output in cell.outputs
            if "image/png" in output.get("data", {})
        ]
        if not shown:
            sys.exit(f"{path.name} shows no figure of {README_FIGURES[number]}…): run it, or name another figure")
        png = base64.b64decode(shown[0])
        found[ROOT / "docs" / "figures" / f"{number}.png"] = right_of(png, FROM[number]) if number in FROM else png
    return found


def right_of(png: bytes, share: float) -> bytes:
    """What lies to the right of this share of a picture's width."""
    import io

    from PIL import Image

    picture, out = Image.open(io.BytesIO(png)), io.BytesIO()
    picture.crop((round(share * picture.width), 0, *picture.size)).save(out, "png", optimize=True)
    return out.getvalue()


def guide() -> str:
    """The questions as they stand on the pages, the right choice, and the misconception behind each other one."""
    import nbformat

    from kneeclip.checks import QUESTIONS

    lines = []
    for path in sorted(FOLDER.glob("0*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        lines += [f"### {notebook.cells[0].source.splitlines()[0].removeprefix('# ')}", ""]
        for cell in notebook.cells:
            found = re.search(
                r"(?s)\*\*Predict, then run \(([\d-]+)\)\.\*\*\s*(.*?)(?=\n\s*\n(?!\(a\))|\Z)", cell.source
            )
            if cell.cell_type != "markdown" or not found:
                continue
            asked = QUESTIONS[found.group(1)]
            lines += [f"**{found.group(1)}** {' '.join(found.group(2).split())}", ""]
            lines += [f"- **{asked.right}** is right: {asked.reasons[asked.right]}"]
            lines += [f"- {letter} believes: {belief}" for letter, belief in asked.misconceptions.items()]
            lines += [""]
    return "\n".join(lines)


def with_guide(text: str) -> str:
    return GUIDE.sub(lambda _: "\n" + guide() + "\n", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("badges").add_argument("address", nargs="?")
    commands.add_parser("run").add_argument("names", nargs="*", metavar="NAME", help="the start of a notebook's name")
    commands.add_parser("figures")
    commands.add_parser("guide")
    given = parser.parse_args()
    if given.command == "badges":
        print(
            "\n".join(f"rewritten: {path.relative_to(ROOT)}" for path in badges(given.address)) or "nothing to change"
        )
    elif given.command == "figures":
        for path, png in figures().items():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(png)
    elif given.command == "guide":
        page = ROOT / "docs" / "teaching.md"
        page.write_text(with_guide(page.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        chosen = [
            p for p in notebooks() if not given.names or p.relative_to(FOLDER).as_posix().startswith(tuple(given.names))
        ]
        for path in chosen:
            print(f"{path.relative_to(ROOT)}: {run(path):.0f} s", flush=True)
        subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", "--line-length", "100", *map(str, chosen)])


if __name__ == "__main__":
    main()
