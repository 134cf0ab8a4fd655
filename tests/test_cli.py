"""The shell: what it prints, what it writes, and how it fails."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from kneeclip import cli
from kneeclip.presets import get_preset


def run(monkeypatch, capsys, *words):
    """(exit code, stdout, stderr) of ``kneeclip words``, in this process."""
    monkeypatch.setattr(sys, "argv", ["kneeclip", *map(str, words)])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    out = capsys.readouterr()
    return exit.value.code or 0, out.out, out.err


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    monkeypatch.delenv("KNEECLIP_PRESET", raising=False)
    monkeypatch.delenv("KNEECLIP_DATA", raising=False)
    monkeypatch.setenv("KNEECLIP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """A small data set in the public layout: 24 train patients, 6 validation patients."""
    rng = np.random.default_rng(0)
    for split, patients, first in (("train", 24, 9000000), ("val", 6, 9500000)):
        for i in range(patients):
            for side in "LR":
                grade = int(rng.integers(0, 5))
                place = tmp_path / "knees" / split / str(grade)
                place.mkdir(parents=True, exist_ok=True)
                pixels = np.clip(rng.normal(40 + 40 * grade, 20, (224, 224)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{first + i}{side}.png")
    return tmp_path / "knees"


def test_train_evaluate_predict_from_a_folder(monkeypatch, capsys, folder, tiny_folder, tmp_path):
    common = ("--data", folder, "--model", tiny_folder, "--epochs", 2, "--batch-size", 8, "--out", tmp_path / "run")
    code, out, _ = run(monkeypatch, capsys, "train", *common, "--arm", "symmetry", "--seed", 3)
    assert code == 0 and f"kneeclip evaluate {tmp_path / 'run'}" in out
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["recipe"]["arm"] == "symmetry" and record["recipe"]["seed"] == 3 and record["preset"] == "knees"

    code, out, _ = run(
        monkeypatch, capsys, "evaluate", tmp_path / "run", "--data", folder, "--json", tmp_path / "m.json"
    )
    assert code == 0 and "never for diagnosis" in out
    metrics = json.loads((tmp_path / "m.json").read_text())
    names = "n accuracy balanced_accuracy macro_f1 qwk mae auc_kl2 ece flip_agreement confusion per_grade averaged ci"
    assert set(names.split()) <= set(metrics)
    assert metrics["n"] == 12 and metrics["split"] == "validation" and np.sum(metrics["confusion"]) == 12
    assert all(len(pair) == 2 for pair in metrics["ci"].values() if pair)

    films = sorted((folder / "val").rglob("*.png"))[:2]
    code, out, _ = run(
        monkeypatch, capsys, "predict", *films, "--model", tmp_path / "run", "--json", tmp_path / "p.json"
    )
    assert code == 0 and "never for diagnosis" in out and films[0].name in out
    rows = json.loads((tmp_path / "p.json").read_text())
    assert all(sum(row[f"KL{k}"] for k in range(5)) == pytest.approx(1) for row in rows)

    again, out, _ = run(monkeypatch, capsys, "train", *common, "--arm", "symmetry", "--seed", 3)
    assert again == 0 and "nothing was trained" in out


def test_the_next_command_can_be_typed_in_this_systems_shell(monkeypatch):
    words = ["kneeclip", "evaluate", "my runs/a"]
    monkeypatch.setattr(os, "name", "posix")
    assert cli._typed(words) == "kneeclip evaluate 'my runs/a'"
    monkeypatch.setattr(os, "name", "nt")
    assert cli._typed(words) == 'kneeclip evaluate "my runs/a"'  # cmd.exe takes single quotes for letters


def test_notebooks_are_told_of_the_home_folder_by_its_name(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    cli._environment(get_preset("knees", data="~/knees"))
    assert os.environ["KNEECLIP_DATA"] == str((tmp_path / "knees").resolve())
    cli._environment(get_preset("knees", data="kaggle"))
    assert os.environ["KNEECLIP_DATA"] == "kaggle"


def test_the_home_folder_is_found_by_its_name_everywhere(monkeypatch, capsys, folder, tiny_folder, tmp_path):
    """A shell leaves the ~ of --out=~/run as it is, and Python code has no shell."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    (tmp_path / "mine.json").write_text(json.dumps(["normal", "doubtful", "mild", "moderate", "severe"]))
    words = ("--data", "~/knees", "--prompts", "~/mine.json", "--epochs", 1, "--json=~/n.json", "--out=~/run")
    assert run(monkeypatch, capsys, "train", "--model", tiny_folder, *words)[0] == 0
    assert (tmp_path / "run" / "run.json").exists() and (tmp_path / "n.json").exists()
    film = next((folder / "val").rglob("*.png")).relative_to(tmp_path)
    assert run(monkeypatch, capsys, "predict", f"~/{film}", "--model", "~/run")[0] == 0
    assert run(monkeypatch, capsys, "phantom", "--patients", 3, "--out=~/f.png")[0] == 0
    (tmp_path / "config.yaml").write_text("nonsense: 1", encoding="utf-8")
    for command in (("study", "~/config.yaml"), ("report", "~/run"), ("tutorial", "--notebooks", "~/run")):
        code, _, err = run(monkeypatch, capsys, *command)
        assert code == 1 and ("no such setting" in err or "no study" in err or f"{tmp_path}" in err), err
    assert not list((tmp_path / "cwd").iterdir())


