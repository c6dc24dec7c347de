"""Load an open_clip model by name; whatever could silently be wrong is checked or must be given."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gare_cache.encoders.open_clip_import import import_open_clip
from gare_cache.errors import ConfigError, EncoderError, EnvironmentFailure, unknown_name
from gare_cache.files import read_json

LOCAL_DIR = "local-dir:"
HF_HUB = "hf-hub:"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CONFIG_FILE = "open_clip_config.json"


@dataclass(frozen=True)
class ModelSource:
    """Model and weights to load.

    Attributes:
        model: an open_clip model name, ``local-dir:FOLDER`` or ``hf-hub:ORG/REPO``.
        pretrained: a tag of the named model or a checkpoint file; None for the two schemes, whose
            weights are stored beside their configuration.
        quick_gelu: whether the weights were trained with QuickGELU; None takes it from the tag or
            the configuration. Required for a checkpoint file, which does not say.
        trust_checkpoint: unpickle a checkpoint file that holds more than tensors (TorchScript
            archives such as OpenAI's); such a file can run any code.
    """

    model: str
    pretrained: str | None = None
    quick_gelu: bool | None = None
    trust_checkpoint: bool = False


@dataclass(frozen=True)
class LoadedModel:
    """An open_clip model in evaluation mode, and the configuration it was built from."""

    model: Any
    config: dict[str, Any]
    quick_gelu: bool


def load_model(source: ModelSource, *, precision: str, device: torch.device) -> LoadedModel:
    """Build the model, load its weights and check the activation against them.

    Raises:
        ConfigError: an unknown model, tag or precision (the nearest names are given), or a
            ``quick_gelu`` that contradicts the weights.
        EncoderError: the weights do not fit the model or cannot be read.
        EnvironmentFailure: the weights cannot be downloaded.
    """
    if precision not in PRECISIONS:
        raise ConfigError(unknown_name("precision", precision, PRECISIONS))
    open_clip = import_open_clip()
    config = _model_config(open_clip, source)
    quick_gelu = _quick_gelu(open_clip, source, config)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model = open_clip.create_model(
                source.model,
                source.pretrained,
                precision=precision,
                device=device,
                force_quick_gelu=quick_gelu,
                force_preprocess_cfg=_preprocessing_of_file(open_clip, source),
                require_pretrained=True,
                weights_only=not source.trust_checkpoint,
            )
    except Exception as err:  # open_clip passes on the errors of its many loaders
        raise _loading_error(source, err) from err
    return LoadedModel(model.eval().requires_grad_(False), config, quick_gelu)


def load_tokenizer(source: ModelSource, context_length: int) -> Any:
    """Return the model's own tokenizer: ``list[str] -> (B, context_length)`` token ids."""
    return import_open_clip().get_tokenizer(source.model, context_length=context_length)


def _model_config(open_clip: Any, source: ModelSource) -> dict[str, Any]:
    for scheme in (LOCAL_DIR, HF_HUB):
        if source.model.startswith(scheme) and source.pretrained is not None:
            raise ConfigError(
                f"encoder.pretrained is {source.pretrained!r}, but {source.model!r} brings its "
                "own weights; set encoder.pretrained to null"
            )
    if source.model.startswith(LOCAL_DIR):
        return _read_config(Path(source.model.removeprefix(LOCAL_DIR)) / _CONFIG_FILE)
    if source.model.startswith(HF_HUB):
        return _read_config(_download_config(source.model.removeprefix(HF_HUB)))
    models = open_clip.list_models()
    if source.model not in models:
        raise ConfigError(unknown_name("encoder model", source.model, models))
    if source.pretrained is None:
        raise ConfigError(
            f"encoder.pretrained is null, and {source.model!r} comes without weights; give a "
            f"tag ({', '.join(open_clip.list_pretrained_tags_by_model(source.model)[:5])}, ...) "
            "or a checkpoint file"
        )
    tags = open_clip.list_pretrained_tags_by_model(source.model)
    if source.pretrained not in tags and not Path(source.pretrained).is_file():
        message = unknown_name(f"weights for {source.model}", source.pretrained, tags)
        raise ConfigError(f"{message} (nor is it a checkpoint file)")
    config: dict[str, Any] = open_clip.get_model_config(source.model)
    return config


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; an encoder folder holds it beside its weights")
    try:
        config: dict[str, Any] = read_json(path)["model_cfg"]
    except (json.JSONDecodeError, KeyError) as err:
        raise EncoderError(f"{path} is not an open_clip configuration ({err!r})") from err
    return config


def _download_config(repository: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, _CONFIG_FILE))
    except Exception as err:  # network, permission, missing repository: the hub's own errors
        raise EnvironmentFailure(
            f"{_CONFIG_FILE} of {repository!r} cannot be downloaded ({_first_line(err)}); check "
            "the name and the network, or give a local folder as local-dir:FOLDER"
        ) from err


