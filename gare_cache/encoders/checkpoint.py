"""Read a checkpoint file without running code, and say in plain words what it is if not weights."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gare_cache.encoders.hub import first_line
from gare_cache.errors import EncoderError

# Entries of training checkpoints that hold the weights; the first one found is taken.
_WEIGHTS_ENTRIES = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "weights",
    "state_dict_ema",
    "ema_state_dict",
    "model_ema",
    "ema_model",
    "ema",
)
# Numbers that TorchScript archives of CLIP hold beside their weights.
_NUMBERS_OF_ARCHIVES = ("input_resolution", "context_length", "vocab_size")
_BEGINNINGS = (
    (b"version https://git-lfs", "a Git-LFS pointer, not the weights; run `git lfs pull` there"),
    (b"<", "a web page (HTML or XML), not weights; the link led to a page, download the file"),
    (b"{", "a JSON text, not weights; name the file that holds the tensors"),
)
WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
_PREFERRED = tuple(
    f"{stem}{suffix}"
    for stem in ("open_clip_model", "open_clip_pytorch_model", "model", "pytorch_model")
    for suffix in WEIGHTS_SUFFIXES
)


def find_checkpoint(folder: Path) -> Path:
    """Return the checkpoint file of an encoder's folder.

    Raises:
        EncoderError: there is none, or there are several without one of the usual names.
    """
    found = sorted(path for path in folder.glob("*") if path.suffix in WEIGHTS_SUFFIXES)
    named = [folder / name for name in _PREFERRED if folder / name in found]
    if named:
        return named[0]
    if len(found) == 1:
        return found[0]
    if not found:
        raise EncoderError(
            f"{folder} holds no weights beside its configuration; copy open_clip_model.safetensors "
            "(or another checkpoint file) into it"
        )
    raise EncoderError(
        f"{folder} holds {len(found)} checkpoint files ({_listed([p.name for p in found])}); keep "
        f"one, or name it {_PREFERRED[0]}"
    )


def read_checkpoint(path: Path, *, trust: bool) -> tuple[dict[str, Tensor], list[str]]:
    """Read the tensors of a checkpoint file.

    Args:
        path: a file of safetensors, ``torch.save`` or, trusted, ``torch.jit.save``.
        trust: unpickle objects other than tensors, which can run any code.

    Returns:
        The tensors by name, and notes: what was chosen and what was left out.

    Raises:
        EncoderError: the file holds no weights, is damaged, or needs trust.
    """
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise EncoderError(f"{path} is empty (0 bytes); copy or download it again")
    for beginning, words in _BEGINNINGS:
        if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(beginning):
            raise EncoderError(f"{path} is {words}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice to the author of the file, not to its user
            content = _load(path, start, trust=trust)
    except EncoderError:
        raise
    except Exception as err:  # the readers' own errors of many kinds
        raise _reading_error(path, err) from err
    return _weights_in(content, path)


def _load(path: Path, start: bytes, *, trust: bool) -> Any:
    # A safetensors file begins with the length of its header, eight bytes, and the header, JSON.
    if start[8:9] == b"{":
        from safetensors.torch import load_file

        return load_file(path)
    if _is_torchscript(path):
        if not trust:
            raise _needs_trust(path, "a TorchScript archive")
        archive = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
        state = archive.state_dict()
        return {name: state[name] for name in state if name not in _NUMBERS_OF_ARCHIVES}
    with path.open("rb") as file:  # torch would judge a path by its suffix
        content = torch.load(file, map_location="cpu", weights_only=not trust)
    return content.state_dict() if isinstance(content, nn.Module) else content


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _reading_error(path: Path, err: Exception) -> EncoderError:
    unsupported = re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", str(err))
    if unsupported:
        return _needs_trust(path, f"pickled objects such as {unsupported.group(1)}")
    damaged = isinstance(err, (pickle.UnpicklingError, EOFError, RuntimeError, UnicodeError))
    reason = "it is no checkpoint, damaged or cut short" if damaged else first_line(err)
    return EncoderError(
        f"the weights {str(path)!r} cannot be loaded: {reason} "
        f"({path.stat().st_size:,} bytes); copy or download them again"
    )


def _needs_trust(path: Path, what: str) -> EncoderError:
    return EncoderError(
        f"{path} is more than tensors ({what}) and could run any code; if you trust it, set "
        "encoder.trust_checkpoint to true, or save its state_dict() alone"
    )


def _weights_in(content: Any, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Descend into a training checkpoint to the dictionary of tensors."""
    notes: list[str] = []
    while True:
        if isinstance(content, nn.Module):
            content = content.state_dict()
        if not isinstance(content, Mapping):
            raise EncoderError(
                f"{path} holds no weights but an object of type {type(content).__name__}; save "
                "the model's state_dict()"
            )
        entries = [name for name in _WEIGHTS_ENTRIES if _has_weights(content.get(name))]
        if not entries:
            break
        if len(entries) > 1:
            notes.append(f"of {_listed(entries)} in {path.name}, {entries[0]!r} is used")
        content = content[entries[0]]
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        held = f"only {_listed(list(map(str, content)))}" if content else "an empty dictionary"
        raise EncoderError(f"{path} holds no weights, {held}; save the model's state_dict()")
    return tensors, notes


def _has_weights(value: Any) -> bool:
    return isinstance(value, (Mapping, nn.Module))


def _listed(names: list[str], most: int = 4) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more
