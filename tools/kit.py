"""The class kit: what thirty laptops with a bad network need, in one folder (and a zip) for a USB stick.

python tools/kit.py [--out build/kit] [--platform win_amd64 macos_arm64 linux_x86_64] [--python 3.11 3.12]
                    [--no-wheels] [--no-zip]

It holds wheels of the package and of all that it needs for the platforms and Python versions named (this machine's if
none is), the sources, a page of every notebook and document that loads nothing from a network, INSTALL.txt, checksums,
and apart from these the solutions and the teaching guide, in teacher/.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import nbformat
from wheels import PATCHED, PLATFORMS, collect_wheels, this_platform  # beside this file

ROOT = Path(__file__).parents[1]
TEACHER = ("docs/teaching.md", "notebooks/solutions")  # kept apart, in teacher/
GIGABYTES = 1.0  # for one platform and one Python, zip included, with room to spare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "kit")
    parser.add_argument("--platform", nargs="+", metavar="NAME", help=", ".join(PLATFORMS))
    parser.add_argument("--python", nargs="+", metavar="3.N", default=[f"3.{sys.version_info.minor}"])
    parser.add_argument("--no-wheels", action="store_true", help="pages and sources only; needs no network")
    parser.add_argument("--no-zip", action="store_true")
    given = parser.parse_args()
    targets = [] if given.no_wheels else [(p, v) for p in given.platform or [this_platform()] for v in given.python]
    try:
        build(given.out.resolve(), targets, zipped=not given.no_zip)
    except OSError as error:
        sys.exit(f"the kit can't be written ({error.strerror or error}: {error.filename or given.out})")


def build(out: Path, targets: list[tuple[str, str]], *, zipped: bool = True) -> Path:
    """Make the kit in the folder `out` (an older kit there is replaced); returns `out`."""
    start = time.perf_counter()
    for name, version in targets:
        if name not in PLATFORMS:
            intel = (
                " PyTorch has made no wheels for Intel Macs since 2.2: they read the pages." if "x86" in name else ""
            )
            sys.exit(f"there is no platform {name}: choose among {', '.join(PLATFORMS)}.{intel}")
        if version not in PATCHED:
            sys.exit(f"the kit knows no Python {version}: choose among {', '.join(PATCHED)}")
    if out.exists() and any(out.iterdir()) and not (out / "INSTALL.txt").exists():
        sys.exit(f"{out} holds something that is no kit: name another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(out.parent).free / 1e9, 0.2 + GIGABYTES * len(targets)
    if free < needed:
        sys.exit(f"{out.parent} has {free:.1f} GB free and the kit may need {needed:.1f}: make room, or --no-wheels")
    if out.exists():
        shutil.rmtree(out)
    out.mkdir()
    # first of all, so that a kit that broke off is known as one; with Windows' line ends, which all editors read
    (out / "INSTALL.txt").write_text(install_text(targets), encoding="utf-8", newline="\r\n")
    files = repository_files()
    copy_sources(files, out)
    print(f"sources: {len(files)} files", flush=True)
    places = make_pages(files, out)
    print(f"pages: {len(places)}", flush=True)
    for name, version in targets:
        wheels = collect_wheels(name, version, out)
        print(f"wheels for {name}, Python {version}: {len(wheels)}", flush=True)
    write_checksums(out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"kit: {out} ({size / 1e6:.0f} MB, {(time.perf_counter() - start) / 60:.1f} min)", flush=True)
    if zipped:
        archive = zip_folder(out)
        print(f"zip: {archive} ({archive.stat().st_size / 1e6:.0f} MB)", flush=True)
    return out


def repository_files() -> list[str]:
    """What git holds or would hold, as posix paths; in a folder without git, all but what looks built.

    The single runs of studies stay at home: a class reads their reports.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        files = [name for name in done.stdout.split("\0") if "/runs/" not in name and (ROOT / name).is_file()]
    except (OSError, subprocess.CalledProcessError):
        built = {"build", "dist", "runs", "__pycache__"}
        found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
        files = [p.as_posix() for p in found if not built & set(p.parts) and not any("egg-info" in s for s in p.parts)]
        files = [name for name in files if not name.startswith(".") or name.startswith((".ci/", ".github/"))]
    return sorted(set(files))


def copy_sources(files: list[str], out: Path) -> None:
    """The repository into course/, but for what is the teacher's, which goes to teacher/.

    The class's notebooks go without their outputs: they would answer every question before it is asked.
    """
    for name in files:
        target = out / "course" / name
        if name.startswith(TEACHER):
            target = out / "teacher" / name.split("/", 1)[1]
        target.parent.mkdir(parents=True, exist_ok=True)
        if name.startswith("notebooks/0"):
            target.write_text(without_outputs(ROOT / name), encoding="utf-8")
        else:
            shutil.copyfile(ROOT / name, target)


def without_outputs(path: Path) -> str:
    page = nbformat.read(path, as_version=4)
    for cell in page.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return nbformat.writes(page) + "\n"