def _quick_gelu(open_clip: Any, source: ModelSource, config: dict[str, Any]) -> bool:
    configured = bool(config.get("quick_gelu", False))
    if source.pretrained is None:
        needed, reason = configured, "the model's configuration"
    elif source.pretrained in open_clip.list_pretrained_tags_by_model(source.model):
        tag = open_clip.get_pretrained_cfg(source.model, source.pretrained)
        needed, reason = bool(tag.get("quick_gelu", False)), f"tag {source.pretrained!r}"
    elif source.quick_gelu is None:
        raise ConfigError(
            f"encoder.quick_gelu must be true or false: the file {source.pretrained} does not say "
            "with which activation it was trained (OpenAI's weights: true; most others: false)"
        )
    else:
        needed, reason = source.quick_gelu, "encoder.quick_gelu"
    if source.quick_gelu not in (None, needed):
        raise ConfigError(f"encoder.quick_gelu is {source.quick_gelu}, but {reason} says {needed}")
    if configured and not needed:
        raise ConfigError(
            f"model {source.model!r} has QuickGELU, but {reason} says otherwise; name the model "
            "without -quickgelu"
        )
    return needed


def _preprocessing_of_file(open_clip: Any, source: ModelSource) -> dict[str, Any] | None:
    """Return the preprocessing that all published weights of a checkpoint file's model share."""
    tags = open_clip.list_pretrained_tags_by_model(source.model)
    if source.pretrained is None or source.pretrained in tags:
        return None
    keys = ("mean", "std", "interpolation", "resize_mode")
    published = [open_clip.get_pretrained_cfg(source.model, tag) for tag in tags]
    constants = {tuple((key, cfg[key]) for key in keys if key in cfg) for cfg in published}
    if len(constants) > 1:
        raise ConfigError(
            f"the published weights of {source.model!r} were trained with {len(constants)} kinds "
            f"of preprocessing, and the file {source.pretrained} does not say with which; put it "
            f"into a folder with an {_CONFIG_FILE} and give local-dir:FOLDER"
        )
    return dict(constants.pop()) if constants else None


def _loading_error(source: ModelSource, err: Exception) -> Exception:
    weights = source.pretrained or source.model
    if any(sign in str(err) for sign in ("Unsupported global", "TorchScript")):
        return EncoderError(
            f"{weights} is more than tensors (a TorchScript archive or pickled objects) and could "
            "run any code; if you trust it, set encoder.trust_checkpoint to true"
        )
    if "download" in str(err).lower():
        return EnvironmentFailure(
            f"the weights {weights!r} of {source.model!r} cannot be downloaded "
            f"({_first_line(err)}); check the network, or give a checkpoint file"
        )
    return EncoderError(f"the weights {weights!r} cannot be loaded: {_first_line(err)}")


def _first_line(err: Exception) -> str:
    logging.getLogger(__name__).debug("while loading a model", exc_info=err)
    return (str(err).strip() or type(err).__name__).splitlines()[0][:200]
