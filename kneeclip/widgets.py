"""A slider around a plot, a game, a box of prompts: plain ipywidgets, redrawn when the mouse is let go.

A page without a kernel shows no slider, so notebooks put a still picture beneath each board.
"""

from __future__ import annotations

import io
import operator
import time
from collections.abc import Callable, Mapping, Sequence

import ipywidgets
import numpy as np
from IPython.display import DisplayHandle, Markdown, display
from matplotlib.figure import Figure
from PIL import Image

from kneeclip import plots
from kneeclip.errors import KneeError
from kneeclip.phantom import make_phantoms
from kneeclip.reading import agreement_table


def board(draw: Callable[..., Figure], **ranges: tuple[float, float, float, float] | list) -> ipywidgets.VBox:
    """Sliders above a figure.

    Parameters
    ----------
    draw : callable
        Takes one keyword for each slider and returns a Figure.
    **ranges : (start, lowest, highest, step), or a list of values
        One slider for each, called by its keyword; a list gives a slider that stops at its values and nowhere else.

    Returns
    -------
    ipywidgets.VBox
        Show it as the last line of a cell.

    Notes
    -----
    Notebooks: 01, 04.
    """
    sliders = {}
    for name, given in ranges.items():
        looks = {
            "description": name.replace("_", " "),
            "continuous_update": False,
            "style": {"description_width": "14em"},
            "layout": {"width": "32em"},
        }
        if isinstance(given, list):
            sliders[name] = ipywidgets.SelectionSlider(options=given, **looks)
        else:
            start, low, high, step = given
            sliders[name] = ipywidgets.FloatSlider(
                value=start, min=low, max=high, step=step, readout_format=".3f" if step < 0.01 else ".2f", **looks
            )
    picture = ipywidgets.interactive_output(lambda **values: display(draw(**values)), sliders)
    return ipywidgets.VBox([*sliders.values(), picture])


def grading_game(images: Sequence, readers: Mapping[str, Sequence[int]], mine: list) -> ipywidgets.VBox:
    """Numbered knees with five buttons each; when the last one is graded, how far you agree with each reader.

    Parameters
    ----------
    images : sequence of N uint8 arrays (H, W)
    readers : mapping of str to N grades
        Whom you are compared with.
    mine : list of N
        Your grades, None where there is none yet. A click writes into this list, so later cells can use it.

    Returns
    -------
    ipywidgets.VBox
        Show it as the last line of a cell. Nothing is said before all are graded: a score after each click would tell
        the grades.

    Raises
    ------
    KneeError
        If the images and the lists of grades differ in length.

    Notes
    -----
    Notebook: 01; where a page has no widgets, fill the list by hand and print `kneeclip.agreement_table`.
    """
    lengths = {"images": len(images), "mine": len(mine)} | {name: len(grades) for name, grades in readers.items()}
    if len(set(lengths.values())) > 1:
        raise KneeError("every knee needs one grade of each reader", [f"{k}: {n}" for k, n in lengths.items()])
    said = ipywidgets.HTML()

    def score() -> None:
        done = sum(grade is not None for grade in mine)
        text = f"{done} of {len(mine)} graded"
        if done == len(mine):
            text = agreement_table({"you": mine} | dict(readers))
        said.value = f"<pre style='line-height: 1.3'>{text}</pre>"

    return _cards(images, {f"{k}": k for k in range(5)}, mine, score, said)


