"""Several processes, one run: who speaks, who goes first, who grades which image.

``accelerate launch``, ``torchrun`` and `launch` start the same program N times and tell each copy its number in the
environment. Heavy imports stand inside the functions: the shell asks here before anything is loaded.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np

from kneeclip.errors import KneeError, KneeWarning


def world() -> int:
    """How many processes the launch started; 1 without a launch."""
    return _number("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", otherwise=1)


def rank() -> int:
    """This process's number among them; 0 is the main process."""
    if world() == 1:
        return 0  # a number that an earlier launch left in the shell would silence us
    return _number("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", otherwise=0)


def wants_cpu() -> bool:
    """Whether the processes have to be told that they work on the CPU (by gloo).

    Accelerate puts processes together by their accelerators. Without one (or on Apple's, which knows no
    communication) N launched processes would each train alone, N times the same run in one folder.
    """
    if world() == 1:
        return False
    import torch

    device = torch.accelerator.current_accelerator(check_available=True)
    return device is None or device.type == "mps"


def make_accelerator(precision: str):
    """Accelerate's `Accelerator` for a recipe's precision, over all processes of the launch.

    Raises
    ------
    KneeError
        For fp16 without a GPU, a launch that would cut the model up, and processes that don't find each other.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if precision == "fp16" and not torch.cuda.is_available():
        raise KneeError("fp16 needs a GPU: without one Accelerate would train in float32", precision, "use bf16 or no")
    # Accelerate keeps one state a process and refuses another precision; in a notebook one wants to compare them
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state(reset_partial_state=False)
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked not in ("no", precision):
        warnings.warn(f"the launch asks for {asked}; the recipe's precision counts: {precision}", KneeWarning, 2)
    accelerator = Accelerator(mixed_precision=precision, cpu=wants_cpu())
    kind = accelerator.distributed_type.value
    if kind != "NO" and not kind.startswith("MULTI_"):
        what = "each process trains a whole copy of the model, and the launch asks to cut it up"
        raise KneeError(what, kind, "launch with --multi_gpu, or choose multi-GPU in accelerate config")
    if accelerator.num_processes != world():
        found = f"{world()} launched, {accelerator.num_processes} together"
        raise KneeError("the processes of the launch don't know of each other", found, "use accelerate launch")
    return accelerator


@contextmanager
def main_first() -> Iterator[None]:
    """The first process of each machine does what stands inside alone; the others do it after, and find it done."""
    if world() == 1:
        yield
    else:
        from accelerate import PartialState

        with PartialState(cpu=wants_cpu()).local_main_process_first():
            yield


def predict_shared(model, processor, images, prompts, *, mirror=None) -> tuple[np.ndarray, np.ndarray]:
    """`kneeclip.predict`, the images dealt out among the processes; each is graded once, and all get all answers.

    Parameters
    ----------
    model : CLIPModel
        The same weights in every process. It is moved to the process's device: a GPU, where there is one.
    images, prompts, mirror
        As in `kneeclip.predict`, and the same in every process.

    Returns
    -------
    p, p_flip : (N, K) float64 arrays in the order of `images`, the same in every process

    Notes
    -----
    Unlike a sampler that pads the last batch, it repeats no image, so there is nothing to cut off afterwards.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import reduce

    from kneeclip.model import predict

    state = PartialState(cpu=wants_cpu())
    if world() == 1:
        return predict(model.to(state.device), processor, images, prompts, mirror=mirror)
    mine = range(state.process_index, len(images), state.num_processes)
    # a column of a Dataset decodes what it is asked for: each process only its own images
    own = images[mine.start :: mine.step] if isinstance(images, np.ndarray) else [images[i] for i in mine]
    turned = None if mirror is None else np.asarray(mirror)[list(mine)]
    views = torch.tensor(np.stack(predict(model.to(state.device), processor, own, prompts, mirror=turned)))
    both = torch.zeros(2, len(images), views.shape[-1], dtype=torch.float64)
    both[:, list(mine)] = views  # all other rows stay 0, so the sum over the processes holds each image once
    return tuple(reduce(both.to(state.device), "sum").cpu().numpy())


