"""A small CLIP before it has learnt anything: its settings, a tokenizer of the knee's words, random weights."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from kneeclip.data import PRETRAIN_SEED
from kneeclip.prompts import CONTEXT

SPECIAL = ("<|startoftext|>", "<|endoftext|>")


@dataclass(frozen=True)
class Pretraining:
    """How phantom-clip is made: the shipped one with these defaults."""

    patients: int = 20000  # phantom patients, two knees each
    image_size: int = 112  # pixels
    patch_size: int = 14  # pixels; 8 × 8 patches
    width: int = 128  # of both towers
    layers: int = 4  # of the image tower
    text_layers: int = 2
    heads: int = 4
    dim: int = 128  # D of the joint space
    vocabulary: int = 1200  # tokens
    grey_mean: float = 0.6  # knees are brighter and flatter than CLIP's photographs; in shares of white
    grey_std: float = 0.17
    epochs: int = 8
    batch_size: int = 128  # pairs
    lr: float = 1e-3
    weight_decay: float = 0.1
    structure_weight: float = 5.0  # of the head that maps structures, patch by patch
    anatomy_weight: float = 1.0  # of the head that reads the anatomy off the whole image
    map_weight: float = 1.0  # of the head that says what another network sees, patch by patch, where it has looked
    sides: str = "both"  # knees to learn from: both, R or L; it is watched on both
    variety: float = 2.5  # how many times as much as in a population its bones and films differ
    reexpose: bool = True  # show a phantom on another film every time
    held_out: int = 200  # phantom patients to watch zero-shot grading on
    seed: int = PRETRAIN_SEED


def train_tokenizer(texts: Iterable[str], size: int) -> CLIPTokenizer:
    """CLIP's byte-level BPE, learnt from `texts`: any text still has tokens, the knee's words have short ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = CLIPTokenizer().backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(alphabet), initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    merges = [tuple(pair) for pair in _merges(bpe)]
    # as in CLIP: every byte, every byte that ends a word, the merges in order, the two special tokens
    tokens = [*alphabet, *[a + "</w>" for a in alphabet], *["".join(pair) for pair in merges], *SPECIAL]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CONTEXT)


def new_clip(settings: Pretraining, tokenizer: CLIPTokenizer) -> tuple[CLIPModel, CLIPProcessor]:
    """A CLIP of random weights with the settings' architecture, and its processor."""
    tower = {
        "hidden_size": settings.width,
        "intermediate_size": 4 * settings.width,
        "num_attention_heads": settings.heads,
    }
    # without its ids the text tower would pool the wrong token
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = CLIPConfig(
        text_config={
            **tower,
            **ids,
            "num_hidden_layers": settings.text_layers,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": CONTEXT,
        },
        vision_config={
            **tower,
            "num_hidden_layers": settings.layers,
            "image_size": settings.image_size,
            "patch_size": settings.patch_size,
        },
        projection_dim=settings.dim,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = CLIPModel(config)
    images = CLIPImageProcessorPil(
        size={"shortest_edge": settings.image_size},
        crop_size={"height": settings.image_size, "width": settings.image_size},
        image_mean=[settings.grey_mean] * 3,
        image_std=[settings.grey_std] * 3,
    )
    return model, CLIPProcessor(image_processor=images, tokenizer=tokenizer)


def _merges(tokenizer: Tokenizer) -> list:
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
