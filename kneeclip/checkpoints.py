"""Checkpoints that a kill can't hurt: one safetensors file, written aside and moved into place.

A checkpoint holds the weights that learn, AdamW's moments and, as JSON in the file's header, everything else (step,
history, best epoch, loss scale). One file means one atomic move: a reader finds the old state or the new one, never
half of each. Nothing is pickled, so nothing can run when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from kneeclip.errors import KneeError

DAMAGED = "delete the run's folder and train again"


def write_atomically(path: Path, write: Callable[[Path], None], *, resumes: bool = False) -> None:
    """Let `write` make a file beside `path`, flush it to the disk, then move it into place.

    `resumes`: whether what it belongs to goes on from where it was, when it is started again; an error says so.

    Raises
    ------
    KneeError
        If the disk is full or the folder can't be written; what stood at `path` is untouched.
    """
    aside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # a folder, not a file: safetensors writes through a temporary file of its own, of any name, beside its target
        aside = tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-")
        tmp = Path(aside, path.name)
        write(tmp)
        with open(tmp, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(tmp, 0o644)  # safetensors writes for the owner alone
        os.replace(tmp, path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise KneeError(
            f"the file can't be written ({reason}); what was there before is intact",
            path,
            "free some space or choose another folder, then start again" + (": the run resumes" if resumes else ""),
        ) from error
    finally:
        if aside:
            shutil.rmtree(aside, ignore_errors=True)


def require_folder(path: Path) -> None:
    """Refuse a file where a training is to leave its folder, before it has trained for an hour."""
    if path.exists() and not path.is_dir():
        remedy = "choose another folder with --out (out=)"
        raise KneeError("a file stands where the folder of the result should go", path, remedy)


def require_writable(folder: Path) -> None:
    """Make the folder of a result, or refuse it before anything is worked out."""
    require_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(dir=folder, prefix=".trying-").cleanup()
    except OSError as error:
        what = f"the folder can't be written ({error.strerror or error})"
        raise KneeError(what, folder, "choose another folder with --out (out=)") from error


def write_json(path: Path, value: object, *, resumes: bool = False) -> None:
    """`value` as indented JSON, atomically; `resumes` as in `write_atomically`."""
    text = json.dumps(value, indent=1) + "\n"
    write_atomically(path, lambda tmp: tmp.write_text(text, encoding="utf-8"), resumes=resumes)


def read_json(path: Path, remedy: str) -> dict:
    """The JSON object in a file; KneeError with the remedy if it is missing, damaged or no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise TypeError(type(value).__name__)
        return value
    except OSError as error:
        raise _unread(error, path, remedy) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise KneeError("the file is missing or damaged", path, remedy) from error


def _unread(error: OSError, path: Path, remedy: str) -> KneeError:
    """Nobody should delete a run that is whole, and merely may not be read."""
    if isinstance(error, FileNotFoundError) or error.errno is None:
        return KneeError("the file is missing or damaged", path, remedy)
    return KneeError(f"the file can't be read ({error.strerror or error})", path, "check who may read it")


def sweep(folder: Path) -> None:
    """Remove what writes that were killed left in a run folder: with a large model each is gigabytes."""
    for pattern in (".*.safetensors-*", ".*.json-*", ".README.md-*", ".saving-*"):
        for left in folder.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)


def save_state(path: Path, tensors: dict[str, torch.Tensor], meta: dict) -> None:
    """Tensors and a JSON-able dict in one file, atomically."""
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda tmp: save_file(flat, tmp, metadata={"meta": json.dumps(meta)}), resumes=True)


def load_state(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """What `save_state` wrote.

    Raises
    ------
    KneeError
        If the file can't be read, is damaged or something else.
    """
    with _opened(path) as file:
        meta = json.loads(file.metadata()["meta"])
        if not isinstance(meta, dict):
            raise TypeError(type(meta).__name__)
        # clones: the tensors would keep the file mapped, and Windows replaces no mapped file
        return {name: file.get_tensor(name).clone() for name in file.keys()}, meta


def require_state(path: Path) -> dict:
    """As `load_state`, of the header alone, which says how long the file has to be: the dict."""
    with _opened(path) as file:
        return json.loads(file.metadata()["meta"])


@contextmanager
def _opened(path: Path):
    try:
        with open(path, "rb"), safe_open(path, "pt") as file:  # Python's open says why a file can't be read
            yield file
    except OSError as error:
        raise _unread(error, path, DAMAGED) from error
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise KneeError("the checkpoint is missing or damaged", path, DAMAGED) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """AdamW's state as flat names: ``"optimizer/<parameter>/<moment>"``."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer/{i}/{name}": value for i, entry in state.items() for name, value in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            _, i, key = name.split("/")
            state.setdefault(int(i), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def learnt(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The model's state without what is frozen: that is in the weights that the run started from."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def load_learnt(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what `learnt` gave; the model has the same parts frozen."""
    expected = learnt(model).keys()
    if tensors.keys() != expected:
        odd = sorted(tensors.keys() ^ expected)
        raise KneeError("the checkpoint does not hold what this run learns", odd, "delete it and start again")
    model.load_state_dict(tensors, strict=False)


def fingerprint(settings: object, tensors: dict[str, torch.Tensor]) -> str:
    """What must be the same for two runs to be one: settings as JSON; data and starting weights as tensors."""
    digest = hashlib.sha256(json.dumps(settings).encode())
    for name, value in sorted(tensors.items()):
        digest.update(name.encode())
        # as bytes: NumPy has no bfloat16
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