def real_or_phantom(knees, *, world: str, n: int = 8, seed: int = 0) -> ipywidgets.VBox | Markdown:
    """Numbered knees, half of them real and half of them phantoms, two buttons each; the key when all are told.

    Parameters
    ----------
    knees : Dataset
        A split of `load_knees`.
    world : str
        The preset's. If its knees are phantoms themselves, a sentence says what the game needs.
    n : int
        Knees; each phantom has the grade of one of the real ones, so that the grade gives nothing away.
    seed : int
        Another one deals other knees.

    Returns
    -------
    ipywidgets.VBox or Markdown
        Show it as the last line of a cell.

    Notes
    -----
    Notebook: 01.
    """
    if "phantom" in world:
        return Markdown(
            "*No real knees here: this game needs the preset `knees` (`KNEECLIP_PRESET=knees`, and `KNEECLIP_DATA` "
            "where the images are).*"
        )
    rng = np.random.default_rng(seed)
    real = [knees[int(i)] for i in rng.choice(len(knees), n // 2, replace=False)]
    size = real[0]["image"].width
    drawn = make_phantoms(100, 10_000 + seed, size=size)
    images, truth = [np.asarray(row["image"]) for row in real], ["real"] * len(real)
    for row in real:
        apart = np.abs(drawn.grades - row["grade"])  # 0 but for a rare grade that nobody of these drew
        images.append(drawn.images[rng.choice(np.flatnonzero(apart == apart.min()))])
        truth.append("phantom")
    order = rng.permutation(len(images))
    images, truth = [images[i] for i in order], [truth[i] for i in order]
    mine, said = [None] * len(images), ipywidgets.HTML()

    def score() -> None:
        told = sum(guess is not None for guess in mine)
        text = f"{told} of {len(mine)} told"
        if told == len(mine):
            right = sum(map(operator.eq, mine, truth))
            text = f"{right} of {len(mine)} right (a coin: {len(mine) // 2} on average). Real are "
            text += ", ".join(str(i + 1) for i, kind in enumerate(truth) if kind == "real") + "."
        said.value = f"<p>{text}</p>"

    return _cards(images, {"real": "real", "phantom": "phantom"}, mine, score, said)


def _cards(images, options: dict, mine: list, score: Callable[[], None], said) -> ipywidgets.VBox:
    """Numbered pictures with the same buttons under each; a click writes into `mine` and scores."""

    def card(i: int) -> ipywidgets.VBox:
        file = io.BytesIO()
        Image.fromarray(np.asarray(images[i], np.uint8)).save(file, "png")
        title = ipywidgets.HTML(f"<b>{i + 1}</b>")
        picture = ipywidgets.Image(value=file.getvalue(), layout={"width": "190px"})
        width = f"{160 // len(options)}px"
        choice = ipywidgets.ToggleButtons(options=list(options.items()), value=mine[i], style={"button_width": width})

        def chosen(change) -> None:
            mine[i] = change.new
            score()

        choice.observe(chosen, "value")
        return ipywidgets.VBox([title, picture, choice], layout={"margin": "0 10px 8px 0", "width": "200px"})

    score()
    rows = ipywidgets.Layout(display="flex", flex_flow="row wrap")  # as many beside each other as the page holds
    return ipywidgets.VBox([ipywidgets.Box([card(i) for i in range(len(mine))], layout=rows), said])


def prompt_box(score: Callable[[list[str]], object]) -> ipywidgets.VBox:
    """Five fields for five prompts, a button, and what `score` makes of them.

    Parameters
    ----------
    score : callable
        Takes the five texts, KL0 first, and returns what to show: a figure, a table or a string. A KneeError is
        shown as its sentence.

    Returns
    -------
    ipywidgets.VBox
        Show it as the last line of a cell.

    Notes
    -----
    Notebook: 02.
    """
    fields = [
        ipywidgets.Text(description=f"KL{k}", continuous_update=False, layout={"width": "48em"}) for k in range(5)
    ]
    button, said = ipywidgets.Button(description="Grade the knees"), ipywidgets.Output()

    def grade(_) -> None:
        said.clear_output()
        with said:
            try:
                shown = score([field.value for field in fields])
            except KneeError as error:
                shown = str(error)
            print(shown) if isinstance(shown, str) else display(shown)

    button.on_click(grade)
    return ipywidgets.VBox([*fields, button, said])


def live_curve(
    *, world: str = "", every: float = 1.0, rates: Sequence[float] = ()
) -> Callable[[list[dict], list[dict]], None]:
    """The learning curves of a training while it runs: one picture, redrawn in place, left as it ends.

    Parameters
    ----------
    world : str
        What the figure's corner calls this world.
    rates : sequence of float, optional
        The learning rate of every step, drawn whole instead of at the end of each epoch.
    every : float
        Seconds between two drawings, at least; a judged epoch is always drawn. Drawing takes the training's time, so
        on a slow machine the pauses grow until it takes no more than about a tenth.

    Returns
    -------
    callable
        For `train`'s ``watch``. The picture appears in the cell that trains; take a new one for every training.

    Notes
    -----
    Notebook: 03.
    """
    handle, shown, judged, due = DisplayHandle(), False, 0, 0.0

    def watch(history: list[dict], steps: list[dict]) -> None:
        nonlocal shown, judged, due
        start = time.monotonic()
        if shown and len(history) == judged and start < due:
            return
        figure = plots.history(history, steps=steps, rates=rates, world=world)
        (handle.update if shown else handle.display)(figure)
        end = time.monotonic()
        shown, judged, due = True, len(history), end + max(every, 9 * (end - start))

    return watch


def own_xray(model, processor, prompts) -> ipywidgets.VBox:
    """A button that takes an image file, and the grade that the model gives it, under its warnings.

    Parameters
    ----------
    model, processor, prompts
        As `kneeclip.predict` takes them.

    Returns
    -------
    ipywidgets.VBox
        Show it as the last line of a cell. The file goes to the kernel and nowhere else.

    Notes
    -----
    Notebook: 05; where a page has no widgets, `kneeclip.xray.grade_own` takes a path.
    """
    from kneeclip.xray import grade_own  # here, as it loads transformers, and a board of sliders needs none

    upload = ipywidgets.FileUpload(accept="image/*", multiple=False, description="An X-ray")
    said = ipywidgets.Output()

    def look(change) -> None:
        if not change.new:
            return
        said.clear_output()
        with said:
            try:
                display(
                    grade_own(model, processor, prompts, bytes(change.new[0]["content"]), world=change.new[0]["name"])
                )
            except KneeError as error:
                print(error)

    upload.observe(look, "value")
    return ipywidgets.VBox([upload, said])
