"""The committed notebooks: run top to bottom, clean, alike, honest. (nbval runs them; this reads them.)"""

import importlib.util
import io
import json
import re
import tomllib
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from kneeclip.checks import EXERCISES, QUESTIONS
from kneeclip.tables import ARMS_MIME

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
spec = importlib.util.spec_from_file_location("notebooks_tool", ROOT / "tools" / "notebooks.py")
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def read(path):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    object.__setattr__(book, "path", path)  # beside the notebook: an item of it would be written into the file
    return book


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def lesson(request):
    return read(request.param)


@pytest.fixture(params=[*NOTEBOOKS, *SOLUTIONS], ids=lambda path: f"{path.parent.name}/{path.stem}")
def page(request):
    """A lesson or its solutions."""
    return read(request.param)


def cells(book, kind):
    return [cell for cell in book.cells if cell.cell_type == kind]


def prose(book):
    return "\n".join(cell.source for cell in cells(book, "markdown"))


def pictures(cell):
    return sum("image/png" in output.get("data", {}) for output in cell.get("outputs", []))


def test_there_are_six_and_each_has_its_solutions():
    assert [path.stem for path in NOTEBOOKS] == [
        "01_explore_knees",
        "02_design_prompts",
        "03_finetune_clip",
        "04_symmetry_and_consistency",
        "05_evaluate_and_explain",
        "06_adapt_and_scale",
    ]
    assert [path.name for path in SOLUTIONS] == [path.name for path in NOTEBOOKS]


def test_run_top_to_bottom_without_errors_or_stderr(page):
    code = cells(page, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]


def test_no_absolute_path_and_small_enough(page):
    text = page.path.read_text(encoding="utf-8")
    pictures_apart = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not re.findall(r"(?<![\w.:/])/(?:home|root|tmp|work|Users|content)/", pictures_apart)
    assert page.path.stat().st_size < 1_500_000
    assert max(len(line) for line in pictures_apart.splitlines()) < 20_000  # a diff that can be read


def test_no_widget_state_that_a_page_can_not_show(page):
    assert "widgets" not in page.metadata or "state" in json.dumps(page.metadata["widgets"])
    for cell in cells(page, "code"):
        for output in cell.outputs:
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})


def test_badges_and_first_cells_are_the_ones_that_the_tool_writes(page):
    before = nbformat.writes(page)
    assert page.cells[0].source.count("colab-badge.svg") == 1
    assert page.path.relative_to(ROOT).as_posix() in page.cells[0].source
    assert nbformat.writes(tool.with_address(page, page.path, tool.address())) == before, "run: make badges"


def test_the_address_stands_in_one_place_and_a_command_moves_it(tmp_path, monkeypatch):
    new = "https://github.com/someone/knees"
    for folder in ("notebooks", "notebooks/solutions"):
        (tmp_path / folder).mkdir()
    for path in [ROOT / "pyproject.toml", ROOT / "CITATION.cff", *NOTEBOOKS[:1], *SOLUTIONS[:1]]:
        (tmp_path / path.relative_to(ROOT)).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "FOLDER", tmp_path / "notebooks")
    old = tool.address()
    changed = tool.badges(new)
    assert len(changed) == 4 and tool.badges() == []
    for path in changed:
        text = path.read_text(encoding="utf-8")
        assert old not in text and ("someone/knees" in text)
    with pytest.raises(SystemExit, match="OWNER/NAME"):
        tool.badges("github.com/someone")


def test_no_other_page_names_another_address():
    address = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
    assert f"repository-code: {address}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        assert "github.com" not in path.read_text(encoding="utf-8").replace(address, ""), path.name


def test_first_cell_states_purpose_limits_and_time(lesson):
    first = lesson.cells[0].source
    assert first.startswith(f"# {lesson.path.name[:2]} · ") and "never for diagnosis" in first
    assert "**You will be able to**" in first and "**Needs**" in first
    concepts = re.search(r"(?s)\*\*Concepts:\*\*(.*?)\n\n", first + "\n\n").group(1)
    assert 2 <= len(concepts.split("·")) <= 4
    assert re.search(r"\*\*Time:\*\* \d+ s on 2 CPU cores", first)


def test_the_measured_times_fit_the_class():
    seconds = [int(tool.TIME.search(read(path).cells[0].source).group().split()[0]) for path in NOTEBOOKS]
    assert min(seconds) > 0 and max(seconds) <= 90
    assert sum(seconds[:5]) <= 300  # the five of the class; 06 is an extra