def test_a_canonical_run_mirrors_left_knees_when_it_is_judged(monkeypatch, capsys, folder, tiny_folder, tmp_path):
    words = ("--data", folder, "--model", tiny_folder, "--epochs", 1, "--arm", "canonical", "--out", tmp_path / "run")
    assert run(monkeypatch, capsys, "train", *words)[0] == 0
    seen = {}
    from kneeclip import model

    real = model.predict
    monkeypatch.setattr(model, "predict", lambda *a, **k: seen.update(k) or real(*a, **k))
    assert run(monkeypatch, capsys, "evaluate", tmp_path / "run", "--data", folder)[0] == 0
    assert sum(seen["mirror"]) == 6


def test_a_canonical_run_asks_for_the_side_of_a_single_film(monkeypatch, capsys, folder, tiny_folder, tmp_path):
    words = ("--data", folder, "--model", tiny_folder, "--epochs", 1, "--arm", "canonical", "--out", tmp_path / "run")
    assert run(monkeypatch, capsys, "train", *words)[0] == 0
    film = next((folder / "val").rglob("*L.png"))
    (tmp_path / "nameless.png").write_bytes(film.read_bytes())
    Image.open(film).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirrored_R.png")
    both = (film, tmp_path / "mirrored_R.png")
    code, _, _ = run(monkeypatch, capsys, "predict", *both, "--model", tmp_path / "run", "--json", tmp_path / "p.json")
    left, right = json.loads((tmp_path / "p.json").read_text())
    assert code == 0 and left["KL0"] == pytest.approx(right["KL0"])
    code, _, err = run(monkeypatch, capsys, "predict", tmp_path / "nameless.png", "--model", tmp_path / "run")
    assert code == 1 and "end the names in L or R" in err


def test_a_run_is_judged_in_its_own_world(monkeypatch, capsys, folder, tiny_folder, tmp_path):
    words = ("--preset", "knees", "--model", tiny_folder, "--epochs", 1, "--out", tmp_path / "run")
    monkeypatch.setenv("KNEECLIP_DATA", str(folder))
    assert run(monkeypatch, capsys, "train", *words)[0] == 0
    code, out, _ = run(monkeypatch, capsys, "evaluate", tmp_path / "run")
    assert code == 0 and "real knees" in out and "12 images" in out


def test_audit_tells_by_its_exit_code(monkeypatch, capsys, folder, tmp_path):
    code, out, _ = run(monkeypatch, capsys, "audit", folder, "--json", tmp_path / "audit.json")
    assert code == 0 and "train" in out and json.loads((tmp_path / "audit.json").read_text())
    leaked = next((folder / "train").rglob("*.png"))
    (folder / "val" / "0").mkdir(exist_ok=True)
    (folder / "val" / "0" / leaked.name).write_bytes(leaked.read_bytes())
    code, out, _ = run(monkeypatch, capsys, "audit", folder)
    assert code == 1 and leaked.name in out


