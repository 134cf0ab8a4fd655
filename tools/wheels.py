"""Every wheel that the package needs, for a platform and a Python that may not be this machine's; for the class kit."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from email.parser import Parser
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
WHOLE = "kneeclip[notebooks]"
MANY = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 16, -1)] + ["manylinux2014_x86_64", "linux_x86_64"]
# name -> what pip calls it, and what a requirement's marker asks about it
PLATFORMS = {
    "win_amd64": (["win_amd64"], "win32", "Windows", "nt", "AMD64"),
    "macos_arm64": (["macosx_14_0_arm64"], "darwin", "Darwin", "posix", "arm64"),
    "linux_x86_64": (MANY, "linux", "Linux", "posix", "x86_64"),
}
TORCH_FOR_LINUX = "https://download.pytorch.org/whl/cpu"  # PyPI's own torch for Linux brings gigabytes of CUDA
# A late patch of each Python, one with an installer at python.org: to pip a bare 3.11 means 3.11.0, which some of the
# wheels refuse.
PATCHED = {"3.11": "3.11.9", "3.12": "3.12.10", "3.13": "3.13.5"}


def this_platform() -> str:
    for name, (_, _, system, _, machine) in PLATFORMS.items():
        if (system, machine.lower()) == (platform.system(), platform.machine().lower()):
            return name
    sys.exit(f"no kit is known for {platform.system()} {platform.machine()}: name --platform, or give --no-wheels")


def collect_wheels(name: str, version: str, out: Path) -> list[str]:
    """Every wheel that `WHOLE` needs on a platform, into wheels/.

    pip resolves another platform's requirements by this machine's markers: on Linux it would ask for CUDA on Windows
    and forget pywinpty. So the markers are read here, level by level, and pip fetches what they name; when nothing is
    missing any more, the kit is known to be whole.
    """
    tags, *_ = PLATFORMS[name]
    target = [f"--platform={tag}" for tag in tags] + [f"--python-version={PATCHED[version]}", "--implementation=cp"]
    with tempfile.TemporaryDirectory(dir=out, prefix=".wheels-") as folder:
        stage = Path(folder) / "here"
        shutil.copytree(out / "course", Path(folder) / "sources")  # setuptools litters the folder that it builds
        pip("wheel", "--no-deps", f"--wheel-dir={stage}", str(Path(folder) / "sources"))
        while wanted := missing(stage, name, version):
            index = []
            if name.startswith("linux") and any(Requirement(w).name == "torch" for w in wanted):
                index = ["--extra-index-url", os.environ.get("TORCH_INDEX") or TORCH_FOR_LINUX]
            pins = ["-c", str(ROOT / "constraints.txt")]
            pip("download", "--no-deps", "--only-binary=:all:", *target, *pins, *index, f"--dest={stage}", *wanted)
        (out / "wheels").mkdir(exist_ok=True)
        names = sorted(path.name for path in stage.glob("*.whl"))
        for wheel in names:
            os.replace(stage / wheel, out / "wheels" / wheel)
    return names


def missing(folder: Path, name: str, version: str) -> list[str]:
    """What `WHOLE` needs on a platform, directly or not, and `folder` has no wheel of."""
    have = {canonicalize_name(path.name.split("-")[0]): path for path in folder.glob("*.whl")}
    _, sys_platform, system, os_name, machine = PLATFORMS[name]
    there = default_environment() | {"python_version": version, "python_full_version": PATCHED[version]}
    there |= {"sys_platform": sys_platform, "platform_system": system, "os_name": os_name, "platform_machine": machine}
    seen, lacking, todo = set(), {}, [Requirement(WHOLE)]
    while todo:
        asked = todo.pop()
        key = (canonicalize_name(asked.name), frozenset(asked.extras))
        if key in seen:
            continue
        seen.add(key)
        if key[0] not in have:
            lacking[key[0]] = f"{asked.name}{asked.specifier}"
            continue
        for extra in ("", *asked.extras):
            for needed in map(Requirement, requirements(have[key[0]])):
                if needed.marker is None or needed.marker.evaluate(there | {"extra": extra}):
                    todo.append(needed)
    return sorted(lacking.values())


def requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        record = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA") and n.count("/") == 1)
        return Parser().parsestr(archive.read(record).decode("utf-8")).get_all("Requires-Dist") or []


def pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-3:]
        sys.exit("\n".join(said) + "\nthe wheels could not be had: check the network and the disk, or give --no-wheels")
