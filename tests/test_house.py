"""The house: arrows run one way, no room is too long to read, nothing is done on import, no machine's path leaks."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def tracked(*patterns):
    out = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True)
    if out.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in out.stdout.splitlines() if (ROOT / line).exists()]


def test_the_arrows_run_one_way():
    done = subprocess.run([Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


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
        "import sys, kneeclip; heavy = {'torch', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy; assert kneeclip.get_preset and not heavy"
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