def test_phantom_draws_a_figure(monkeypatch, capsys, tmp_path):
    code, out, _ = run(monkeypatch, capsys, "phantom", "--patients", 10, "--out", tmp_path / "f.png")
    assert code == 0 and Image.open(tmp_path / "f.png").width > 300


def test_phantom_compare_prints_distances(monkeypatch, capsys, real_data, tmp_path):
    words = ("--compare", real_data, "--patients", 100, "--out", tmp_path / "f.png", "--json", tmp_path / "d.json")
    code, out, _ = run(monkeypatch, capsys, "phantom", *words)
    distances = json.loads((tmp_path / "d.json").read_text())
    assert code == 0 and all(name in out for name in distances)
    assert distances["mean_image_r"] > 0.9  # a noise image has about 0
    assert abs(distances["joint_line_mean"]) < 0.03


def test_an_unreadable_image_is_named_and_the_json_not_written(monkeypatch, capsys, tiny_folder, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    words = ("predict", tmp_path / "broken.png", "--model", tiny_folder, "--json", tmp_path / "p.json")
    code, _, err = run(monkeypatch, capsys, *words)
    assert code == 1 and "broken.png" in err and not (tmp_path / "p.json").exists()


def test_an_image_that_is_no_knee_crop_is_graded_with_a_warning(monkeypatch, capsys, tiny_folder, tmp_path):
    Image.fromarray(np.full((300, 200), 90, np.uint8)).save(tmp_path / "flat.png")
    code, _, err = run(monkeypatch, capsys, "predict", tmp_path / "flat.png", "--model", tiny_folder)
    assert code == 0 and "flat.png" in err and "not square" in err and "blank" in err


def test_debug_shows_the_traceback(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kneeclip", "evaluate", "nosuchmodel", "--debug"])
    with pytest.raises(Exception, match="no model of that name"):
        cli.main()


def test_a_mistyped_run_is_no_name_on_the_hub(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: pytest.fail("it asked the network"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for name in ("runs/nope", "models/nope"):
        code, _, err = run(monkeypatch, capsys, "evaluate", name)
        assert code == 1 and f"there is no model of that name ({name})" in err and err.count("\n") == 1


def test_numbers_can_not_go_into_a_folder(monkeypatch, capsys, tiny_folder, tmp_path):
    code, _, err = run(monkeypatch, capsys, "evaluate", tiny_folder, "--json", tmp_path)
    assert code == 1 and "--json is a folder" in err


def test_numbers_replace_nothing_that_a_user_wants_to_keep(monkeypatch, capsys, tiny_folder, tmp_path):
    film = tmp_path / "9000001L.png"
    Image.fromarray(np.full((112, 112), 90, np.uint8)).save(film)
    run_file = tiny_folder / "processor_config.json"
    for target, words in (
        (film, ["predict", film]),
        (run_file, ["predict", film]),
        (tmp_path / "a.txt", ["audit", "."]),
    ):
        target.touch()
        before = target.read_bytes()
        code, _, err = run(monkeypatch, capsys, *words, "--json", target)
        assert code == 1 and "--json names a file" in err and target.read_bytes() == before


def test_numbers_may_lie_in_the_run_and_be_written_again(monkeypatch, capsys, folder, tiny_folder, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_folder, model)
    for _ in range(2):
        words = ("evaluate", model, "--data", folder, "--json", model / "metrics.json")
        assert run(monkeypatch, capsys, *words)[0] == 0
    assert json.loads((model / "metrics.json").read_text())["n"] == 12
    monkeypatch.chdir(model)
    assert run(monkeypatch, capsys, "evaluate", ".", "--data", folder, "--json", "here.json")[0] == 0
    assert json.loads((model / "here.json").read_text())["model"] == "model"


def test_the_help_lists_every_command():
    out = subprocess.run(
        [sys.executable, "-m", "kneeclip", "--help"], capture_output=True, text=True, timeout=60
    ).stdout
    commands = "tutorial audit phantom pretrain train evaluate predict bench study report"
    for command in commands.split():
        assert re.search(rf"^\W*{command}\s", out, re.M), command
