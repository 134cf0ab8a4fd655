"""`kneeclip tutorial`: executed copies, an index, the closing table; a failing cell is named and its copy kept."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import zmq.asyncio
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.session import Session
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from kneeclip.errors import KneeError
from kneeclip.tutorial import notebook_client, run_tutorial


def write(folder, name, *code):
    book = new_notebook(cells=[new_markdown_cell(f"# {name}"), *map(new_code_cell, code)])
    nbformat.write(book, folder / f"{name}.ipynb")


def test_copies_index_and_table(tmp_path):
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    write(notebooks, "01_first", "print(6 * 7)")
    write(
        notebooks,
        "02_second",
        "from kneeclip.tables import ARMS_MIME, Table\n"
        "Table([{'arm': 'clip', 'accuracy': 0.5, 'qwk': 0.25, 'flip_agreement': 1.0, 'seconds': 3}], mime=ARMS_MIME)",
        "import kneeclip as kc\nkc.plots.confusion([[3, 1], [0, 2]])",
    )
    said = []
    rows = run_tutorial(notebooks, tmp_path / "out", echo=said.append)
    assert rows == [{"arm": "clip", "accuracy": 0.5, "qwk": 0.25, "flip_agreement": 1.0, "seconds": 3}]
    assert nbformat.read(tmp_path / "out" / "01_first.ipynb", 4).cells[1].outputs[0].text == "42\n"
    assert "42" in (tmp_path / "out" / "01_first.html").read_text()
    assert '<img alt="A confusion matrix, by default' in (tmp_path / "out" / "02_second.html").read_text()
    index = (tmp_path / "out" / "index.html").read_text()
    assert "02_second.html" in index and "phantom knees" in index and "never for diagnosis" in index
    assert any("[2/2]" in line for line in said) and any("0.250" in line for line in said)


def test_a_failing_cell_is_named_and_its_copy_kept(tmp_path):
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    write(notebooks, "01_first", "print('before')", "1 / 0", "print('after')")
    with pytest.raises(KneeError, match="01_first.ipynb failed .ZeroDivisionError"):
        run_tutorial(notebooks, tmp_path / "out", echo=lambda _: None)
    copy = nbformat.read(tmp_path / "out" / "01_first.ipynb", 4)
    assert copy.cells[1].outputs[0].text == "before\n" and not copy.cells[3].outputs


def test_a_reply_is_heard_though_a_widget_speaks_just_then():
    """Real sockets: the reply lies there when a widget sends.

    nbclient's own Output leaves it unseen until the poll's time is up.
    """
    client = notebook_client(new_notebook(), Path(), timeout=5)
    kind = client.widget_registry["@jupyter-widgets/output"]["OutputModel"]

    async def heard():
        context = zmq.asyncio.Context()
        kernel, socket = zmq.Context.shadow(context.underlying).socket(zmq.PAIR), context.socket(zmq.PAIR)
        with kernel, socket:
            kernel.bind("inproc://kernel")
            socket.connect("inproc://kernel")
            session = Session()
            ours = SimpleNamespace(session=session, shell_channel=AsyncZMQSocketChannel(socket, session))
            widget = kind("1", {"outputs": []}, ours, client)
            widget.parent_header = {}
            waiting = asyncio.ensure_future(socket.poll(60_000))
            await asyncio.sleep(0)  # it waits on the socket now
            kernel.send(b"reply")
            widget.send({"method": "update", "state": {}})
            for _ in range(100):  # turns of the loop, none of which waits
                await asyncio.sleep(0)
            return waiting.done()

    assert asyncio.run(heard())