def test_cells_are_marked_core_or_extra(lesson):
    headings = re.findall(r"(?m)^## .*$", prose(lesson))
    sections = [h for h in headings if re.match(r"## \d", h)]
    assert sections and all(re.search(r"\((core|extra)\)$", h) for h in sections), sections


def test_at_least_four_figures_each_followed_by_what_to_notice(lesson):
    assert sum(map(pictures, lesson.cells)) >= 4
    noticed = len(re.findall(r"\*\*What to notice\.\*\*", prose(lesson)))
    assert noticed >= 4
    assert "What we learned" in prose(lesson) and "ours" in prose(lesson).lower() and "paper" in prose(lesson).lower()


def test_a_widget_with_a_still_picture_beneath(lesson):
    code = cells(lesson, "code")
    widgets = [i for i, cell in enumerate(code) if "kc.widgets." in cell.source]
    assert widgets
    assert any(pictures(cell) for i in widgets for cell in code[i : i + 2])


def test_code_checks_itself_and_cells_are_short(lesson):
    code = cells(lesson, "code")
    assert "assert " in " ".join(cell.source for cell in code)
    assert max(len(cell.source.splitlines()) for cell in code) <= 40


def test_quiz_cells_are_committed_empty_and_stand_after_their_question(lesson):
    asked = 0
    for before, cell in zip(lesson.cells, lesson.cells[1:], strict=False):
        if cell.cell_type == "code" and "kc.quiz(" in cell.source:
            number = re.match(r'kc\.quiz\("([\d-]+)", ""\)', cell.source).group(1)
            assert f"Predict, then run ({number})" in before.source and cell.outputs == []
            for letter in QUESTIONS[number].reasons:
                assert f"({letter})" in before.source
            asked += 1
    assert 2 <= asked <= 4


def test_exercises_have_a_folded_hint_and_an_open_stub(lesson):
    number = lesson.path.name[:2]
    said = " ".join(o.get("text", "") for cell in cells(lesson, "code") for o in cell.outputs)
    for name in (number, f"{number}-extra"):
        assert f"Exercise {name} is still open." in said
    assert prose(lesson).count("<details>") >= 2 and prose(lesson).count("</details>") == prose(lesson).count(
        "<details>"
    )


def test_solutions_answer_every_question_and_exercise():
    for path in SOLUTIONS:
        book, number = read(path), path.name[:2]
        code = "\n".join(cell.source for cell in cells(book, "code"))
        assert "never for diagnosis" in book.cells[0].source
        answered = dict(re.findall(r'kc\.quiz\("([\d-]+)", "([a-z])"\)', code))
        assert answered == {q: asked.right for q, asked in QUESTIONS.items() if q.startswith(number)}
        for name in EXERCISES:
            if name.startswith(number):
                assert re.search(rf'assert kc\.check\("{name}"', code), name


def test_links_between_pages_exist(page):
    for target in re.findall(r"\]\(([^)#\s]+)\)", prose(page)):
        if not target.startswith("http"):
            assert (page.path.parent / target).exists(), target


def test_equations_have_a_symbol_table():
    for path in NOTEBOOKS:
        text = prose(read(path))
        if "$$" in text:
            assert re.search(r"(?m)^\| symbol \|", text), path.stem


def test_the_arms_leave_their_table_for_the_tutorial():
    book = read(NOTEBOOKS[3])
    rows = [row for c in cells(book, "code") for o in c.outputs for row in o.get("data", {}).get(ARMS_MIME, [])]
    assert {"clip", "clip_koa"} <= {row["arm"] for row in rows}
    assert all({"accuracy", "qwk", "flip_agreement", "seconds"} <= set(row) for row in rows)


def pixels(png):
    picture = Image.open(io.BytesIO(png))
    return picture.size, picture.convert("RGB").tobytes()


def test_the_readme_shows_a_figure_of_each_notebook_as_it_stands_there():
    figures = tool.figures()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path, png in figures.items():
        # a part of a figure is packed anew, and another Pillow may pack the same pixels into other bytes
        assert path.read_bytes() == png or pixels(path.read_bytes()) == pixels(png), "run: tools/notebooks.py figures"
        assert f"](docs/figures/{path.name})" in text
    shown = re.findall(r"docs/figures/(0\d)\.png", text)
    assert shown[0] == "04" and len(figures) == 6  # trained on right knees only: the README opens with it
