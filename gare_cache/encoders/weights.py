"""Bring the weights of a checkpoint into a model: names, shapes, and what does not fit."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gare_cache.errors import EncoderError

# Buffers that models build themselves and that only some versions store.
_BUILT = ("position_ids", "attn_mask", "num_batches_tracked", "relative_position_index")
_TEXT = "text."  # prefix of the text tower in open_clip's CustomTextCLIP, absent in its CLIP
_IMAGE_POSITIONS = "visual.positional_embedding"
_TEXT_POSITIONS = "positional_embedding"
# Names of Hugging Face's CLIP and those of open_clip, in the order in which they are replaced.
_HUGGING_FACE = (
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)
_QUERY = re.compile(r"(.*)\.self_attn\.q_proj\.(weight|bias)$")


def load_weights(model: Any, tensors: dict[str, Tensor], path: Path) -> list[str]:
    """Copy the tensors of a checkpoint into a model.

    A prefix that all names share (``module.``, ``clip.``), Hugging Face's names of CLIP, and the
    two layouts of open_clip's text tower are recognised. What lies outside the model (heads that
    were trained on top) is left out; anything else that does not fit is an error.

    Args:
        model: the open_clip model.
        tensors: weights by name, as ``read_checkpoint`` returns them.
        path: the checkpoint file, for messages.

    Returns:
        Notes: what was renamed, left out or resized.

    Raises:
        EncoderError: weights are missing, unknown, or of another shape; they are named.
    """
    from open_clip.convert import convert_state_dict

    notes: list[str] = []
    own = model.state_dict()
    tensors = convert_state_dict(model, tensors)
    tensors = {name.replace("_orig_mod.", ""): value for name, value in tensors.items()}
    if any(re.search(r"(^|\.)(text|vision)_model\.", name) for name in tensors):
        tensors = _from_hugging_face(tensors)
        notes.append(f"the names in {path.name} are those of Hugging Face's CLIP; they are mapped")
    found, outside = _matched(tensors, own, notes)
    _require_complete(model, own, found, outside, path, notes)
    _resize_positions(model, found, own, path, notes)
    _require_shapes(found, own, path)
    if outside:
        notes.append(f"left out of {path.name}, not part of the model: {_listed(outside)}")
    model.load_state_dict(found, strict=False)  # completeness has been checked above
    return notes


def _from_hugging_face(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename and join the weights of Hugging Face's CLIP as open_clip holds them."""
    first = next(m for name in tensors if (m := re.match(r"(.*?)(text|vision)_model\.", name)))
    prefix = first.group(1)
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        short = name.removeprefix(prefix)
        if short in ("text_projection.weight", "visual_projection.weight"):
            target = "text_projection" if short.startswith("text") else "visual.proj"
            renamed[target] = value.T  # (width, D)
        elif match := _QUERY.match(short):
            stem, kind = match.groups()
            parts = [f"{prefix}{stem}.self_attn.{part}_proj.{kind}" for part in "qkv"]
            if all(part in tensors for part in parts):
                joined = torch.cat([tensors[part] for part in parts])  # (3 width, ...)
                renamed[_renamed(f"{stem}.attn.in_proj_{kind}")] = joined
        elif not re.search(r"\.self_attn\.[kv]_proj\.", short):
            renamed[_renamed(short)] = value
    return renamed


def _renamed(name: str) -> str:
    for pattern, replacement in _HUGGING_FACE:
        name = re.sub(pattern, replacement, name)
    return name


def _matched(
    tensors: dict[str, Tensor], own: Collection[str], notes: list[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors under the model's names, and the names that lie outside the model."""
    names = {name.removeprefix(_TEXT): name for name in own}
    prefix = _common_prefix(tensors, names)
    if prefix:
        notes.append(f"the prefix {prefix!r} is taken off the names")
    tops = {name.split(".")[0] for name in (*names, *own)} | {_TEXT[:-1]}
    found, outside = {}, []
    for name, value in tensors.items():
        short = name.removeprefix(prefix)
        target = names.get(short.removeprefix(_TEXT))
        if name.startswith(prefix) and target is not None:
            found[target] = value
        elif name.startswith(prefix) and short.split(".")[0] in tops:
            found[short] = value  # unknown, but within the model: an error unless it is built
        else:
            outside.append(name)
    return found, outside


def _common_prefix(tensors: Iterable[str], names: Collection[str]) -> str:
    """Return the prefix below which most of the model's names are found."""
    counts = Counter[str]()
    for name in tensors:
        parts = name.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]).removeprefix(_TEXT) in names:
                counts[".".join([*parts[:i], ""]) if i else ""] += 1
    return max(counts, key=lambda prefix: (counts[prefix], -len(prefix)), default="")


