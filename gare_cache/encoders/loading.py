"""Load an open_clip model by name; whatever could silently be wrong is checked or must be given."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode

from gare_cache.encoders.checkpoint import find_checkpoint, read_checkpoint
from gare_cache.encoders.hub import HF_HUB, LOCAL_DIR, first_line, hub_files, tag_weights
from gare_cache.encoders.open_clip_import import import_open_clip
from gare_cache.encoders.text_tower import is_masked, text_tower
from gare_cache.encoders.tokenizers import require_transformers
from gare_cache.encoders.weights import load_weights
from gare_cache.errors import (
    ConfigError,
    EncoderError,
    EnvironmentFailure,
    GareCacheError,
    unknown_name,
)
from gare_cache.files import read_json

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CONFIG_FILE = "open_clip_config.json"
_ARRAYS = (".npz", ".npy")  # big_vision's, which numpy reads without pickles
_RANDOM = (
    *(torch.Tensor.normal_, torch.Tensor.uniform_),
    *(init.normal_, init.uniform_, init.trunc_normal_),
    *(init.kaiming_normal_, init.kaiming_uniform_, init.xavier_normal_, init.xavier_uniform_),
)


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
    """An open_clip model in evaluation mode.

    Attributes:
        model: the model.
        config: the configuration it was built from.
        quick_gelu: whether it computes QuickGELU.
        has_weights: False for a model with random weights, made to estimate work.
        notes: what was renamed, left out or resized in its weights.
    """

    model: Any
    config: dict[str, Any]
    quick_gelu: bool
    has_weights: bool
    notes: tuple[str, ...]


def load_model(
    source: ModelSource, *, precision: str, device: torch.device, download: bool = True
) -> LoadedModel:
    """Build the model, load its weights and check the activation against them.

    Args:
        source: model and weights.
        precision: key of ``PRECISIONS``.
        device: where the model runs.
        download: whether missing weights are downloaded; otherwise they stay random.

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
    preprocessing = _preprocessing(open_clip, source)
    require_transformers(config, source.model)
    try:
        path = _weights_file(open_clip, source, download=download)
    except EnvironmentFailure:
        if download:
            raise
        path = None
    complete = path is not None and path.suffix not in _ARRAYS  # ``load_weights`` sees to it
    with Unfilled() if complete else nullcontext():
        model = _build(
            open_clip,
            source,
            config,
            precision=precision,
            device=device,
            force_quick_gelu=quick_gelu,
            force_preprocess_cfg=preprocessing,
        )
    if is_masked(model):  # open_clip casts only some layers of Hugging Face's towers
        text_tower(model).to(PRECISIONS[precision])
    notes = [] if path is None else _fill(open_clip, model, path, trust=source.trust_checkpoint)
    model = model.eval().requires_grad_(False)
    return LoadedModel(model, config, quick_gelu, path is not None, tuple(notes))


def local_files(source: ModelSource) -> list[Path]:
    """Return the files that the settings name: those of an encoder's folder, or a checkpoint."""
    if source.model.startswith(LOCAL_DIR):
        folder = Path(source.model.removeprefix(LOCAL_DIR))
        return sorted(path for path in folder.glob("*") if path.is_file())
    checkpoint = Path(source.pretrained or "")
    return [checkpoint] if checkpoint.is_file() else []


