"""Making phantom-clip: a small CLIP and its tokenizer, trained from nothing on captioned phantom knees.

The same recipe as CLIP's: pull an image towards its own caption and away from the others of the batch. Captions
that read the same count as the same, so that "severe knee osteoarthritis" is not pushed away from a severe knee.

From captions alone a transformer this small learns nothing for hundreds of steps: a joint space is a few pixels.
Phantoms know more than their caption, so heads, thrown away afterwards, ask for it (`heads`).

It is to read real films too, which it never sees. So its phantoms differ more from one another than knees do, and every
time they are shown on another film: what varies in training can't become a crutch (domain randomisation, Tobin et al.
2017).
"""

from __future__ import annotations

import math
import os
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from tqdm.auto import tqdm

from kneeclip import model as clip
from kneeclip.cards import NOT_FOR_DIAGNOSIS, environment
from kneeclip.checkpoints import fingerprint, load_state, require_writable, write_atomically, write_json
from kneeclip.data import PHANTOM_SPLITS, drawing
from kneeclip.errors import KneeError
from kneeclip.evaluation import evaluate
from kneeclip.exposure import reexposed
from kneeclip.heads import Heads, load_maps
from kneeclip.newborn import Pretraining, new_clip, train_tokenizer
from kneeclip.phantom import Phantoms, captions, make_phantoms
from kneeclip.presets import Recipe
from kneeclip.prompts import BUILT_IN
from kneeclip.runstate import RunState
from kneeclip.updating import BETAS, EPS, MAX_LOGIT_SCALE, learning_rate, parameter_groups


def contrastive_loss(X: torch.Tensor, T: torch.Tensor, scale: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """CLIP's loss with equal captions as equally right answers.

    Parameters
    ----------
    X, T : (N, D) unit rows of images and captions
    scale : scalar, exp(logit_scale)
    same : (N, N) bool, whether captions i and j read the same; True on the diagonal

    Notes
    -----
    Source: Radford et al. 2021 (CLIP), figure 3, which is the case of a diagonal `same`.
    """
    logits = scale * X @ T.t()
    target = same / same.sum(1, keepdim=True)  # symmetric up to its row sums, and equal rows have equal sums
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target))


def pretrain(
    out: str | Path, settings: Pretraining | None = None, *, maps: str | Path | None = None, progress: bool = True
) -> Path:
    """Make phantom-clip in the folder `out`; a killed run goes on where its last epoch ended.

    Parameters
    ----------
    maps : file of `results/phantom_to_real/maps.py`, optional
        What a network that knows photographs sees in the same phantoms: a third head learns to say it.

    Returns
    -------
    Path
        The folder: half-precision weights, tokenizer, card, `pretraining.json`.
    """
    settings = settings or Pretraining()
    out = Path(os.path.expanduser(out))
    if settings.epochs < 1:
        raise KneeError("a pretraining needs epochs", f"epochs={settings.epochs}", "give 1 or more")
    if settings.sides not in ("both", "L", "R"):
        raise KneeError("there are no such sides", f"sides={settings.sides!r}", "choose both, L or R")
    each = 2 if settings.sides == "both" else 1
    if each * settings.patients < settings.batch_size:
        enough = f"give {math.ceil(settings.batch_size / each)} or more"
        raise KneeError("the patients' knees don't fill a batch", f"patients={settings.patients}", enough)
    if (out / "pretraining.json").exists():
        raise KneeError("the folder already holds a pretrained model", out, "choose another folder or delete it")
    sight = None if maps is None else load_maps(maps, settings)
    require_writable(out)
    accelerator = Accelerator()
    maker = [vars(settings), drawing(), sight and sight["network"]]
    seen = {name: sight[name] for name in ("maps", "patches")} if sight else {}
    with RunState(out, "none", accelerator) as state:
        state.open(fingerprint(maker, seen))  # drawing takes minutes: what can be refused is refused before
        return _trained(state, settings, sight, accelerator, progress)


