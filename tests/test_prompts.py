import json
import re

import pytest

from kneeclip.errors import KneeError
from kneeclip.prompts import BUILT_IN, PromptSet, as_prompts, check_prompts, get_prompts, token_lengths


@pytest.mark.parametrize("name", ["names", "paper", "criteria", "ensemble", "nonsense"])
def test_the_built_in_sets_fit_the_small_tokenizer(name, tiny):
    lengths = check_prompts(get_prompts(name), tiny[1].tokenizer)
    assert len(lengths) == sum(get_prompts(name).counts)
    assert 3 <= min(lengths) and max(lengths) <= 77


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_built_in_sets_fit_clips_own_tokenizer(name, clip_tokenizer):
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(clip_tokenizer)
    assert max(check_prompts(get_prompts(name), tokenizer)) <= 77
    assert token_lengths(["a photo of a cat"], tokenizer) == [7]  # 49406 320 1125 539 320 2368 49407


def test_only_what_a_radiograph_shows_and_no_side():
    words = r"pain|cartilage|left|right|medial|lateral"
    for prompts in BUILT_IN.values():
        assert not [text for text in prompts.flat if re.search(words, text, re.I)]


def test_the_paper_set_follows_the_template():
    assert all(
        re.match(r"This is a (Normal|Doubtful|Mild|Moderate|Severe) case of knee osteoarthritis", text)
        for text in get_prompts("paper").flat
    )
    assert "ours" in get_prompts("paper").source


@pytest.mark.parametrize(
    ("texts", "word"),
    [
        (["a", "b", "c", "d"], "this one has 4"),
        (["a", "b", "c", "d", "e", "f"], "this one has 6"),
        (["a", "b", "c", "d", " "], "KL4 is empty"),
        (["a", "b", "c", "d", []], "KL4 is empty"),
        (["a", "b", "c", "d", "A "], "stands twice"),
        (["a", "b", "c", "d", 4], "KL4 is empty"),
        ({0: "a"}, "no prompt set"),
    ],
)
def test_bad_sets_are_refused_in_a_sentence(texts, word):
    with pytest.raises(KneeError, match=word):
        as_prompts(texts)


def test_a_prompt_over_77_tokens_names_its_grade(tiny):
    long = PromptSet("own", ("a", "b", "a " * 80, "d", "e"))
    with pytest.raises(KneeError, match="KL2 has 82 tokens and the text tower reads 77.*shorten it by 5"):
        check_prompts(long, tiny[1].tokenizer)


def test_prompts_that_become_the_same_tokens_are_refused(tiny):
    with pytest.raises(KneeError, match="same tokens"):
        check_prompts(PromptSet("own", ("a knee", "a  knee", "c", "d", "e")), tiny[1].tokenizer)


def test_other_scripts_have_tokens(tiny):
    prompts = as_prompts(["正常", "сомнительно", "ελαφρύ", "معتدل", "schwer"])
    assert min(check_prompts(prompts, tiny[1].tokenizer)) >= 3


def test_an_unknown_set_names_those_that_exist():
    with pytest.raises(KneeError, match="names, paper, criteria, ensemble, nonsense"):
        get_prompts("papers")


def test_half_a_character_is_refused(tmp_path):
    texts = ["normal", "doubtful", "mild", "moderate", "\ud83e"]
    with pytest.raises(KneeError, match="KL4 holds a broken character"):
        as_prompts(texts)
    (tmp_path / "p.json").write_text(json.dumps(texts), encoding="utf-8")
    with pytest.raises(KneeError, match="KL4 holds a broken character .*p.json"):
        as_prompts(str(tmp_path / "p.json"))