def _require_complete(
    model: Any,
    own: dict[str, Tensor],
    found: dict[str, Tensor],
    outside: list[str],
    path: Path,
    notes: list[str],
) -> None:
    if "logit_bias" in own and "logit_bias" not in found:
        found["logit_bias"] = torch.zeros_like(own["logit_bias"])
        notes.append(f"{path.name} holds no logit_bias; it is 0")
    for name in [n for n in found if n not in own and n.split(".")[-1] in _BUILT]:
        del found[name]
    missing = [n for n in own if n not in found and n.split(".")[-1] not in _BUILT]
    unknown = [name for name in found if name not in own]
    if not missing and not unknown:
        return
    words = []
    if missing:
        words.append(f"{len(missing)} of the model's {len(own)} are missing ({_listed(missing)})")
    if unknown:
        words.append(f"{len(unknown)} are not the model's ({_listed(unknown)})")
    elif outside and missing:
        words.append(f"{len(outside)} lie outside the model ({_listed(outside)})")
    held = _held(found, own)
    raise EncoderError(
        f"the weights {str(path)!r} do not fit the model: {'; '.join(words)}{held}; give the whole "
        "checkpoint of this architecture"
    )


def _held(found: Collection[str], own: Collection[str]) -> str:
    visual = any(name.startswith("visual.") for name in found)
    text = any(name.startswith((_TEXT, "transformer.", "token_embedding.")) for name in found)
    if visual != text:
        return f"; the file holds the {'image' if visual else 'text'} tower alone"
    return "" if found else "; no name is one of the model's"


def _resize_positions(
    model: Any,
    found: dict[str, Tensor],
    own: dict[str, Tensor],
    path: Path,
    notes: list[str],
) -> None:
    """Interpolate positions of another context or image size as open_clip does, and say so."""
    from open_clip.model import resize_pos_embed, resize_text_pos_embed

    name = _TEXT_POSITIONS if _TEXT_POSITIONS in own else f"{_TEXT}{_TEXT_POSITIONS}"
    if name in own and found[name].ndim == 2 and found[name].shape[1] == own[name].shape[1]:
        old, new = len(found[name]), len(own[name])
        if old != new:
            found[name] = found[name].float()  # not every dtype can be interpolated
            resize_text_pos_embed(found, model)
            notes.append(
                f"{path.name} was trained with a text context of {old} tokens, the model has "
                f"{new}: its positions are interpolated, so that captions are encoded otherwise "
                "than in training"
            )
    if _IMAGE_POSITIONS in own and found[_IMAGE_POSITIONS].shape != own[_IMAGE_POSITIONS].shape:
        old, new = (len(state[_IMAGE_POSITIONS]) - 1 for state in (found, own))
        same_width = found[_IMAGE_POSITIONS].shape[1:] == own[_IMAGE_POSITIONS].shape[1:]
        if same_width and math.isqrt(old) ** 2 == old:
            found[_IMAGE_POSITIONS] = found[_IMAGE_POSITIONS].float()
            resize_pos_embed(found, model)
            patch = own["visual.conv1.weight"].shape[-1]
            notes.append(
                f"{path.name} was trained on images of {math.isqrt(old) * patch} px, the model "
                f"takes {math.isqrt(new) * patch} px: its positions are interpolated"
            )


def _require_shapes(found: dict[str, Tensor], own: dict[str, Tensor], path: Path) -> None:
    for name in ("logit_scale", "logit_bias"):  # a number, or a vector of one
        if name in own and name in found and found[name].numel() == own[name].numel() == 1:
            found[name] = found[name].reshape(own[name].shape)
    wrong = [
        f"{name} is {tuple(value.shape)}, the model's {tuple(own[name].shape)}"
        for name, value in found.items()
        if value.shape != own[name].shape
    ]
    integers = [
        f"{name} holds {str(value.dtype).removeprefix('torch.')}, as quantised weights do"
        for name, value in found.items()
        if own[name].is_floating_point() and not value.is_floating_point()
    ]
    undefined = [name for name, value in found.items() if value.isnan().any()]
    if undefined:
        raise EncoderError(
            f"the weights {str(path)!r} hold NaN ({_listed(undefined)}); the training that wrote "
            "them failed"
        )
    if wrong or integers:
        raise EncoderError(
            f"the weights {str(path)!r} do not fit the model: {_listed(wrong or integers)}; they "
            "are of another architecture, or another encoder.model is meant"
        )


def _listed(names: list[str], most: int = 4) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more
