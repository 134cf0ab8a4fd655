"""Run the notebooks one after another, on any system, and say where to look."""

from __future__ import annotations

import html
import os
import time
from collections.abc import Iterator
from pathlib import Path

from kneeclip.checkpoints import require_writable, write_atomically
from kneeclip.errors import KneeError
from kneeclip.tables import ARMS_MIME, Table

#: The block of an exporter's template that shows a figure: nbconvert's own leaves out its alternative text.
FIGURE = """
{%- block data_png scoped -%}
<div class="jp-RenderedImage jp-OutputArea-output {{ extra_class }}">
<img alt="{{ (output | get_metadata('alt', 'image/png') or '') | escape_html }}" src="data:image/png;base64,
{{- output.data['image/png'] | escape_html }}">
</div>
{%- endblock -%}
"""


def run_tutorial(notebooks: Path, out: Path, *, world: str = "phantom knees", echo=print) -> list[dict]:
    """Execute every numbered notebook of a folder; write executed copies, pages and an index.

    Parameters
    ----------
    notebooks, out : Path
        The folder of the notebooks, and where the copies go.
    world : str
        What the preset calls the knees; the index and the closing table name it.
    echo : callable
        Takes each line of progress.

    Returns
    -------
    list of dict
        The rows that the notebooks left for the closing table (arm, accuracy, QWK, flip agreement, seconds).

    Raises
    ------
    KneeError
        If there are no notebooks, Jupyter is missing, or a cell fails: the copy up to that cell is kept.
    """
    notebooks, out = (Path(os.path.expanduser(path)) for path in (notebooks, out))
    paths = sorted(notebooks.glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise KneeError("there are no notebooks", notebooks, "run this in a clone of the repository")
    try:
        import nbformat
        from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
        from nbconvert import HTMLExporter
    except ImportError as error:
        raise KneeError("Jupyter is missing", error.name, 'run pip install "kneeclip[notebooks]"') from None
    require_writable(out)
    template = "{%- extends 'lab/index.html.j2' -%}" + FIGURE
    pages, rows = [], []
    for number, path in enumerate(paths, 1):
        notebook = nbformat.read(path, as_version=4)
        title = next(_titles(notebook), path.stem)
        echo(f"[{number}/{len(paths)}] {path.stem}: {sum(c.cell_type == 'code' for c in notebook.cells)} cells …")
        start = time.perf_counter()
        client = notebook_client(notebook, notebooks, timeout=1800)
        failure = None
        try:
            client.execute(env={**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1"})
        except CellExecutionError as error:
            failure = f"{error.ename}: {error.evalue}"
        except (CellTimeoutError, DeadKernelError) as error:
            failure = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        page, _ = HTMLExporter(raw_template=template).from_notebook_node(notebook)
        copy = out / path.name
        write_atomically(copy, lambda tmp, nb=notebook: nbformat.write(nb, tmp))
        write_atomically(copy.with_suffix(".html"), lambda tmp, text=page: tmp.write_text(text, encoding="utf-8"))
        if failure is not None:
            raise KneeError(
                f"a cell of {path.name} failed ({failure})", copy, "open that copy, it ends at the failing cell"
            )
        seconds = time.perf_counter() - start
        echo(f"[{number}/{len(paths)}] {path.stem}: done in {seconds:.0f} s")
        pages.append((path.stem, title, seconds))
        rows += _rows(notebook)
    write_atomically(out / "index.html", lambda tmp: tmp.write_text(_index(pages, world), encoding="utf-8"))
    if rows:
        echo("\n" + str(Table(rows)))
        echo(f"On {world}, one seed; validation.")
        if "phantom" in world:
            echo("Phantoms show how the method behaves where the truth is known, not how well knees are graded.")
    return rows


def notebook_client(notebook, folder: Path, *, timeout: int):
    """An nbclient that runs `notebook` in `folder` and can't miss a reply where a widget draws into an Output.

    nbclient's stand-in for Output sends to the kernel past asyncio, on the very socket that the reply is awaited on. A
    reply that has come in by then wakes nobody any more, and a cell that is done waits for its timeout. Asking the
    socket for its events makes asyncio look again.
    """
    import zmq
    from nbclient import NotebookClient
    from nbclient.output_widget import OutputWidget

    class Output(OutputWidget):
        def send(self, *args, **kwargs) -> None:
            super().send(*args, **kwargs)
            self.kernel_client.shell_channel.socket.get(zmq.EVENTS)

    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        extra_arguments=["--log-level=40"],  # a kernel of ours on this machine needs no warning about its socket
        resources={"metadata": {"path": str(folder)}},
    )
    client.widget_registry = {"@jupyter-widgets/output": {"OutputModel": Output}}
    return client


def _titles(notebook) -> Iterator[str]:
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for line in cell.source.splitlines():
                if line.startswith("# "):
                    yield line[2:].strip()


def _rows(notebook) -> Iterator[dict]:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            yield from output.get("data", {}).get(ARMS_MIME, [])


def _index(pages: list[tuple[str, str, float]], world: str) -> str:
    items = "\n".join(
        f'<li><a href="{html.escape(stem)}.html">{html.escape(title)}</a> <small>{seconds:.0f} s</small></li>'
        for stem, title, seconds in pages
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>kneeclip: the tutorial</title><style>'
        "body{font:17px/1.6 system-ui,sans-serif;max-width:42rem;margin:3rem auto;padding:0 1rem;color:#222}"
        "li{margin:.4rem 0}small{color:#777}</style></head><body><h1>kneeclip: CLIP-KOA, step by step</h1>"
        f"<p>Executed on {html.escape(world)}. For teaching and research, never for diagnosis.</p>"
        f"<ol>\n{items}\n</ol></body></html>\n"
    )
