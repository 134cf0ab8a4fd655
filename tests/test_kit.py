"""The class kit without its wheels: every page is there and loads nothing from a network."""

import hashlib
import re
import subprocess
import sys
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / "tools"
pytest.importorskip("ziamath", reason="the kit's own package is not installed: pip install kneeclip[kit]")


def run_kit(*words):
    return subprocess.run([sys.executable, TOOLS / "kit.py", *words], capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class") / "kit"
    done = run_kit("--no-wheels", "--out", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import pages
    import wheels

    yield wheels, pages
    for name in ("wheels", "pages"):
        sys.modules.pop(name)


class Reader(HTMLParser):
    """What a page loads, where its links lead, and the text outside code."""

    def __init__(self, page):
        super().__init__()
        self.loads, self.links, self.text, self.alts, self.ids, self.inside = [], [], [], [], set(), []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag in ("pre", "code", "style", "svg"):
            self.inside.append(tag)
        if tag == "img":
            self.alts.append(dict(attrs).get("alt"))
        for name, value in attrs:
            if name == "id":
                self.ids.add(value)
            if name == "href" and tag == "a":
                self.links.append(value)
            elif name in ("src", "href", "srcset", "data", "poster", "xlink:href", "action"):
                self.loads.append((tag, value))
        if tag == "script":
            self.loads.append((tag, "script"))

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.text.append(data)


@pytest.fixture(scope="module")
def read_pages(kit):
    return {path: Reader(path.read_text(encoding="utf-8")) for path in kit.rglob("*.html")}


def test_every_notebook_and_document_has_its_page(kit):
    for source in (ROOT / "notebooks").glob("0*.ipynb"):
        assert (kit / "pages" / f"{source.stem}.html").is_file()
    for source in (ROOT / "notebooks" / "solutions").glob("0*.ipynb"):
        assert (kit / "teacher" / "solutions" / f"{source.stem}.html").is_file()
    for source in (ROOT / "docs").glob("*.md"):
        room = "teacher" if source.stem == "teaching" else "pages"
        assert (kit / room / f"{source.stem}.html").is_file()


def test_no_page_loads_anything(kit, read_pages):
    for path, page in read_pages.items():
        assert not [load for load in page.loads if not load[1].startswith("data:")], path.name
        assert not re.findall(r"@import|url\(\s*['\"]?(?:https?:)?//", path.read_text(encoding="utf-8")), path.name


def test_every_picture_says_in_words_what_it_shows(read_pages):
    alts = {path.name: page.alts for path, page in read_pages.items()}
    assert all(len(alts[source.with_suffix(".html").name]) > 3 for source in (ROOT / "notebooks").glob("0*.ipynb"))
    for name, said in alts.items():
        assert all(alt and len(alt) > 12 and "No description" not in alt for alt in said), name


def test_links_stay_inside_the_kit_and_lead_somewhere(kit, read_pages):
    for path, page in read_pages.items():
        for link in page.links:
            if re.match(r"https?://|mailto:", link):
                continue
            target, _, anchor = link.partition("#")
            there = (path.parent / target).resolve() if target else path
            assert there.exists() and there.is_relative_to(kit.resolve()), f"{path.name}: {link}"
            assert not target.endswith((".ipynb", ".md")) or not there.stem.startswith("0"), f"{path.name}: {link}"
    linked = {(kit / link).resolve() for link in read_pages[kit / "index.html"].links}
    assert {path.resolve() for path in (kit / "pages").glob("*.html")} <= linked
    linked = {(kit / "teacher" / link).resolve() for link in read_pages[kit / "teacher" / "index.html"].links}
    assert {path.resolve() for path in (kit / "teacher").rglob("*.html")} - linked == {
        (kit / "teacher" / "index.html").resolve()
    }


def test_equations_are_drawn_and_figures_are_there(kit, read_pages):
    drawn = 0
    for path, page in read_pages.items():
        assert not re.findall(r"\$\$|\\(?:frac|mathrm|mathcal|sum|log|text)\b", "".join(page.text)), path.name
        drawn += path.read_text(encoding="utf-8").count('role="img"')
    assert drawn >= 20
    for source in (ROOT / "notebooks").glob("0*.ipynb"):
        page = (kit / "pages" / f"{source.stem}.html").read_text(encoding="utf-8")
        figures = source.read_text(encoding="utf-8").count('"image/png": "')
        assert page.count("data:image/png") >= figures > 0


def test_the_teachers_things_lie_apart(kit):
    assert not list((kit / "course").rglob("teaching.md")) and not (kit / "course" / "notebooks" / "solutions").exists()
    assert (kit / "course" / "pyproject.toml").is_file() and (kit / "course" / "kneeclip" / "__init__.py").is_file()
    assert (kit / "teacher" / "teaching.md").is_file()
    assert not [path for path in kit.rglob("*") if path.name in (".git", ".venv", "runs", "__pycache__")]


def test_checksums_and_zip_hold_everything(kit):
    lines = dict(reversed(line.split("  ")) for line in (kit / "SHA256SUMS").read_text(encoding="utf-8").splitlines())
    files = {path.relative_to(kit).as_posix(): path for path in kit.rglob("*") if path.is_file()}
    assert set(lines) == set(files) - {"SHA256SUMS"}
    for name in ("INSTALL.txt", "index.html"):
        assert lines[name] == hashlib.sha256(files[name].read_bytes()).hexdigest()
    with zipfile.ZipFile(kit.with_name("kit.zip")) as archive:
        assert {name.removeprefix("kit/") for name in archive.namelist()} == set(files)


def test_an_equation_that_can_not_be_drawn_stops_the_kit(tools):
    _, pages = tools
    assert "<svg" in pages.drawn(r"\begin{aligned} a &= b \\ c &= d \end{aligned}", block=True)
    for tex in (r"\nosuchcommand x", r"\frac{1", r"\begin{nosuch} a & b \end{nosuch}"):
        with pytest.raises(SystemExit, match="can't be drawn"):
            pages.drawn(tex)


def test_what_it_can_not_make_is_said_in_a_sentence(tmp_path):
    done = run_kit("--platform", "macos_x86_64", "--out", str(tmp_path / "kit"))
    assert done.returncode == 1 and "Intel" in done.stderr and "Traceback" not in done.stderr
    done = run_kit("--python", "3.9", "--out", str(tmp_path / "kit"))
    assert done.returncode == 1 and "3.11" in done.stderr
    (tmp_path / "mine.txt").write_text("mine")
    done = run_kit("--no-wheels", "--out", str(tmp_path))
    assert done.returncode == 1 and "no kit" in done.stderr and (tmp_path / "mine.txt").exists()


def test_missing_wheels_are_those_of_the_other_platform(tools, tmp_path):
    wheels, _ = tools

    def wheel(name, *needs):
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n" + "".join(f"Requires-Dist: {n}\n" for n in needs)
        with zipfile.ZipFile(tmp_path / f"{name}-1-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{name}-1.dist-info/METADATA", text)

    wheel("kneeclip", "torch>=2", 'jupyterlab; extra == "notebooks"', 'pytest; extra == "test"')
    assert wheels.missing(tmp_path, "win_amd64", "3.11") == ["jupyterlab", "torch>=2"]
    wheel("torch", 'nvidia-cublas; platform_system == "Linux"', 'old; python_version < "3.12"')
    wheel("jupyterlab", 'pywinpty; os_name == "nt"', 'appnope; sys_platform == "darwin"', "kneeclip[notebooks]")
    assert wheels.missing(tmp_path, "win_amd64", "3.12") == ["pywinpty"]
    assert wheels.missing(tmp_path, "macos_arm64", "3.11") == ["appnope", "old"]
    assert wheels.missing(tmp_path, "linux_x86_64", "3.12") == ["nvidia-cublas"]
    wheel("pywinpty")
    assert wheels.missing(tmp_path, "win_amd64", "3.12") == []


def test_the_class_s_notebooks_don_t_give_the_answers_away(kit):
    for source in sorted((ROOT / "notebooks").glob("0*.ipynb")):
        given, own = (nbformat.read(path, as_version=4) for path in (kit / "course/notebooks" / source.name, source))
        code = [cell for cell in given.cells if cell.cell_type == "code"]
        assert code and not any(cell.outputs or cell.execution_count for cell in code)
        assert any(cell.outputs for cell in own.cells if cell.cell_type == "code")
        assert [cell.source for cell in given.cells] == [cell.source for cell in own.cells]
