"""The image tower, as far as an image's embedding needs it.

CLIP's embedding of an image is its class token after the last layer; what that layer makes of the patches is thrown
away. So the last layer is computed for the class token alone: it asks all patches (keys, values) and only it is
answered (query, output, MLP). The numbers are Transformers' own up to rounding, for about 10/12 of a layer less.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from transformers import CLIPModel
from transformers.models.clip.modeling_clip import CLIPAttention, CLIPEncoderLayer, CLIPVisionModel


def image_features(model: CLIPModel, pixels: torch.Tensor) -> torch.Tensor:
    """``model.get_image_features(pixel_values=pixels).pooler_output``, (N, D), not normalised.

    A tower of another build, another attention than SDPA and a layer that somebody listens to (hooks) get Transformers'
    own path.
    """
    tower = model.vision_model
    *earlier, last = tower.encoder.layers
    if not _as_published(tower, last):
        return model.get_image_features(pixel_values=pixels).pooler_output
    x = tower.pre_layrnorm(tower.embeddings(pixels))  # (N, 1 + P, width), the class token first
    for layer in earlier:
        x = layer(x, None)
    return model.visual_projection(tower.post_layernorm(_class_token(last, x)))


def _class_token(layer: CLIPEncoderLayer, x: torch.Tensor) -> torch.Tensor:
    """What ``layer(x, None)[:, 0]`` is, (N, width)."""
    attention, h = layer.self_attn, layer.layer_norm1(x)

    def heads(tokens):  # (N, L, width) -> (N, heads, L, width / heads)
        return tokens.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

    query, keys, values = attention.q_proj(h[:, :1]), attention.k_proj(h), attention.v_proj(h)
    answer = F.scaled_dot_product_attention(heads(query), heads(keys), heads(values), scale=attention.scale)
    x = x[:, 0] + attention.out_proj(answer.transpose(1, 2).flatten(1))
    return x + layer.mlp(layer.layer_norm2(x))


def _as_published(tower, last) -> bool:
    parts = (tower, tower.encoder, last, last.self_attn)
    kinds = type(tower) is CLIPVisionModel and type(last) is CLIPEncoderLayer and type(last.self_attn) is CLIPAttention
    heard = any(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks for part in parts)
    plain = last.self_attn.config._attn_implementation == "sdpa" and not tower.config.attention_dropout
    return kinds and plain and not heard
