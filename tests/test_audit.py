"""Every fault that the audit promises to find, planted and found; and the real images."""

import json
import os
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from kneeclip import auditing
from kneeclip.auditing import CARD, CARD_PATIENTS, AuditReport, audit, is_negative

NAMES = {
    "train/0": ["9000099L", "9000099R", "9000006L"],
    "train/4": ["9000006R", "9000296L", "9000296R"],
    "val/2": ["9100000L", "9100000R"],
    "test/1": ["9200000L", "9200000R"],
}


def film(name: str, size: int = 80) -> np.ndarray:
    """Bright bone between dark borders, and a little noise of its own for each name."""
    noise = np.random.default_rng(list(name.encode())).normal(0, 5, (size, size))
    bone = 150.0 * (np.abs(np.linspace(-1, 1, size)) < 0.8)
    return np.clip(50 + bone + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def knees(tmp_path):
    """A faultless little data set, but for its numbers."""
    for folder, stems in NAMES.items():
        (tmp_path / "knees" / folder).mkdir(parents=True)
        for stem in stems:
            put(tmp_path / "knees", f"{folder}/{stem}.png", film(stem))
    return tmp_path / "knees"


def put(root, name: str, pixels: np.ndarray) -> str:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(root / name)
    return name


def kinds(findings) -> dict[str, tuple[str, ...]]:
    usual = ("counts", "tune", "missing grade")  # of a data set as little as these
    return {finding.kind: finding.files for finding in findings if finding.kind not in usual}


def test_a_sound_data_set(knees, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in knees.rglob("*")}
    report = audit(knees)
    assert isinstance(report, AuditReport) and report.ok and not kinds(report.warnings) and not kinds(report.notes)
    assert report.counts == {"train": (3, 0, 0, 0, 3), "validation": (0, 0, 2, 0, 0), "test": (0, 2, 0, 0, 0)}
    assert report.patients == {"train": 3, "validation": 1, "test": 1}
    other = [w.message.split()[0] for w in report.warnings if w.kind == "counts"]
    assert other == ["train", "validation", "test"]  # numbers, not the card's
    assert {p: p.stat().st_mtime_ns for p in knees.rglob("*")} == before
    with zipfile.ZipFile(tmp_path / "knees.zip", "w") as archive:
        for file in knees.rglob("*.png"):
            archive.write(file, file.relative_to(knees))
    assert audit(str(tmp_path / "knees.zip")).counts == report.counts


def test_the_card_compares_equal(monkeypatch, knees):
    monkeypatch.setattr(auditing, "CARD", audit(knees).counts)
    monkeypatch.setattr(auditing, "CARD_PATIENTS", audit(knees).patients)
    report = audit(knees)
    assert {w.kind for w in report.warnings} == {"missing grade"} and "data card" not in report.text()


def test_errors_are_found_named_and_collected(knees):
    faults = {
        "unknown grade": [put(knees, "train/5/9000400L.png", film("a"))],
        "unreadable": ["test/1/9200001L.png", "train/0/9000401L.png"],
        "patient in two splits": ["train/0/9000006L.png", "train/4/9000006R.png"],
        "same pixels in two splits": ["test/1/9200000R.png", put(knees, "val/2/9100001L.png", film("9200000R"))],
        "knee graded twice": ["train/4/9000296L.png", put(knees, "train/2/9000296L.png", film("c"))],
    }
    (knees / "test/1/9200001L.png").write_bytes(b"")
    raw = (knees / "train/0/9000099L.png").read_bytes()
    (knees / "train/0/9000401L.png").write_bytes(raw[: len(raw) // 2])
    faults["patient in two splits"].append(put(knees, "val/0/9000006L.png", film("b")))
    report = audit(knees)
    assert not report.ok
    assert {kind: sorted(files) for kind, files in kinds(report.errors).items()} == {
        kind: sorted(files) for kind, files in faults.items()
    }
    text = report.text()
    assert all(name in text for files in faults.values() for name in files)
    assert "9000006" in text and "5 errors" in text
    assert json.loads(json.dumps(report.to_dict()))["ok"] is False
    assert report.counts["train"] == (4, 0, 1, 0, 3)  # unreadable ones count: they are there


def test_warnings_are_found_and_named(knees):
    shutil.rmtree(knees / "test")
    (knees / "train/0/9000500L.dcm").write_bytes(b"DICM")
    (knees / "train/0/Thumbs.db").write_bytes(b"x")
    faults = {
        "negative": (put(knees, "train/1/9000501L.png", 255 - film("d")),),
        "not square": (put(knees, "train/1/9000502L.png", film("e")[:70]),),
        "small": (put(knees, "train/1/9000503L.png", film("f", 40)),),
        "blank": (put(knees, "train/1/9000504L.png", np.full((80, 80), 255, np.uint8)),),
        "name": (put(knees, "train/1/knee.png", film("g")),),
        "same pixels": ("train/0/9000099L.png", put(knees, "train/1/9000505L.png", film("9000099L"))),
        "not an image": ("train/0/9000500L.dcm",),
        "missing split": (),
    }
    put(knees, "auto_test/0/9200000L.png", film("h"))
    report = audit(knees)
    assert report.ok and kinds(report.warnings) == faults
    assert kinds(report.notes) == {"ignored": ()} and "auto_test is no split: its images (1)" in report.text()


def test_grades_without_an_image_are_named(knees):
    for k in (1, 3):
        put(knees, f"train/{k}/90009{k}0L.png", film(f"grade {k}"))
    said = [finding.message for finding in audit(knees).warnings if finding.kind == "missing grade"]
    assert "train holds no image of KL2" in said and "validation holds no image of KL0 and KL1 and KL3 and KL4" in said


def test_long_lists_are_cut_in_the_text_alone(knees):
    for i in range(8):
        put(knees, f"train/1/900060{i}L.png", 255 - film(str(i)))
    (negative,) = (w for w in audit(knees).warnings if w.kind == "negative")
    assert len(negative.files) == 8
    text = audit(knees).text()
    assert "8 files" in text and "9000604L" in text and "9000605L" not in text and "and 3 more" in text


def test_same_name_without_side_is_no_patient(knees):
    put(knees, "train/0/img1.png", film("i"))
    put(knees, "val/0/img1.png", film("j"))
    report = audit(knees)
    assert report.ok and len(kinds(report.warnings)["name"]) == 2


@pytest.mark.parametrize("bad", ["nowhere", "empty", "half.zip", ""])
def test_nothing_to_audit(tmp_path, bad):
    (tmp_path / "empty").mkdir()
    (tmp_path / "half.zip").write_bytes(b"PK\3\4")
    report = audit(tmp_path / bad if bad else bad)
    assert not report.ok and [e.kind for e in report.errors] == ["source"]
    assert bad in report.text() and json.dumps(report.to_dict())


def test_only_faults(tmp_path):
    (tmp_path / "train" / "0").mkdir(parents=True)
    (tmp_path / "train" / "0" / "9000099L.png").write_bytes(b"")
    (tmp_path / "train" / "0" / "9000099R.png").symlink_to("nowhere.png")
    report = audit(tmp_path)
    assert len(kinds(report.errors)["unreadable"]) == 2 and report.counts == {"train": (2, 0, 0, 0, 0)}
    shutil.rmtree(tmp_path / "train")
    put(tmp_path, "train/kl2/9000099L.png", film("k"))
    report = audit(tmp_path)
    assert kinds(report.errors) == {"unknown grade": ("train/kl2/9000099L.png",)} and report.counts == {}


def test_negatives_of_a_pixel_or_none():
    assert not is_negative(np.full((80, 80), 128, np.uint8))
    assert not is_negative(film("l")) and is_negative(255 - film("l"))
    assert is_negative(255 - film("l", 16))


def test_card_is_the_public_one():
    assert {split: sum(row) for split, row in CARD.items()} == {"train": 5778, "validation": 826, "test": 1656}
    assert sum(CARD_PATIENTS.values()) * 2 == 8260


def test_phantoms_are_audited_without_a_card(tmp_path, monkeypatch):
    import kneeclip.data

    monkeypatch.setenv("KNEECLIP_CACHE", str(tmp_path))
    monkeypatch.setattr(kneeclip.data, "PHANTOM_SPLITS", {"train": (6, 101), "tune": (2, 102)})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on busy cores torch's threads mostly wait for one another
    report = audit("phantom")
    torch.set_num_threads(threads)
    assert report.ok and report.patients == {"train": 6, "tune": 2} and not report.card


@pytest.mark.real
def test_real_knees(real_data):
    report = audit(real_data)
    assert report.ok and os.path.basename(report.source) == real_data.name
    for split in ("train", "validation"):
        assert report.counts[split] == CARD[split] and report.patients[split] == CARD_PATIENTS[split]
    warnings = kinds(report.warnings)
    assert set(warnings) <= {"negative", "missing split"}
    assert 70 <= sum(name.startswith("train/") for name in warnings["negative"]) <= 84