def _trained(
    state: RunState, settings: Pretraining, sight: dict | None, accelerator: Accelerator, progress: bool
) -> Path:
    """From phantoms to the finished folder."""
    out = state.folder
    if progress:
        tqdm.write(f"drawing {2 * settings.patients:,} phantom knees …")
    # many knees at 224 px take a CPU minutes; nobody has tried to draw on another accelerator
    where = accelerator.device if accelerator.device.type == "cuda" else torch.device("cpu")
    knees = cohort(settings, where)
    watched = make_phantoms(settings.held_out, settings.seed + 1, size=settings.image_size)
    corpus = [text for epoch in range(2) for text in captions(knees.anatomy, epoch, style="mixed")]
    corpus += [text for prompts in BUILT_IN.values() for text in prompts.flat] * 20
    tokenizer = train_tokenizer(corpus, settings.vocabulary)
    model, processor = new_clip(settings, tokenizer)
    model.to(accelerator.device).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed + 1)
        heads = Heads(knees.anatomy.to(where), settings, sight).to(accelerator.device)
    learnt = torch.nn.ModuleDict({"clip": model, "heads": heads})
    groups = parameter_groups(learnt, settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=BETAS, eps=EPS)
    images = torch.from_numpy(knees.images).to(accelerator.device)
    quick = where.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    mixed = torch.autocast("cuda", torch.bfloat16) if quick else nullcontext()  # the towers alone, as in training
    state.resume(learnt, optimizer)
    schedule = Recipe(lr=settings.lr, warmup=0.03)
    per_epoch = len(images) // settings.batch_size
    bar = tqdm(
        total=per_epoch * settings.epochs, initial=state.step, desc="pretrain", unit="step", disable=not progress
    )
    start = time.perf_counter()
    for epoch in range(state.step // per_epoch, settings.epochs):
        texts = np.array(captions(knees.anatomy, settings.seed + epoch, style="mixed"))
        seed = int(np.random.SeedSequence([settings.seed, epoch]).generate_state(1)[0])
        g = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(images), generator=g)
        losses = []
        for i in range(per_epoch):
            index = order[i * settings.batch_size : (i + 1) * settings.batch_size]
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(state.step, per_epoch * settings.epochs, schedule)
            batch = texts[index.numpy()]
            ids = tokenizer(list(batch), padding=True, return_tensors="pt")["input_ids"].to(images.device)
            films = images[index.to(images.device)]
            pixels = clip.to_pixel_values(processor, reexposed(films, g) if settings.reexpose else films)
            with mixed:
                seen = model.get_image_features(pixel_values=pixels)  # patches (N, 1 + P, width) and X (N, D)
                told = model.get_text_features(input_ids=ids).pooler_output
            X = F.normalize(seen.pooler_output.float(), dim=-1)
            T = F.normalize(told.float(), dim=-1)
            same = torch.from_numpy(batch[:, None] == batch[None]).to(images.device)
            loss = contrastive_loss(X, T, model.logit_scale.exp(), same)
            losses.append(loss.detach())
            loss = loss + heads(seen.last_hidden_state.float(), index, settings)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learnt.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
            state.step += 1
            bar.update()
        row = {"epoch": epoch, "step": state.step, "loss": torch.stack(losses).mean().item()}
        if not math.isfinite(row["loss"]):
            raise KneeError("the loss is no longer finite", out, "lower the learning rate; the last epoch is kept")
        row |= _zero_shot(model, processor, watched) | {"seconds": round(time.perf_counter() - start, 1)}
        bar.set_postfix(loss=f"{row['loss']:.3f}", accuracy=f"{row['accuracy']:.3f}", qwk=f"{row['qwk']:.3f}")
        state.end_of_epoch(row, learnt, optimizer)
    bar.close()
    learnt.load_state_dict(load_state(state.best_file)[0])
    clip.save_clip(model, processor, out, half=True)
    record = {"settings": vars(settings), "history": state.history, "environment": environment(accelerator.device)}
    if sight is not None:
        record["maps"] = sight["network"]
    page = _card(settings, state.history[-1], record.get("maps"))
    write_atomically(out / "README.md", lambda tmp: tmp.write_text(page, encoding="utf-8"), resumes=True)
    write_json(out / "pretraining.json", record, resumes=True)
    for file in (state.checkpoint, state.best_file):
        file.unlink(missing_ok=True)
    return out


def cohort(settings: Pretraining, device: torch.device, size: int | None = None) -> Phantoms:
    """The phantoms that are learnt from, drawn on `device`, at their own size or at another."""
    size = size or settings.image_size
    knees = make_phantoms(settings.patients, settings.seed, size=size, variety=settings.variety, device=device)
    if settings.sides == "both":
        return knees
    kept = knees.sides == settings.sides
    return Phantoms(**{name: value[kept] for name, value in vars(knees).items()})


def _zero_shot(model, processor, knees) -> dict[str, float]:
    p, p_flip = clip.predict(model, processor, knees.images, "criteria")
    report = evaluate(p, knees.grades, knees.patients, flipped=p_flip, n_boot=0)
    return {name: report[name] for name in ("accuracy", "qwk", "flip_agreement")}


def _card(settings: Pretraining, last: dict, network: str | None) -> str:
    n, shown = 2 * settings.held_out, settings.patients * (2 if settings.sides == "both" else 1)
    only = {"R": "right ", "L": "left "}.get(settings.sides, "")
    other = ", each on another film every time" if settings.reexpose else ""
    told = f"; what {network}, sees of them in a patch" if network else ""
    apart = {settings.seed, settings.seed + 1}.isdisjoint(seed for _, seed in PHANTOM_SPLITS.values())
    others = "; the tutorial's phantoms have other seeds" if apart else "; **the tutorial's phantoms are among them**"
    return (
        "---\nlibrary_name: transformers\npipeline_tag: zero-shot-image-classification\nlicense: mit\n---\n"
        "# phantom-clip\n\n"
        f"**{NOT_FOR_DIAGNOSIS}** A small CLIP that has seen nothing but phantom (synthetic) knee radiographs.\n\n"
        f"- Made by `kneeclip pretrain` (settings, seed, versions and history: `pretraining.json`).\n"
        f"- {settings.width} wide, {settings.layers} + {settings.text_layers} layers, {settings.image_size} px in "
        f"patches of {settings.patch_size}; its own byte-level BPE tokenizer; weights in float16, read as float32.\n"
        f"- Trained contrastively on {shown} captioned {only}phantoms (seed {settings.seed}; bones and films "
        f"{settings.variety:g} times as varied as in a population{other}), with heads that were thrown away "
        f"(the structures of a patch, the anatomy of the image{told}){others}.\n"
        f"- Zero-shot with the `criteria` prompts on {n} phantoms of seed {settings.seed + 1}: accuracy "
        f"{last['accuracy']:.3f}, QWK {last['qwk']:.3f}, flip agreement {last['flip_agreement']:.3f} (one seed).\n"
        "- What it knows of real knees is measured in `results/`, not assumed.\n"
        '- A `transformers.pipeline` needs `hypothesis_template="{}"`: its own template puts words around a prompt.\n'
    )
