"""Every loader fed with nonsense: it gives a valid value or a KneeError, and nothing else ever.

Seconds in the suite; ``make fuzz`` takes longer.
"""

import base64
import contextlib
import io
import json
import os
import struct
import warnings
import zipfile
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from kneeclip.cards import read_run
from kneeclip.checkpoints import load_state, save_state
from kneeclip.classroom import TAG, from_code, to_code
from kneeclip.errors import KneeError
from kneeclip.films import list_films, read_film, read_grey
from kneeclip.presets import Recipe
from kneeclip.prompts import BUILT_IN, PromptSet, read_prompts
from kneeclip.runstate import RunState

EXAMPLES = int(os.environ.get("KNEECLIP_FUZZ", 100))
# in the suite always the same ones, so that it passes or fails everywhere; a busy machine is no fault: no deadline
fuzz = settings(
    max_examples=EXAMPLES, derandomize=EXAMPLES <= 100, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@contextlib.contextmanager
def sentence_or_value():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except KneeError as error:
            assert str(error).isprintable() and len(str(error)) < 2000


@st.composite
def damaged(draw, seeds: list[bytes]) -> bytes:
    """One of the sound files with bytes changed, a piece repeated, and an end cut off; or no such file at all."""
    raw = bytearray(draw(st.sampled_from(seeds) | st.binary(max_size=200)))
    for _ in range(draw(st.integers(0, 6)) if raw else 0):
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    if raw and draw(st.booleans()):
        at, n = draw(st.integers(0, len(raw) - 1)), draw(st.integers(1, 64))
        raw[at:at] = raw[at : at + n]
    return bytes(raw[: draw(st.integers(0, len(raw)))] if draw(st.booleans()) else raw)


def picture(form="PNG", size=(24, 24)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)).save(file, form)
    return file.getvalue()


def archive(*members) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in members or [("a/train/0/9000000L.png", picture()), ("a/val/4/9000001R.png", b"x")]:
            target.writestr(name, content)
    return file.getvalue()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=12,
)
PICTURES = [picture(form) for form in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "WEBP")]


@fuzz
@given(damaged(PICTURES))
def test_images(raw):
    with sentence_or_value():
        image = read_grey(io.BytesIO(raw))
        assert image.mode == "L" and min(image.size) >= 16


@fuzz
@example(raw=archive(("QQ", b"x")).replace(b"QQ", b"\0Q"))  # names end at a NUL: this file has none
@given(damaged([archive(), archive(("train/0/9000000L.png", b"")), archive(("../../x", b"x"))]))
def test_zips(place, raw):
    path = place / "some.zip"
    path.write_bytes(raw)
    with sentence_or_value():
        listing = list_films(path)
        assert listing.films or listing.misplaced
        for film in listing.films:
            with sentence_or_value():
                assert read_film(listing, film).dtype == np.uint8


part = st.sampled_from(
    ["train", "VAL", "..", ".", "", "0", "5", "a", "9000000L.png", "C:", "\\..", "x\n.png", "\u202e"]
)


@fuzz
@given(st.lists(st.lists(part, min_size=1, max_size=5).map("/".join).filter(bool), max_size=5, unique=True))
def test_names_inside_zips_never_point_outside(place, names):
    path = place / "names.zip"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path.write_bytes(archive(*[(name, picture()) for name in ("other", *names)]))
    with sentence_or_value():
        films = list_films(path).films
        assert all(".." not in film.name.split("/") and not film.name.startswith("/") for film in films)
    assert {p.name for p in place.iterdir()} <= {"some.zip", "names.zip", "state", "a.json", "run", "sound"}


def sound_state(place) -> bytes:
    save_state(place / "sound", {"model/a": torch.ones(2), "optimizer/0/step": torch.ones(())}, {"step": 1})
    return (place / "sound").read_bytes()


@fuzz
@given(st.data())
def test_checkpoints(place, data):
    (place / "state").write_bytes(data.draw(damaged([sound_state(place)])))
    with sentence_or_value():
        tensors, meta = load_state(place / "state")
        assert isinstance(meta, dict) and all(torch.is_tensor(value) for value in tensors.values())


@fuzz
@given(
    st.dictionaries(
        st.sampled_from(["step", "history", "steps", "best", "best_epoch", "fingerprint", "scaler"]), anything
    ),
    st.lists(st.sampled_from(["model/weight", "model/x", "optimizer/0/exp_avg", "optimizer/z/q", "optimizer/9"])),
)
def test_checkpoints_that_are_whole_and_mean_something_else(place, meta, names):
    state = RunState(place / "run", "none", SimpleNamespace(is_main_process=True, scaler=None))
    model = torch.nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    state.open("mine")
    save_state(state.checkpoint, {name: torch.ones(1, 2) for name in names}, {**meta, "fingerprint": "mine"})
    with sentence_or_value():
        state.resume(model, optimizer)
        assert isinstance(state.step, int) and isinstance(state.history, list) and isinstance(state.steps, list)


json_files = damaged([json.dumps(BUILT_IN["ensemble"].texts).encode(), b'{"name": "a", "texts": []}']) | anything.map(
    lambda value: json.dumps(value).encode()
)


@fuzz
@given(json_files)
@example(b"[" * 100_000)
@example(b"1" * 5000)
def test_prompt_files(place, raw):
    (place / "a.json").write_bytes(raw)
    with sentence_or_value():
        prompts = read_prompts(place / "a.json")
        assert isinstance(prompts, PromptSet) and len(prompts.counts) == 5


@fuzz
@given(json_files, json_files | st.just(json.dumps({"recipe": {"arm": "clip"}, "preset": "knees"}).encode()))
def test_run_records(place, prompts, record):
    (place / "run").mkdir(exist_ok=True)
    (place / "run" / "prompts.json").write_bytes(prompts)
    (place / "run" / "run.json").write_bytes(record)
    with sentence_or_value():
        record, prompts = read_run(place / "run")
        assert isinstance(record["recipe"], dict) and isinstance(prompts, PromptSet)
    os.unlink(place / "run" / "run.json")


def packed(content: bytes) -> str:
    return TAG + base64.urlsafe_b64encode(zlib.compress(content)).decode().rstrip("=")


@fuzz
@given(
    damaged([to_code("Ada", "criteria").encode()]).map(lambda raw: raw.decode("latin-1"))
    | st.text(max_size=60).map(lambda text: TAG + text)
    | st.tuples(st.text(max_size=50), anything | st.lists(st.lists(st.text(min_size=1), max_size=3), max_size=5)).map(
        lambda pair: packed(json.dumps(pair).encode())
    )
)
@example(packed(bytes(2**22)))
@example(packed(b"[" * 30_000))
def test_codes_of_the_class(code):
    with sentence_or_value():
        name, prompts = from_code(code)
        assert name and isinstance(prompts, PromptSet)


@fuzz
@given(st.dictionaries(st.sampled_from([*Recipe.__dataclass_fields__]), anything, max_size=3))
def test_recipes(fields):
    with sentence_or_value():
        recipe = Recipe(**fields)
        assert recipe.views in (1, 2) and recipe.lr > 0 and struct.pack("d", recipe.weight)
