"""The first cell of a notebook, in a fresh environment and an empty folder, as Colab would run it.

GitHub is this checkout: git is told to take the repository's address from here. The package is installed without its
requirements (Colab has its own torch); a trial with all of them is a matter of minutes and was made by hand.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
LESSON = ROOT / "notebooks" / "01_explore_knees.ipynb"


def first_cell():
    return next(cell.source for cell in nbformat.read(LESSON, as_version=4).cells if cell.cell_type == "code")


def fresh(folder, with_pip):
    """The interpreter of a new virtual environment."""
    venv.create(folder, with_pip=with_pip)
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def run(python, code, folder, **environment):
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")} | environment
    return subprocess.run([python, "-c", code], cwd=folder, capture_output=True, text=True, env=env, timeout=300)


def test_it_does_nothing_where_kneeclip_is_installed(tmp_path):
    done = run(sys.executable, first_cell() + "\nprint(os.getcwd())", tmp_path)
    assert done.returncode == 0 and Path(done.stdout.strip()).resolve() == tmp_path.resolve(), done.stderr
    assert not list(tmp_path.iterdir())


def test_without_a_network_it_says_so_in_one_sentence(tmp_path):
    python = fresh(tmp_path / "fresh", with_pip=False)
    nowhere = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.file://{tmp_path}/nowhere.insteadOf"}
    done = run(python, first_cell(), tmp_path, **nowhere, GIT_CONFIG_VALUE_0="https://github.com/")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "could not be fetched: check the network, or use the class kit" in done.stderr.splitlines()[-1]


def test_in_an_empty_folder_it_fetches_and_installs(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: there is nothing to fetch")
    python = fresh(tmp_path / "fresh", with_pip=True)
    content = tmp_path / "content"
    content.mkdir()
    address = first_cell().split('ADDRESS = "')[1].split('"')[0]
    here = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": address,
    }
    there = "\nimport kneeclip; print(kneeclip.__file__); print(os.getcwd())"
    done = run(python, first_cell() + there, content, **here, PIP_NO_DEPS="1")
    if "could not be installed" in done.stderr:
        pytest.skip("pip reaches no package index here, which building the package needs")
    assert done.returncode == 0, done.stderr
    package, folder = map(Path, done.stdout.splitlines())
    assert (tmp_path / "fresh").resolve() in package.resolve().parents
    assert folder.resolve() == (content / "kneeclip-course" / "notebooks").resolve()
    assert (folder / ".." / "results").is_dir()
    again = run(python, first_cell() + "\nprint(os.getcwd())", content)  # a restarted kernel: no network, same place
    assert again.returncode == 0 and Path(again.stdout.strip()).resolve() == folder.resolve(), again.stderr
