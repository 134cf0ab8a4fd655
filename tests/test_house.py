"""The house: arrows run one way, no room is too long to read, nothing is done on import, no machine's path leaks."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def tracked(*patterns):
    out = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True)
    if out.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in out.stdout.splitlines() if (ROOT / line).exists()]


def text_of(path):
    return path.read_text(encoding="utf-8")


def test_the_arrows_run_one_way():
    done = subprocess.run([Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_what_is_imported_is_declared():
    """What comes by another package's courtesy goes when that package no longer asks for it."""
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    asked = project["dependencies"] + project["optional-dependencies"]["notebooks"] + ["kagglehub"]
    declared = {re.match(r"[\w-]+", line).group().lower() for line in asked}
    called = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn"}
    with_jupyter = {"IPython", "nbformat", "zmq"}  # an own bound on these would replace Colab's
    # by lines: the benches' children import in a text of their own
    line, seen = re.compile(r"^ *(?:import|from) (\w+)[.\w]*(?: import .*| as \w+)?$", re.M), set()
    for path in (ROOT / "kneeclip").rglob("*.py"):
        seen |= set(line.findall(text_of(path)))
    foreign = seen - set(sys.stdlib_module_names) - {"kneeclip"} - with_jupyter
    assert {"torch", "huggingface_hub", "psutil", "peft"} <= foreign
    assert {called.get(name, name) for name in foreign} <= declared


def test_the_floor_is_the_declared_lower_bounds():
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    lowest = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", line).groups() for line in project["dependencies"])
    floor = dict(line.split("==") for line in text_of(ROOT / "tests/floor.txt").splitlines() if line[0] != "#")
    own = lowest.keys() & floor.keys()
    assert own == {"transformers", "huggingface_hub", "peft", "datasets", "typer", "psutil"}
    for name in own:  # 5.17.0 is 5.17, and 0.15.4 the last of 0.15
        assert f"{floor[name]}.".startswith(f"{lowest[name]}."), name
    pinned = [line.split("==")[0].lower() for line in text_of(ROOT / "constraints.txt").splitlines()]
    assert {name.lower() for name in lowest} <= set(pinned)


def test_no_path_of_a_machine_is_in_the_repository():
    found = []
    for path in tracked("*.py", "*.md", "*.ipynb", "*.toml", "*.yml", "*.json", "Makefile", ".ci/*"):
        text = path.read_text(encoding="utf-8")
        if path != Path(__file__):
            found += [
                f"{path.name}: {hit}" for hit in re.findall(r"(?<![\w.])/(?:home|root|tmp|work|Users)/\S{0,40}", text)
            ]
    assert not found


def test_importing_the_package_is_light_and_writes_nothing(tmp_path):
    code = (
        "import sys, kneeclip\n"
        "heavy = {'torch', 'transformers', 'datasets', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), 'on import'\n"
        "assert kneeclip.get_preset().is_phantom and kneeclip.agreement and not heavy & set(sys.modules), 'on use'\n"
        "assert kneeclip.symmetry_loss and 'torch' in sys.modules  # or this test looks for the wrong names\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
    assert not list(tmp_path.iterdir())


def test_every_public_name_exists():
    import kneeclip as kc

    assert {
        "get_preset", "load_knees", "load_clip", "encode_texts", "encode_images", "similarity", "clip_koa_loss",
        "train", "predict", "evaluate", "symmetry_loss", "consistency_loss", "audit", "PromptSet", "Recipe",
        "KneeError",
    } <= set(kc.__all__)  # fmt: skip
    for name in kc.__all__:
        assert getattr(kc, name) is not None
    with pytest.raises(AttributeError, match="nonsuch"):
        kc.nonsuch  # noqa: B018


def test_every_public_function_is_documented():
    import inspect

    import kneeclip as kc

    for name in kc.__all__:
        thing = getattr(kc, name)
        if inspect.isfunction(thing) or inspect.isclass(thing) or inspect.ismodule(thing):
            assert (inspect.getdoc(thing) or "").strip(), name


def test_presets_come_from_name_and_environment(monkeypatch):
    from kneeclip import KneeError, get_preset, load_knees

    monkeypatch.delenv("KNEECLIP_PRESET", raising=False)
    monkeypatch.delenv("KNEECLIP_DATA", raising=False)
    assert get_preset().name == "phantom" and get_preset().is_phantom
    assert (get_preset("paper").data, get_preset("paper").prompts) == ("", "paper")
    with pytest.raises(KneeError, match="KNEECLIP_DATA"):
        load_knees(get_preset("paper").data)
    with pytest.raises(KneeError, match="phantom, knees, paper"):
        get_preset("papr")
    monkeypatch.setenv("KNEECLIP_PRESET", "knees")
    monkeypatch.setenv("KNEECLIP_DATA", "there")
    assert (get_preset().name, get_preset().data) == ("knees", "there")
    assert get_preset("paper", data="here").model == "openai/clip-vit-base-patch16"
    with pytest.raises(KneeError, match="don't go together"):
        get_preset(data="phantom")
    monkeypatch.setenv("KNEECLIP_DATA", "phantom")  # or phantoms would be reported as real knees
    with pytest.raises(KneeError, match="KNEECLIP_DATA=phantom"):
        get_preset()
    assert get_preset("phantom").is_phantom


def test_an_error_is_one_sentence_with_culprit_and_remedy():
    from kneeclip import KneeError

    assert str(KneeError("it broke", "a.png", "mend it")) == "it broke (a.png): mend it."
    assert (
        str(KneeError("they broke", [f"{i}.png" for i in range(5)])) == "they broke (0.png, 1.png, 2.png and 2 more)."
    )
