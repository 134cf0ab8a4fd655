"""From a source to rows: layouts, zips, the cache, tune, and every file that is no knee."""

import ast
import io
import os
import shutil
import stat
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import DatasetDict
from PIL import Image

import kneeclip.data as data
import kneeclip.films as films
import kneeclip.store as store
from kneeclip import auditing
from kneeclip.cards import facts_of
from kneeclip.errors import KneeError, KneeWarning
from kneeclip.presets import get_preset

pytestmark = pytest.mark.filterwarnings("ignore:the data lack grades")  # these few images do
NAMES = {  # patient 9000006 is of tune by its hash
    "train/0": ["9000099L", "9000099R", "9000006L"],
    "train/4": ["9000006R", "9000296L", "9000296R"],
    "val/2": ["9100000L", "9100000R"],
    "test/1": ["9200000L", "9200000R"],
}


@pytest.fixture
def one_thread():
    """Drawing a handful of phantoms on busy cores, torch's threads mostly wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KNEECLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def knee(name: str, size=(24, 24)) -> Image.Image:
    """A tiny picture, another one for each name."""
    rng = np.random.default_rng(list(name.encode()))
    return Image.fromarray(rng.integers(0, 256, size[::-1], dtype=np.uint8))


def make_folder(root: Path, names=NAMES) -> Path:
    for folder, stems in names.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for stem in stems:
            knee(stem).save(root / folder / f"{stem}.png")
    return root


def make_zip(root: Path, path: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(p for p in root.rglob("*") if p.is_file()):
            archive.write(file, inside + file.relative_to(root).as_posix())
    return path


def names_of(knees) -> dict[str, list[str]]:
    return {
        s: [f"{g}/{p}{side}" for g, p, side in zip(k["grade"], k["patient"], k["side"], strict=True)]
        for s, k in knees.items()
    }


EXPECTED = {
    "train": ["0/9000099L", "0/9000099R", "4/9000296L", "4/9000296R"],
    "tune": ["0/9000006L", "4/9000006R"],
    "validation": ["2/9100000L", "2/9100000R"],
    "test": ["1/9200000L", "1/9200000R"],
}


def refusal(call, *words) -> str:
    with pytest.raises(KneeError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- layouts -----------------------------------------------------------------------------------------------------


def test_rows_of_the_public_layout(tmp_path):
    knees = data.load_knees(make_folder(tmp_path / "knees"))
    assert isinstance(knees, DatasetDict) and names_of(knees) == EXPECTED
    row = knees["train"][0]
    assert row["image"].mode == "L" and type(row["grade"]) is int and row["side"] == "L"
    assert np.array_equal(np.asarray(row["image"]), np.asarray(knee("9000099L")))


def test_a_folder_unpacked_in_part_is_told_of(tmp_path):
    whole = {f"{split}/{k}": [f"9{i}0000{k}L"] for i, split in enumerate(("train", "val")) for k in range(5)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.load_knees(make_folder(tmp_path / "whole", whole))  # without test: it is opened once, at the end
    part = {folder: stems for folder, stems in whole.items() if folder not in ("train/3", "train/4")}
    (tmp_path / "part" / "train" / "4").mkdir(parents=True)  # a folder without an image is as bad
    with pytest.warns(KneeWarning, match=r"lack .*\(train without KL3 KL4\)"):
        data.load_knees(make_folder(tmp_path / "part", part))
    with pytest.warns(KneeWarning, match=r"\(train without KL3 KL4, no validation\)"):
        shutil.rmtree(tmp_path / "part" / "val")
        data.load_knees(tmp_path / "part")


def test_nested_mixed_case_and_auto_test(tmp_path):
    root = make_folder(tmp_path / "download" / "kneeKL224")
    (root / "train").rename(root / "Train")
    (root / "val").rename(root / "VALIDATION")
    make_folder(root, {"auto_test/1": ["9200000L", "9300000R"], "backup/train/3": ["9400000L"]})
    (root / "Train" / "0" / "Thumbs.db").write_bytes(b"x")
    (root / "Train" / "0" / "._9000099L.png").write_bytes(b"a Mac's leftover")
    assert names_of(data.load_knees(str(tmp_path / "download"))) == EXPECTED
    assert films.list_films(tmp_path / "download").ignored == {"kneeKL224/auto_test": 2, "kneeKL224/backup": 1}


def test_any_subset_of_splits(tmp_path):
    root = make_folder(tmp_path / "knees")
    shutil.rmtree(root / "train")
    shutil.rmtree(root / "test")
    knees = data.load_knees(root)
    assert list(knees) == ["validation"]
    assert data.require_split(knees, "val") is data.require_split(knees, "validation")
    refusal(lambda: data.require_split(knees, "train"), "train", "validation")


def test_val_is_a_name_of_whatever_is_made_of_the_knees(tmp_path):
    knees = data.load_knees(make_folder(tmp_path / "knees"))
    for made in (
        knees.filter(lambda row: row["side"] == "L"),
        knees.map(lambda row: {"severe": row["grade"] > 2}),
        knees.select_columns(["grade"]).shuffle(seed=1),
        knees.remove_columns("side").rename_column("grade", "kl").with_format("numpy"),
    ):
        assert "val" in made and made["val"] is made["validation"] and set(made) == set(knees)
    with pytest.raises(KeyError, match="no split 'exam' among .*train.*validation"):
        knees["exam"]


def test_zip_gives_the_same_rows(tmp_path):
    root = make_folder(tmp_path / "knees")
    path = make_zip(root, tmp_path / "knees.zip", inside="archive/")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/archive/train/0/._9000099L.png", b"a Mac's leftover")
    from_zip, from_folder = data.load_knees(path), data.load_knees(root)
    assert names_of(from_zip) == EXPECTED
    for split in EXPECTED:
        pairs = zip(data.grey_arrays(from_zip[split]), data.grey_arrays(from_folder[split]), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "stem, expected",
    [
        ("9001695L", ("9001695", "L")),
        ("9001695r", ("9001695", "R")),
        ("case_12_R", ("case_12", "R")),
        ("case 12 l", ("case 12", "L")),
        ("normal", ("normal", "")),
        ("NORMAL", ("NORMAL", "")),
        ("POSTERIOR", ("POSTERIOR", "")),
        ("9001695L (1)", ("9001695L (1)", "")),
        ("L", ("L", "")),
    ],
)
def test_patient_and_side(stem, expected):
    assert films.patient_and_side(stem) == expected


def test_one_sided_training_only(tmp_path):
    knees = data.load_knees(make_folder(tmp_path / "knees"), sides="R")
    assert names_of(knees) == EXPECTED | {"train": ["0/9000099R", "4/9000296R"]}
    refusal(lambda: data.load_knees(tmp_path / "knees", sides="right"), "right", "both, L or R")


def test_every_film_keeps_its_size(tmp_path):
    root = make_folder(tmp_path / "knees")
    knee("9000099L", (40, 30)).save(root / "train/0/9000099L.png")
    train = data.load_knees(root)["train"]
    assert [a.shape for a in data.grey_arrays(train)] == [(30, 40)] + [(24, 24)] * 3
    assert train[0]["image"].size == (40, 30)


def test_grey_arrays_of_anything(tmp_path):
    train = data.load_knees(make_folder(tmp_path / "knees"))["train"]
    direct, through_pil = data.grey_arrays(train), data.grey_arrays(train["image"])
    assert all(np.array_equal(a, b) and a.dtype == np.uint8 for a, b in zip(direct, through_pil, strict=True))
    turned = train.map(lambda row: {"image": row["image"].rotate(90)})  # PNG bytes now
    assert np.array_equal(data.grey_arrays(turned)[0], np.rot90(direct[0]))
    assert np.array_equal(data.grey_arrays(train.select([2, 0]))[1], direct[0])
    one = train.filter(lambda patient: patient == "9000296", input_columns="patient")
    assert len(data.grey_arrays(one)) == 2


# --- tune --------------------------------------------------------------------------------------------------------


def test_tune_is_pinned():
    ids = [str(9000000 + i) for i in range(200)]
    chosen = [i for i, tunes in zip(ids, data.tune_mask(ids), strict=True) if tunes]
    assert chosen[:8] == "9000006 9000011 9000015 9000023 9000031 9000040 9000044 9000047".split()
    assert len(chosen) == 24
    many = data.tune_mask(str(i) for i in range(20_000))
    assert many.dtype == bool and many.shape == (20_000,) and abs(many.mean() - 0.1) < 0.01
    assert data.tune_mask([]).shape == (0,)


# --- the cache ---------------------------------------------------------------------------------------------------


def snapshot(folder: Path) -> dict:
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(folder.rglob("*"))}


def test_second_load_decodes_nothing(tmp_path, cache, monkeypatch, capfd):
    root = make_folder(tmp_path / "knees")
    before = snapshot(root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "the data lack grades")
        data.load_knees(root)
        built = snapshot(cache)
        monkeypatch.setattr(data, "decode", None)
        assert names_of(data.load_knees(root)) == EXPECTED
    assert snapshot(cache) == built and snapshot(root) == before
    assert len(list(cache.iterdir())) == 1
    assert capfd.readouterr() == ("", "")  # no progress bar, no warning


def test_changed_file_is_read_again(tmp_path, cache):
    root = make_folder(tmp_path / "knees")
    data.load_knees(root)
    file = root / "train/0/9000099L.png"
    knee("another").save(file)
    os.utime(file, (1, 1))
    changed = data.load_knees(root)["train"][0]["image"]
    assert np.array_equal(np.asarray(changed), np.asarray(knee("another")))
    assert len(list(cache.iterdir())) == 2


def test_a_folder_of_equal_names_sizes_and_times_is_another(tmp_path, cache):
    for name in ("first", "second"):
        root = make_folder(tmp_path / name, {"train/0": []})
        knee(name).save(root / "train/0/9000099L.bmp")
        os.utime(root / "train/0/9000099L.bmp", (1, 1))
        assert np.array_equal(np.asarray(data.load_knees(root)["train"][0]["image"]), np.asarray(knee(name)))


def test_moved_folder_keeps_its_store(tmp_path, cache):
    root = make_folder(tmp_path / "knees")
    data.load_knees(root)
    data.load_knees(root.rename(tmp_path / "elsewhere"))
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("harm", ["cut", "zeros", "missing", "no record", "bad record"])
def test_half_a_store_is_not_trusted(tmp_path, cache, harm):
    root = make_folder(tmp_path / "knees")
    data.load_knees(root)
    (folder,) = cache.iterdir()
    if harm == "cut":
        (folder / "train.arrow").write_bytes(b"x")
    elif harm == "zeros":  # as some file systems leave a file whose blocks never reached the disk
        (folder / "train.arrow").write_bytes(bytes((folder / "train.arrow").stat().st_size))
    elif harm == "missing":
        (folder / "tune.arrow").unlink()
    elif harm == "no record":
        (folder / "whole.json").unlink()
    else:
        (folder / "whole.json").write_text("{")
    (cache / "building-dead").mkdir()  # a build killed yesterday ...
    os.utime(cache / "building-dead", (1, 1))
    (cache / "building-alive").mkdir()  # ... and one at work
    assert names_of(data.load_knees(root)) == EXPECTED
    assert {p.name for p in cache.iterdir()} == {folder.name, "building-alive"}


def test_interrupted_build_leaves_nothing(tmp_path, cache, monkeypatch):
    def interrupted(listing):
        yield listing.films[0], np.zeros((24, 24), np.uint8)
        raise KeyboardInterrupt

    root = make_folder(tmp_path / "knees")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(data, "decode", interrupted)
        data.load_knees(root)
    assert list(cache.iterdir()) == []
    assert names_of(data.load_knees(root)) == EXPECTED


def test_two_processes_build_at_once(tmp_path, cache):
    whole = {f"train/{k}": [f"{9000000 + 50 * k + i}L" for i in range(50)] for k in range(5)}
    whole |= {f"val/{k}": [f"{9500000 + 10 * k + i}L" for i in range(10)] for k in range(5)}
    root = make_folder(tmp_path / "knees", whole)
    code = "import sys, kneeclip.data as d; k = d.load_knees(sys.argv[1]); print(sum(len(s) for s in k.values()))"
    both = [subprocess.Popen([sys.executable, "-c", code, root], stdout=-1, stderr=-1, text=True) for _ in "12"]
    assert [p.communicate() for p in both] == [("300\n", "")] * 2
    assert len(list(cache.iterdir())) == 1


def test_second_builder_keeps_the_first_store(tmp_path, cache, monkeypatch):
    root = make_folder(tmp_path / "knees")
    data.load_knees(root)
    (folder,) = cache.iterdir()
    kept, whole, asked = snapshot(folder), store._whole, []

    def not_yet(path):  # at the first question the other process was still at work
        asked.append(path)
        return len(asked) > 1 and whole(path)

    monkeypatch.setattr(store, "_whole", not_yet)
    assert names_of(data.load_knees(root)) == EXPECTED
    assert snapshot(folder) == kept and len(list(cache.iterdir())) == 1


def test_cache_that_can_not_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KNEECLIP_CACHE", str(tmp_path / "file" / "cache"))
    refusal(lambda: data.load_knees(make_folder(tmp_path / "knees")), "file", "KNEECLIP_CACHE")


def test_disk_full(tmp_path, cache, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_write", full)
    refusal(lambda: data.load_knees(make_folder(tmp_path / "knees")), "No space left", str(cache), "KNEECLIP_CACHE")
    assert list(cache.iterdir()) == []


# --- sources that are none ---------------------------------------------------------------------------------------


def test_bad_sources(tmp_path):
    refusal(lambda: data.load_knees(tmp_path / "nowhere"), "nowhere", "no such folder")
    refusal(lambda: data.load_knees(""), "nobody has said")
    refusal(lambda: data.load_knees(None), "names no data (NoneType)", "a folder, a zip")
    refusal(lambda: data.load_knees(get_preset("phantom")), "Preset", "preset.data")
    assert "preset.data" in auditing.audit(None).errors[0].message
    (tmp_path / "empty").mkdir()
    refusal(lambda: data.load_knees(tmp_path / "empty"), "no image", "train, val or test")
    make_folder(tmp_path / "flat", {"0": ["9000099L"], "1": ["9000099R"]})
    refusal(lambda: data.load_knees(tmp_path / "flat"), "no split", "train, val or test")
    make_folder(tmp_path / "two" / "kneeKL224")
    make_folder(tmp_path / "two" / "kneeKL299")
    refusal(lambda: data.load_knees(tmp_path / "two"), "several", "kneeKL224, kneeKL299")
    (tmp_path / "note.txt").write_text("no zip")
    refusal(lambda: data.load_knees(tmp_path / "note.txt"), "note.txt", "zip")


def test_unknown_grades(tmp_path):
    root = make_folder(tmp_path / "knees", NAMES | {"train/5": ["9000400L"], "val": ["9000401L"]})
    refusal(lambda: data.load_knees(root), "train/5/9000400L.png", "val/9000401L.png", "0 to 4")


def test_unreadable_images_are_named(tmp_path, cache):
    root = make_folder(tmp_path / "knees")
    (root / "train/0/9000099L.png").write_bytes(b"")
    refusal(lambda: data.load_knees(root), "train/0/9000099L.png", "can't be read")
    (root / "val/2/9100000L.png").write_bytes(knee_bytes()[:200])
    refusal(lambda: data.load_knees(root), "train/0/9000099L.png", "val/2/9100000L.png")
    (root / "val/2/9100000L.png").unlink()
    (root / "val/2/9100000L.png").symlink_to("nowhere.png")
    refusal(lambda: data.load_knees(root), "val/2/9100000L.png")
    assert list(cache.iterdir()) == []


def test_kaggle(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    refusal(lambda: data.load_knees("kaggle"), "kagglehub", "pip install")

    class Hub:
        answer = make_folder(tmp_path / "knees")

        def dataset_download(self, handle):
            assert handle == "shashwatwork/knee-osteoarthritis-dataset-with-severity"
            if isinstance(self.answer, Exception):
                raise self.answer
            return str(self.answer)

    monkeypatch.setitem(sys.modules, "kagglehub", Hub())
    assert names_of(data.load_knees("kaggle")) == EXPECTED
    monkeypatch.setattr(Hub, "answer", ConnectionError("no route"))
    refusal(lambda: data.load_knees("kaggle"), "shashwatwork", "network", "zip")


def test_hostile_zips(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "knees")
    whole = make_zip(root, tmp_path / "whole.zip")

    def zipped(name, content=b"x", mode=0):
        path = tmp_path / "bad.zip"
        shutil.copy(whole, path)
        info = zipfile.ZipInfo(name)
        info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(info, content)
        return path

    for name in ("../train/0/x.png", "/train/0/x.png", "C:/train/0/x.png", "train\\..\\..\\x.png"):
        refusal(lambda name=name: data.load_knees(zipped(name)), "outside")
    refusal(lambda: data.load_knees(zipped("train/0/x.png", b"/etc/passwd", stat.S_IFLNK)), "link")
    refusal(lambda: data.load_knees(zipped("train/0/x.bmp", bytes(2**23))), "100 times")
    with monkeypatch.context() as patch:
        patch.setattr(films, "MAX_FILES", 5)
        refusal(lambda: data.load_knees(whole), "more than 5 files")
        refusal(lambda: data.load_knees(root), "more than 5 files")
        patch.setattr(films, "MAX_FILES", 100)
        patch.setattr(films, "MAX_ZIP_BYTES", 100)
        refusal(lambda: data.load_knees(whole), "unpacks to more than")
    raw = whole.read_bytes()
    (tmp_path / "half.zip").write_bytes(raw[: len(raw) // 2])
    refusal(lambda: data.load_knees(tmp_path / "half.zip"), "half.zip", "in part")
    at = raw.index(b"PK\1\2")
    (tmp_path / "locked.zip").write_bytes(raw[: at + 8] + b"\1" + raw[at + 9 :])
    refusal(lambda: data.load_knees(tmp_path / "locked.zip"), "encrypted")
    at = raw.index(knee_bytes("9000099L")[60:90])
    (tmp_path / "rotten.zip").write_bytes(raw[:at] + bytes(30) + raw[at + 30 :])
    refusal(lambda: data.load_knees(tmp_path / "rotten.zip"), "train/0/9000099L.png")


# --- one image ---------------------------------------------------------------------------------------------------


def knee_bytes(name="a knee", form="PNG", image=None, **options) -> bytes:
    file = io.BytesIO()
    (image or knee(name)).save(file, form, **options)
    return file.getvalue()


def read(image: Image.Image, form="PNG", **options) -> np.ndarray:
    grey = data.read_grey(io.BytesIO(knee_bytes(image=image, form=form, **options)))
    assert grey.mode == "L"
    return np.asarray(grey)


def test_every_kind_of_image_becomes_grey():
    grey = knee("a knee")
    expected = np.asarray(grey)
    for mode in ("L", "RGB", "RGBA", "LA", "P"):
        assert np.array_equal(read(grey.convert(mode)), expected), mode
    clear = grey.convert("RGBA")
    clear.putalpha(Image.new("L", grey.size, 0))
    assert read(clear).max() == 0  # transparency is black, whatever colour lies beneath
    assert set(np.unique(read(grey.convert("1")))) == {0, 255}
    for form in ("BMP", "TIFF", "PPM", "GIF"):
        assert np.array_equal(read(grey, form), expected), form
    assert np.abs(read(grey.resize((96, 96)), "JPEG", quality=95).astype(int).mean() - expected.mean()) < 5


def test_deep_images_are_stretched():
    ramp = np.linspace(1000, 5000, 24 * 24).reshape(24, 24)
    for form, kind in (("PNG", np.uint16), ("TIFF", np.uint16), ("TIFF", np.int32), ("TIFF", np.float32)):
        pixels = read(Image.fromarray(ramp.astype(kind)), form)
        assert (pixels.min(), pixels.max()) == (0, 255) and (np.diff(pixels.ravel().astype(int)) >= 0).all()
    share = (ramp - 1000) / 4000  # floats from 0 to 1
    assert np.abs(read(Image.fromarray(share.astype(np.float32)), "TIFF").astype(float) - 255 * share).max() < 1
    shallow = np.arange(24 * 24).reshape(24, 24) % 200
    assert np.array_equal(read(Image.fromarray(shallow.astype(np.uint16))), shallow)
    assert read(Image.fromarray(np.full((24, 24), 3000, np.uint16))).max() == 0
    ramp[0, 0] = np.nan
    assert read(Image.fromarray(ramp.astype(np.float32)), "TIFF").max() == 255


def test_exif_rotation_is_applied():
    image = knee("a knee", (32, 24))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    assert np.array_equal(read(image, exif=exif), np.rot90(np.asarray(image), -1))


def test_images_that_are_none(tmp_path):
    good = knee_bytes()
    for name, content in {"empty": b"", "cut": good[:300], "text": b"hello" * 50, "header": good[:33]}.items():
        (tmp_path / f"{name}.png").write_bytes(content)
        refusal(lambda name=name: data.read_grey(tmp_path / f"{name}.png"), f"{name}.png", "can't be read")
    refusal(lambda: data.read_grey(tmp_path / "absent.png"), "absent.png", "no such image")
    refusal(lambda: data.read_grey(str(tmp_path)), "can't be read")
    for size in ((1, 1), (15, 200), (10_001, 16)):
        Image.new("L", size).save(tmp_path / "odd.png")
        refusal(lambda: data.read_grey(tmp_path / "odd.png"), "odd.png", f"{size[0]} x {size[1]}")
    before = Image.MAX_IMAGE_PIXELS
    Image.new("1", (9_400, 9_400)).save(tmp_path / "odd.png")  # each side passes, the product does not
    refusal(lambda: data.read_grey(tmp_path / "odd.png"), "9400 x 9400")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "odd.png")  # PIL itself calls it a bomb
    refusal(lambda: data.read_grey(tmp_path / "odd.png"), "odd.png")
    assert Image.MAX_IMAGE_PIXELS == before


# --- phantoms ----------------------------------------------------------------------------------------------------


def test_phantoms(cache, one_thread):
    few = {"train": 3, "tune": 2, "validation": 2, "test": 0}
    knees = data.load_knees("phantom", phantom_patients=few)
    assert {s: len(k) for s, k in knees.items()} == {"train": 6, "tune": 4, "validation": 4}
    assert not set(knees["train"]["patient"]) & set(knees["tune"]["patient"])
    row = knees["train"][0]
    assert row["image"].mode == "L" and row["image"].size == (112, 112) and set(knees["train"]["side"]) == {"L", "R"}
    assert set(data.load_knees("phantom", sides="R", phantom_patients=few)["train"]["side"]) == {"R"}
    assert len(list(cache.iterdir())) == 1
    refusal(lambda: data.load_knees("phantom", phantom_patients={"exam": 3}), "exam: 3", "validation")
    assert knees["val"].num_rows == knees["validation"].num_rows == 4
    assert "val" in knees and knees.get("val").num_rows == 4 and list(knees).count("val") == 0
    assert "exam" not in knees and knees.get("exam", 7) == 7
    refusal(lambda: data.load_knees("phantom", phantom_patients=dict.fromkeys(data.PHANTOM_SPLITS, 0)), "no phantom")


def test_seeds_of_tutorial_and_pretraining_differ():
    seeds = [seed for _, seed in data.PHANTOM_SPLITS.values()]
    assert len(set(seeds)) == len(seeds) and max(seeds) < data.PRETRAIN_SEED


def test_key_covers_every_room_that_draws():
    """A room that phantom comes to use must be in DRAWING, or a changed drawing would be served from the cache."""
    package, todo, seen = Path(data.__file__).parent, ["phantom"], set()
    while todo:
        room = todo.pop()
        if f"{room}.py" in seen or not (package / f"{room}.py").exists():
            continue
        seen.add(f"{room}.py")
        for node in ast.walk(ast.parse((package / f"{room}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                todo += [a.name.split(".")[1] for a in node.names if a.name.startswith("kneeclip.")]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kneeclip"):
                todo += node.module.split(".")[1:] or [a.name for a in node.names]
    assert seen - {"errors.py"} == set(data.DRAWING)


def test_only_the_public_splits_are_called_by_their_name(tmp_path, monkeypatch):
    """A model of somebody's own films must not say that it learnt from the public ones."""
    folder = make_folder(tmp_path / "knees")
    assert {rows.info.description for rows in data.load_knees(folder).values()} == {
        "real knees (not the public splits)"
    }
    counts = {split: np.zeros(5, int) for split in data.CARD}
    for split, rows in data.load_knees(folder).items():
        counts["train" if split == "tune" else split] += np.bincount(rows["grade"], minlength=5)
    monkeypatch.setattr(data, "CARD", {split: tuple(found.tolist()) for split, found in counts.items()})
    knees = data.load_knees(folder, sides="R")  # whoever takes one side of them takes it of the public ones
    assert {rows.info.description for rows in knees.values()} == {"real knees (Chen 2018)"}
    assert facts_of(SimpleNamespace(name_or_path="clip"), knees)["preset"] == "knees"


# --- the real images ---------------------------------------------------------------------------------------------


@pytest.mark.real
def test_real_knees(real_data):
    knees = data.load_knees(real_data)
    counts = {s: np.bincount(k["grade"], minlength=5) for s, k in knees.items()}
    assert (counts["train"] + counts["tune"]).tolist() == [2286, 1046, 1516, 757, 173]
    assert counts["validation"].tolist() == [328, 153, 212, 106, 27]
    patients = {s: set(k["patient"]) for s, k in knees.items()}
    assert len(patients["train"]) + len(patients["tune"]) == 2889 == len(patients["train"] | patients["tune"])
    assert 0.09 < len(patients["tune"]) / 2889 < 0.11
    assert {rows.info.description for rows in knees.values()} == {"real knees (Chen 2018)"}
    row = knees["validation"][0]
    assert row["image"].size == (224, 224) and len(row["patient"]) == 7