def make_pages(files: list[str], out: Path) -> dict[str, str]:
    """Pages of all notebooks and documents, and the two indexes; source -> page, both as posix paths."""
    from pages import title_of, write_page  # beside this file

    places = {}
    for name in files:
        if name.endswith(".ipynb") or (name.endswith(".md") and (name.startswith("docs/") or "/" not in name)):
            short = Path(name).stem + ".html"
            if name.startswith(TEACHER):
                places[name] = f"teacher/{'solutions/' if 'solutions/' in name else ''}{short}"
            else:
                places[name] = f"pages/{short}"
    followed = {**places, "notebooks/solutions": "teacher/index.html"}
    for name, place in places.items():
        write_page(ROOT / name, out / place, root=ROOT, kit=out, places=followed)
    titles = {place: title_of(ROOT / name) for name, place in places.items()}
    notebooks = {places[n]: titles[places[n]] for n in places if n.endswith(".ipynb") and not n.startswith(TEACHER)}
    papers = {p: t for p, t in titles.items() if p.startswith("pages/") and p not in notebooks}
    apart = {p.removeprefix("teacher/"): t for p, t in titles.items() if p.startswith("teacher/")}
    note = "Read here; to run them, see <a href='INSTALL.txt'>INSTALL.txt</a>."
    page = index_page("kneeclip: CLIP-KOA, step by step", note, {"Notebooks": notebooks, "Documents": papers})
    (out / "index.html").write_text(page, encoding="utf-8")
    note = "Take this folder off the stick before you hand it out, if the students are to find the answers themselves."
    (out / "teacher").mkdir(exist_ok=True)
    (out / "teacher" / "index.html").write_text(index_page("For the teacher", note, {"": apart}), encoding="utf-8")
    return places


def index_page(title: str, note: str, parts: dict[str, dict[str, str]]) -> str:
    lists = "".join(
        f"<h2>{html.escape(name)}</h2><ul>"
        + "".join(f'<li><a href="{html.escape(url)}">{html.escape(text)}</a></li>' for url, text in links.items())
        + "</ul>"
        for name, links in parts.items()
        if links
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title><style>'
        "body{font:17px/1.6 system-ui,sans-serif;max-width:42rem;margin:3rem auto;padding:0 1rem;color:#222}"
        f"</style></head><body><h1>{html.escape(title)}</h1><p>{note}</p>{lists}"
        "<p>For teaching and research, never for diagnosis.</p></body></html>\n"
    )


def install_text(targets: list[tuple[str, str]]) -> str:
    versions = sorted({version for _, version in targets})
    one = versions[0] if versions else "3.11"
    names = "; ".join(LAPTOPS[name] for name in LAPTOPS if name in {name for name, _ in targets})
    text = INSTALL if targets else INSTALL_ONLINE
    patched = " or ".join(PATCHED[version] for version in versions)
    return text.format(python=one, patched=patched, versions=" or ".join(versions) or "3.11 or newer", names=names)


LAPTOPS = {  # the oldest systems that the wheels allow
    "win_amd64": "Windows, 64 bit (Intel or AMD)",
    "macos_arm64": "a Mac with Apple's processor and macOS 14 or later",
    "linux_x86_64": "Linux, 64 bit (Intel or AMD), glibc 2.28 or later",
}
INSTALL = """\
kneeclip: installing without a network
======================================

For teaching and research, never for diagnosis.

To read only, open index.html in a browser: nothing needs to be installed.

To run the notebooks you need Python {patched} (or a later patch of it), 64 bit, from python.org: it is not in this
kit. And a laptop of this kind:
{names}.

1. Copy this folder from the stick to the disk, to a place with a short path (on Windows C:\\kneeclip-kit, say:
   some files have long names).
2. Open a terminal in the copy (Windows: type cmd into the address bar of the folder's window) and type two lines:

Windows
    py -{python} -m venv env
    env\\Scripts\\python -m pip install --no-index --find-links wheels "kneeclip[notebooks]"

macOS and Linux
    python{python} -m venv env
    env/bin/python -m pip install --no-index --find-links wheels "kneeclip[notebooks]"

3. Start:

Windows             env\\Scripts\\python -m jupyterlab course\\notebooks
macOS and Linux     env/bin/python -m jupyterlab course/notebooks

4. Open 01_explore_knees.ipynb and run the first two cells. Ready.

If it fails
    "No matching distribution found"    another Python than {versions}, or another kind of laptop: read the pages.
    Intel Macs                          PyTorch makes no wheels for them any more: read the pages.
    "py" or "python" is not found       Python {python} is not installed.
    a broken copy                       compare with SHA256SUMS (macOS, Linux: shasum -a 256 -c SHA256SUMS).
"""
INSTALL_ONLINE = """\
kneeclip: this kit holds pages and sources, and no wheels
=========================================================

For teaching and research, never for diagnosis.

To read, open index.html in a browser: nothing needs to be installed.

To run the notebooks you need Python {versions} and a network, once:

Windows
    py -m venv env
    env\\Scripts\\python -m pip install -c course\\constraints.txt "./course[notebooks]"
    env\\Scripts\\python -m jupyterlab course\\notebooks

macOS and Linux
    python3 -m venv env
    env/bin/python -m pip install -c course/constraints.txt "./course[notebooks]"
    env/bin/python -m jupyterlab course/notebooks
"""


def write_checksums(out: Path) -> None:
    lines = []
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        with path.open("rb") as stream:
            lines.append(f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {path.relative_to(out).as_posix()}\n")
    (out / "SHA256SUMS").write_text("".join(lines), encoding="utf-8", newline="\n")


def zip_folder(out: Path) -> Path:
    """`out`.zip beside `out`; wheels are stored as they are, since they are zips already."""
    archive = out.with_name(out.name + ".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as bundle:
        for path in sorted(p for p in out.rglob("*") if p.is_file()):
            how = zipfile.ZIP_STORED if path.suffix == ".whl" else zipfile.ZIP_DEFLATED
            bundle.write(path, Path(out.name) / path.relative_to(out), compress_type=how)
    return archive


if __name__ == "__main__":
    main()