def _build(open_clip: Any, source: ModelSource, config: dict[str, Any], **options: Any) -> Any:
    """Build the model without its weights; nothing is downloaded but a text tower's config."""
    name = source.model
    if name.startswith(HF_HUB):  # the folder of the downloaded configuration
        name = f"{LOCAL_DIR}{_download_config(name.removeprefix(HF_HUB)).parent}"
    text = config.get("text_cfg", {})
    tower = text.get("hf_model_name")
    if tower and name.startswith(LOCAL_DIR):
        inside = Path(name.removeprefix(LOCAL_DIR)) / tower
        if (inside / "config.json").is_file():  # the text tower's configuration in the folder
            tower = str(inside)
            options["text_cfg"] = {**text, "hf_model_name": tower, "hf_model_pretrained": False}
    from_hub = (
        hub_files(f"the configuration of the text tower {tower!r}")
        if tower and not Path(tower).is_dir()
        else nullcontext()
    )
    try:
        with from_hub, _without_root_log(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return open_clip.create_model(
                name, load_weights=False, pretrained_text=False, **options
            )
    except (GareCacheError, torch.OutOfMemoryError):
        raise
    except Exception as err:  # open_clip passes on the errors of its many model libraries
        raise EncoderError(
            f"the model {source.model!r} cannot be built: {first_line(err)}"
        ) from err


class Unfilled(TorchFunctionMode):
    """Leave parameters as they are allocated: random numbers for a CLIP take a second or two."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _RANDOM:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _weights_file(open_clip: Any, source: ModelSource, *, download: bool) -> Path:
    if source.model.startswith(LOCAL_DIR):
        return find_checkpoint(Path(source.model.removeprefix(LOCAL_DIR)))
    if source.model.startswith(HF_HUB):
        with hub_files(f"the weights of {source.model!r}", download=download):
            name = source.model.removeprefix(HF_HUB)
            return Path(open_clip.pretrained.download_pretrained_from_hf(name))
    pretrained = str(source.pretrained)
    if pretrained in open_clip.list_pretrained_tags_by_model(source.model):
        return tag_weights(open_clip, source.model, pretrained, download=download)
    return Path(pretrained)


def _fill(open_clip: Any, model: Any, path: Path, *, trust: bool) -> list[str]:
    if path.suffix in _ARRAYS:
        try:
            open_clip.load_checkpoint(model, str(path))
        except Exception as err:  # KeyError, ValueError, AssertionError ... of the conversion
            raise EncoderError(
                f"the weights {str(path)!r} cannot be loaded: {first_line(err)}"
            ) from err
        return []
    tensors, notes = read_checkpoint(path, trust=trust)
    return notes + load_weights(model, tensors, path)


@contextmanager
def _without_root_log() -> Iterator[None]:
    """Keep what open_clip writes to the root logger, that weights are random, off the screen."""
    root = logging.getLogger()

    def drop(record: logging.LogRecord) -> bool:
        return False

    root.addFilter(drop)
    try:
        yield
    finally:
        root.removeFilter(drop)


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
    if source.pretrained not in tags and Path(source.pretrained).is_dir():
        raise ConfigError(
            f"encoder.pretrained is the folder {source.pretrained}; name a checkpoint file in it, "
            f"or, if it holds an {_CONFIG_FILE}, set encoder.model to local-dir:FOLDER"
        )
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

    with hub_files(f"{_CONFIG_FILE} of {repository!r}"):
        return Path(hf_hub_download(repository, _CONFIG_FILE))


def _quick_gelu(open_clip: Any, source: ModelSource, config: dict[str, Any]) -> bool:
    configured = bool(config.get("quick_gelu", False))
    if source.pretrained is None:
        needed, reason = configured, "the model's configuration"
    elif source.pretrained in open_clip.list_pretrained_tags_by_model(source.model):
        tag = open_clip.get_pretrained_cfg(source.model, source.pretrained)
        needed, reason = bool(tag.get("quick_gelu", configured)), f"tag {source.pretrained!r}"
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


def _preprocessing(open_clip: Any, source: ModelSource) -> dict[str, Any] | None:
    """Return a tag's preprocessing; for a file that which all of its model's tags share."""
    tags = open_clip.list_pretrained_tags_by_model(source.model)
    if source.pretrained is None:
        return None
    keys = ("mean", "std", "interpolation", "resize_mode")
    if source.pretrained in tags:
        tag = open_clip.get_pretrained_cfg(source.model, source.pretrained)
        return {key: tag[key] for key in keys if key in tag}
    published = [open_clip.get_pretrained_cfg(source.model, tag) for tag in tags]
    constants = {tuple((key, cfg[key]) for key in keys if key in cfg) for cfg in published}
    if len(constants) > 1:
        raise ConfigError(
            f"the published weights of {source.model!r} were trained with {len(constants)} kinds "
            f"of preprocessing, and the file {source.pretrained} does not say with which; put it "
            f"into a folder with an {_CONFIG_FILE} and give local-dir:FOLDER"
        )
    return dict(constants.pop()) if constants else None
