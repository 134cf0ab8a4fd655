"""The image tower, as far as an image's embedding needs it.

CLIP's embedding of an image is its class token after the last layer; what that layer makes of the patches is thrown
away. So the last layer is computed for the class token alone: it asks all patches (keys, values) and only it is
answered (query, output, MLP), for about 10/12 of a layer less. And QuickGELU is taken in one kernel instead of three.
The numbers are Transformers' own up to rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPModel
from transformers.activations import QuickGELUActivation
from transformers.models.clip.modeling_clip import CLIPMLP, CLIPAttention, CLIPEncoderLayer, CLIPVisionModel

SLOPE = 1.702  # QuickGELU(x) = x · sigmoid(1.702 x) = SiLU(1.702 x) / 1.702


def image_features(model: CLIPModel, pixels: torch.Tensor) -> torch.Tensor:
    """``model.get_image_features(pixel_values=pixels).pooler_output``, (N, D), not normalised.

    A tower of another build, another attention than SDPA and a layer that somebody listens to (hooks) get Transformers'
    own path.
    """
    tower = model.vision_model
    layers = tower.encoder.layers
    if not _as_published(tower):
        return model.get_image_features(pixel_values=pixels).pooler_output
    x = tower.pre_layrnorm(tower.embeddings(pixels))  # (N, 1 + P, width), the class token first
    for layer in layers[:-1]:
        x = layer(x, None) if layer.gradient_checkpointing else run_layer(layer, x)
    return model.visual_projection(tower.post_layernorm(run_layer(layers[-1], x, answered=1)[:, 0]))


def run_layer(layer: CLIPEncoderLayer, x: torch.Tensor, answered: int | None = None) -> torch.Tensor:
    """``layer(x, None)`` of its first `answered` tokens: (N, answered or L, width)."""
    attention, h = layer.self_attn, layer.layer_norm1(x)

    def heads(tokens):  # (N, L, width) -> (N, heads, L, width / heads)
        return tokens.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

    query, keys, values = attention.q_proj(h[:, :answered]), attention.k_proj(h), attention.v_proj(h)
    answer = F.scaled_dot_product_attention(heads(query), heads(keys), heads(values), scale=attention.scale)
    x = x[:, :answered] + attention.out_proj(answer.transpose(1, 2).flatten(2))
    return x + _mlp(layer.mlp, layer.layer_norm2(x))


def _mlp(mlp: CLIPMLP, h: torch.Tensor) -> torch.Tensor:
    """``mlp(h)``, with QuickGELU's factors taken into the two small matrices instead of the large activations."""
    if type(mlp.activation_fn) is not QuickGELUActivation or not type(mlp.fc1) is type(mlp.fc2) is nn.Linear:
        return mlp(h)  # another activation, or LoRA's matrices
    h = F.silu(F.linear(h, SLOPE * mlp.fc1.weight, SLOPE * mlp.fc1.bias))
    return F.linear(h, mlp.fc2.weight / SLOPE, mlp.fc2.bias)


def _as_published(tower) -> bool:
    layers = tower.encoder.layers
    kinds = type(tower) is CLIPVisionModel and all(
        type(layer) is CLIPEncoderLayer and type(layer.self_attn) is CLIPAttention for layer in layers
    )
    heard = any(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks for part in tower.modules())
    config = tower.config
    return kinds and config._attn_implementation == "sdpa" and not config.attention_dropout and not heard
