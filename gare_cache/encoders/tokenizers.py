"""The model's own tokenizer: open_clip's, or one of Hugging Face from the model's folder or hub."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from gare_cache.encoders.hub import HF_HUB, LOCAL_DIR, first_line, hub_files
from gare_cache.encoders.open_clip_import import import_open_clip
from gare_cache.encoders.text_tower import text_tower
from gare_cache.errors import EncoderError, EnvironmentFailure

_PLAIN = "gare_cache_open_clip_tokenizer"


def require_transformers(config: dict[str, Any], model: str) -> None:
    """Check that the package is there that a text tower or tokenizer of Hugging Face needs.

    Args:
        config: the model's configuration.
        model: its name, as given in the settings.

    Raises:
        EnvironmentFailure: it is not installed.
    """
    if not _is_of_hugging_face(config, model):
        return
    if importlib.util.find_spec("transformers") is None:
        raise EnvironmentFailure(
            f"the tokenizer or text tower of {model!r} is Hugging Face's and needs the package "
            "transformers; install it: pip install 'gare-cache[hf]'"
        )


def load_tokenizer(model: str, config: dict[str, Any], context_length: int) -> Any:
    """Return the model's own tokenizer: ``list[str] -> (B, context_length)`` token ids.

    Args:
        model: an open_clip model name, ``local-dir:FOLDER`` (its tokenizer files are used, whatever
            name the configuration gives) or ``hf-hub:ORG/REPO``.
        config: the model's configuration.
        context_length: number of ids per caption.

    Raises:
        EncoderError: the folder holds no usable tokenizer.
        EnvironmentFailure: ``transformers`` is missing, or the files cannot be downloaded.
    """
    get_tokenizer = import_open_clip().get_tokenizer
    if model.startswith(HF_HUB) or (
        _is_of_hugging_face(config, model) and not model.startswith(LOCAL_DIR)
    ):
        with hub_files(f"the tokenizer of {model!r}"):
            return get_tokenizer(model, context_length=context_length)
    try:
        return get_tokenizer(model, context_length=context_length)
    except Exception as err:  # transformers raises errors of many kinds
        named = config.get("text_cfg", {}).get("hf_tokenizer_name")
        folder = Path(model.removeprefix(LOCAL_DIR))
        raise EncoderError(
            f"no tokenizer can be loaded from {folder} ({first_line(err)}); copy the files of "
            f"{named!r} into it (tokenizer.json and tokenizer_config.json, or what it has instead)"
        ) from err


def plain_tokenizer() -> Any:
    """Return open_clip's tokenizer of CLIP's vocabulary without importing open_clip.

    open_clip imports torchvision and transformers, which takes seconds; the file of its tokenizer
    needs neither. It is the one that the file makes itself: another would take as much memory.

    Raises:
        EnvironmentFailure: open_clip is not installed.
    """
    module = sys.modules.get("open_clip.tokenizer") or sys.modules.get(_PLAIN)
    if module is None:
        package = importlib.util.find_spec("open_clip")
        if package is None or not package.submodule_search_locations:
            raise EnvironmentFailure("open_clip is not installed; install open_clip_torch")
        file = Path(package.submodule_search_locations[0]) / "tokenizer.py"
        spec = importlib.util.spec_from_file_location(_PLAIN, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[_PLAIN] = module
    return module._tokenizer


def is_plain(tokenizer: Any) -> bool:
    """Return whether a tokenizer is that of ``plain_tokenizer``."""
    if type(tokenizer).__name__ != "SimpleTokenizer":
        return False
    plain = plain_tokenizer()
    return bool(
        tokenizer.encoder == plain.encoder
        and tokenizer.bpe_ranks == plain.bpe_ranks
        and tokenizer.clean_fn is plain.clean_fn
        and tokenizer.reduction_fn is None
    )


def tokenize(tokenizer: Any, captions: Sequence[str], *, context_length: int, name: str) -> Tensor:
    """Return (B, context_length) token ids; longer captions are cut.

    Raises:
        EncoderError: the tokenizer cannot pad, or fails otherwise.
    """
    try:
        ids: Tensor = tokenizer(list(captions), context_length=context_length)
    except Exception as err:  # transformers raises errors of many kinds
        raise EncoderError(f"the tokenizer of {name!r} fails: {first_line(err)}") from err
    return ids


def count_cut(tokenizer: Any, captions: Sequence[str], context_length: int) -> int | None:
    """Count captions longer than the context; None if the tokenizer cannot tell."""
    if hasattr(tokenizer, "encode"):
        room = context_length - 2  # start and end of text
        return sum(len(tokenizer.encode(caption)) > room for caption in captions)
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is None or not hasattr(tokenizer, "clean_fn") or tokenizer.tokenizer_mode:
        return None
    cleaned = [tokenizer.clean_fn(caption) for caption in captions]
    ids = (
        inner(cleaned, truncation=False, padding=False, verbose=False).input_ids if cleaned else []
    )
    return sum(len(tokens) > context_length for tokens in ids)


def tokenizer_notes(tokenizer: Any, tokens: Tensor, model: Any, *, name: str) -> list[str]:
    """Check that a tokenizer and a text tower belong together.

    Args:
        tokenizer: the tokenizer.
        tokens: (B, context) ids of some captions.
        model: the open_clip model.
        name: its name, for messages.

    Returns:
        A note if it pads with another id than the text tower masks.

    Raises:
        EncoderError: it gives ids that the text tower's vocabulary does not have.
    """
    tower = text_tower(model)
    vocabulary = tower.vocab_size if hasattr(tower, "vocab_size") else model.vocab_size
    if int(tokens.max()) >= vocabulary:
        raise EncoderError(
            f"the tokenizer of {name!r} gives id {int(tokens.max())}, but its text tower knows "
            f"{vocabulary} ids; the tokenizer is of another model"
        )
    masked = getattr(getattr(tower, "config", None), "pad_token_id", None)
    padded = getattr(getattr(tokenizer, "tokenizer", None), "pad_token_id", None)
    if masked is None or padded is None or masked == padded:
        return []
    return [
        f"the tokenizer of {name!r} pads with id {padded}, but its text tower masks id {masked}: "
        "the padding is read as words"
    ]


def _is_of_hugging_face(config: dict[str, Any], model: str) -> bool:
    text = config.get("text_cfg", {})
    if text.get("hf_tokenizer_name") or text.get("hf_model_name"):
        return True
    # open_clip gives these names a tokenizer of their own.
    return "siglip" in model.lower() and not model.startswith((LOCAL_DIR, HF_HUB))


class Tokenizing:
    """What an encoder of sentences does before it encodes."""

    name: str
    context_length: int
    _tokenizer: Any

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Return (B, context_length) token ids; longer captions are cut."""
        return tokenize(
            self._tokenizer, captions, context_length=self.context_length, name=self.name
        )

    def count_cut(self, captions: Sequence[str]) -> int | None:
        """Count captions longer than the context; None if the tokenizer cannot tell."""
        return count_cut(self._tokenizer, captions, self.context_length)
