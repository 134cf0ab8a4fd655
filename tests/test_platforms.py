"""Other machines, other people's files: what the code must not take for granted, and must not run.

A Mac's GPU (MPS) knows no float64, Windows no fork and no shell, and writes text in another encoding unless told; a
checkpoint from the internet can hold a pickle or a program. None of these machines runs this suite, so the code itself
is looked at, and real training steps are watched.
"""

import ast
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import kneeclip
from kneeclip.errors import KneeError
from kneeclip.losses import FORMS
from kneeclip.model import load_clip
from kneeclip.presets import ARMS, Recipe
from kneeclip.training import train

PACKAGE = Path(kneeclip.__file__).parent
FILES = sorted([*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "tools").glob("*.py")])
#: float64 that never meets a device without it: phantoms are drawn on the CPU, and the processes of a launch are on
#: CUDA or the CPU (`processes.wants_cpu`).
DOUBLE_ON_CPU = {"grading.py", "processes.py"}


def calls(path: Path):
    """(name, node) of every call: ``open``, ``os.fork``, ``….read_text``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keywords(node: ast.Call) -> dict[str, str]:
    return {word.arg: ast.unparse(word.value) for word in node.keywords if word.arg}


def opens_text_in_any_encoding(name: str, node: ast.Call) -> bool:
    """Of ``open(path, …)`` and ``path.open(…)``; the `open` of a zip or of an image is another one."""
    *owner, method = name.split(".")
    if method != "open" or (owner and owner[-1].split("(")[0] not in ("path", "file", "tmp", "Path")):
        return False
    at = 1 if not owner else 0  # where the mode stands
    mode = keywords(node).get("mode") or (ast.unparse(node.args[at]) if len(node.args) > at else "'r'")
    return "b" not in mode and "encoding" not in keywords(node)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("open(path)", True), ("open(path, 'w')", True), ("open(path, mode='w')", True), ("path.open()", True),
        ("path.open('a')", True), ("Path(x).open()", True), ("open(path, 'rb')", False), ("path.open('wb')", False),
        ("open(path, encoding='utf-8')", False), ("path.open(encoding='utf-8')", False), ("Image.open(path)", False),
    ],
)  # fmt: skip
def test_the_search_for_an_encoding_finds_what_it_should(text, found):
    node = ast.parse(text, mode="eval").body
    assert opens_text_in_any_encoding(ast.unparse(node.func), node) == found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_fork_no_shell_no_pickle_and_text_has_its_encoding(path):
    banned = {
        *("os.fork", "os.system", "os.popen", "os.getuid", "os.mkfifo", "os.symlink", "exec", "eval", "compile"),
        *("torch.load", "torch.save", "pickle.load", "pickle.loads", "joblib.load", "torch.hub.load"),
        *("multiprocessing.Process", "multiprocessing.Pool", "signal.alarm"),
    }
    for name, node in calls(path):
        words, where = keywords(node), f"{path.name}:{node.lineno}: {name}"
        assert name not in banned and not name.endswith((".extractall", ".extract")), where
        assert words.get("shell") != "True" and words.get("trust_remote_code") is None, where
        assert words.get("allow_pickle") != "True" and words.get("weights_only") is None, where
        method = name.rsplit(".", 1)[-1]
        if method in ("read_text", "write_text"):
            assert "encoding" in words or len(node.args) > (method == "write_text"), where
        assert not opens_text_in_any_encoding(name, node), where
    text = path.read_text(encoding="utf-8")
    for word in ("/dev/null", "import fcntl", "import resource", "import pickle"):
        assert word not in text, f"{path.name}: {word}"


def test_double_precision_is_asked_for_on_the_cpu_only():
    for path in PACKAGE.rglob("*.py"):
        for name, node in calls(path):
            if name.endswith(".double") and path.name not in DOUBLE_ON_CPU:
                assert name.endswith(".cpu().double"), f"{path.name}:{node.lineno}: {name}"
            makes = name.endswith((".to", ".zeros", ".ones", "tensor")) and "torch.float64" in ast.unparse(node)
            assert not makes or path.name in DOUBLE_ON_CPU, f"{path.name}:{node.lineno}: {name}"


class NoDouble(TorchDispatchMode):
    """Fails where a float64 tensor is made, as a Mac's GPU does."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if torch.is_tensor(value) and value.dtype == torch.float64:
                raise TypeError(f"{func} makes float64")
        return result


@pytest.mark.parametrize("arm, form", [*((arm, "js") for arm in ARMS), *(("clip_koa", form) for form in FORMS[1:])])
def test_a_training_step_makes_no_float64(arm, form, tiny_folder, arrays):
    recipe = Recipe(arm=arm, consistency=form, epochs=1, batch_size=8, balance=0.5)
    model, processor = load_clip(tiny_folder)
    with NoDouble():
        run = train(model, processor, {"train": arrays["train"]}, "criteria", recipe, progress=False)
    assert len(run.steps) == 3
    with NoDouble(), pytest.raises(TypeError, match="float64"):
        torch.zeros(2).double()


class Harm:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (Path(self.mark),)


def test_a_checkpoint_from_a_stranger_runs_nothing(tiny_folder, tmp_path):
    mark = tmp_path / "harm"
    pickle.loads(pickle.dumps(Harm(mark)))
    assert mark.exists()  # the harm is real …
    mark.unlink()
    stranger = shutil.copytree(tiny_folder, tmp_path / "stranger")
    (stranger / "modeling_harm.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    config = json.loads((stranger / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoModel": "modeling_harm.CLIPModel", "AutoConfig": "modeling_harm.CLIPConfig"}
    (stranger / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (stranger / "pytorch_model.bin").write_bytes(pickle.dumps(Harm(mark)))
    load_clip(stranger)  # safetensors lie there too, and only they are read
    (stranger / "model.safetensors").unlink()
    with pytest.raises(KneeError, match="pickle, which can run code"):
        load_clip(stranger)
    (stranger / "other.safetensors").write_bytes(b"")  # so that there is one, and not the right one
    with pytest.raises(KneeError):
        load_clip(stranger)
    assert not mark.exists()  # … and never happened


def test_a_console_of_another_alphabet_still_gets_its_sentence(tmp_path):
    words = [sys.executable, "-m", "kneeclip", "膝"]
    env = {**os.environ, "PYTHONIOENCODING": "cp437", "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(words, capture_output=True, env=env, timeout=120)
    said = done.stderr.decode("cp437")
    assert done.returncode == 1 and said.startswith("kneeclip: ") and len(said.splitlines()) == 1, said