@contextmanager
def one_voice() -> Iterator[None]:
    """Only the main process prints; the bars, tables and warnings of the others go nowhere."""
    if rank() == 0:
        yield
    else:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield


def complain(text: str) -> None:
    """`text` on the error stream, once in a launch: by the process that fails first, whichever that is."""
    if _first_to_fail():
        print(text, file=sys.stderr if rank() == 0 else sys.__stderr__, flush=True)


def _first_to_fail() -> bool:
    """Whether no other process of this launch has failed before, as far as this machine can tell.

    The launcher gives its processes of one machine a folder in common, new for each attempt: who makes the mark in it
    is the first.
    """
    shared = os.environ.get("TORCHELASTIC_ERROR_FILE")  # <folder of the attempt>/<rank>/error.json
    if world() > 1 and shared:
        try:
            (Path(shared).parents[1] / "kneeclip-spoke").touch(exist_ok=False)
        except FileExistsError:
            return False
        except OSError:
            pass  # twice is better than never
    return True


def part() -> None:
    """Close the connections, last of all: a process that ends with gloo's threads running is aborted now and then.

    After an error only when it is said: the others stumble over the closed connection, and would speak first.
    """
    distributed = sys.modules.get("torch.distributed") if world() > 1 else None
    if distributed is not None and distributed.is_initialized():
        distributed.destroy_process_group()


def launch(function: Callable, *args, processes: int = 2) -> None:
    """Run ``function(*args)`` in N processes from a notebook; Accelerate's `notebook_launcher`, with its traps defused.

    Parameters
    ----------
    function : callable
        What each process does: load model and data, and `kneeclip.train` with a folder to write to. What it
        returns is lost, so read the folder afterwards.
    processes : int
        With GPUs at most as many as there are, and nothing in the notebook may have touched one before.

    Raises
    ------
    KneeError
        If a process fails, with that process's own sentence; on anything but Linux (Windows can't fork, and a Mac's
        frameworks don't survive it); and in Colab with fewer than two GPUs, where the launcher starts no process.

    Notes
    -----
    `notebook_launcher` refuses to start when the notebook has trained before, although nothing but Accelerate's
    memory of it is in the way: that is cleared. A forked process hangs if it uses the threads of its parent's
    OpenMP: each gets one thread. The precision is the recipe's, not the launcher's. docs/scaling.md shows it in use.
    """
    if processes < 2:
        raise KneeError("a launch takes several processes", f"processes={processes}", "give 2 or more, or just call it")
    remedy = "use accelerate launch -m kneeclip train in a shell"
    if sys.platform != "linux":  # the only system that the suite forks on
        raise KneeError("this system can't fork a notebook into processes", sys.platform, remedy)
    from accelerate import notebook_launcher
    from accelerate.state import AcceleratorState
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    def forked() -> None:
        if world() != processes:  # Colab with fewer than two GPUs: this is the notebook's own process
            raise KneeError("the notebook's launcher starts no processes here", f"processes={processes}", remedy)
        import torch

        torch.set_num_threads(1)
        try:
            with redirect_stdout(shown), one_voice():
                function(*args)
            part()
        except Exception as error:
            # stopped by the launcher while it words its error, a process would print a traceback: let it die unheard
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if not isinstance(error, SignalException) and not _first_to_fail():
                time.sleep(60)  # it stumbled over another's end, whose error is the one to tell: wait to be stopped
            raise

    AcceleratorState._reset_state(reset_partial_state=True)
    shown, loud = sys.stdout, logging.root.manager.disable
    logging.disable(logging.ERROR)  # a failure is said once, below, and not in the launcher's forty lines
    try:
        with redirect_stdout(io.StringIO()):  # it announces "2 CUDAs" where there is none
            notebook_launcher(forked, num_processes=processes, use_port=str(_free_port()))
    except ChildFailedError as error:
        told = error.get_first_failure()[1].message
        told = told.get("message", "") if isinstance(told, dict) else str(told)
        raise KneeError(told.removeprefix("KneeError: ").strip() or "a process of the launch died") from None
    finally:
        logging.disable(loud)
        AcceleratorState._reset_state(reset_partial_state=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _number(*names: str, otherwise: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), otherwise)
