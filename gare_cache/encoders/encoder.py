"""The frozen encoder: pooled CLIP features of frames and captions."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gare_cache.encoders.clip_text import TextShape, split_tower
from gare_cache.encoders.images import to_images
from gare_cache.encoders.loading import PRECISIONS, ModelSource, load_model
from gare_cache.encoders.open_clip_import import import_open_clip
from gare_cache.encoders.preprocessing import Preprocessing, preprocessing_of
from gare_cache.encoders.text_tower import (
    can_cut,
    encode_cut,
    head_start,
    is_masked,
    text_context,
    text_tower,
)
from gare_cache.encoders.tokenizers import (
    Tokenizing,
    is_plain,
    load_tokenizer,
    tokenize,
    tokenizer_notes,
)
from gare_cache.encoders.tokens import count_patches, frame_tokens, require_words, word_tokens
from gare_cache.errors import ConfigError
from gare_cache.files import canonical_digest

_PROBE_CAPTIONS = ("a dog", "two people talk while a red car drives past them in the rain")


@dataclass(frozen=True)
class Encoder(Tokenizing):
    """A frozen CLIP with its own preprocessing, tokenizer and identity.

    Attributes:
        name: name of the model, as given in the settings.
        identity: what the features depend on: model configuration, digest of the weights,
            QuickGELU, preprocessing, precision, text context.
        dim: width D of the features.
        context_length: maximum number of tokens per caption, including start and end.
        cuts_text: whether captions are encoded only up to the length of the longest in the batch.
        preprocessing: how frames become the model's input; ``shrink`` may run in a worker.
        has_weights: False if the weights are random, for an estimate of the work.
        notes: what was changed in the weights to fit the model, one sentence each.
    """

    name: str
    identity: dict[str, Any]
    dim: int
    context_length: int
    cuts_text: bool
    preprocessing: Preprocessing
    has_weights: bool
    notes: tuple[str, ...]
    _model: Any
    _tokenizer: Any
    _device: torch.device
    _dtype: torch.dtype

    @property
    def model(self) -> Any:
        """The open_clip model, frozen and in evaluation mode."""
        return self._model

    @property
    def encoder_id(self) -> str:
        """SHA-256 (hex) of the identity."""
        return canonical_digest(self.identity)

    def preprocess(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        """Resize, crop and normalise frames; ``exact`` equals the model's own transform.

        Args:
            frames: (F, H, W, 3) RGB.

        Returns:
            (F, 3, height, width) float32 on the encoder's device.
        """
        return self.to_images(self.preprocessing.shrink(frames))

    @torch.inference_mode()
    def to_images(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """Finish the preprocessing that ``preprocessing.shrink`` has begun.

        Args:
            pixels: (F, H, W, 3) uint8 as ``shrink`` returns them.

        Returns:
            As ``preprocess``.
        """
        tensor = torch.from_numpy(pixels)
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()  # otherwise the copy would wait for the previous batch
        return to_images(tensor.to(self._device, non_blocking=True), self.preprocessing)

    @torch.inference_mode()
    def encode_frames(self, images: Tensor) -> Tensor:
        """Encode preprocessed frames.

        Args:
            images: (B, 3, height, width) float32.

        Returns:
            (B, D) float32 on the encoder's device, possibly still being computed there: projected
            CLS features, not normalised.
        """
        images = images.to(self._device, self._dtype)
        return torch.as_tensor(self._model.encode_image(images)).float()

    @torch.inference_mode()
    def encode_frame_tokens(self, images: Tensor) -> Tensor:
        """Encode preprocessed frames and keep the patch tokens.

        Args:
            images: (B, 3, height, width) float32.

        Returns:
            (B, 1 + P, D) float32 on the encoder's device: the frame's feature, then its patches.
        """
        return frame_tokens(self._model, images.to(self._device, self._dtype)).float()

    @torch.inference_mode()
    def count_patches(self) -> int:
        """Check that the model provides patch tokens; return their number per frame.

        Raises:
            ConfigError: they do not reproduce the frame's feature.
        """
        generator = torch.Generator().manual_seed(0)
        images = torch.randn((2, 3, *self.preprocessing.size), generator=generator)
        images = images.to(self._device, self._dtype)
        return count_patches(self._model, images, name=self.name, dtype=self._dtype)

    @torch.inference_mode()
    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Encode tokenized captions.

        Args:
            tokens: (B, context_length) ids.

        Returns:
            (B, D) float32 on the CPU, pooled features (EOT for CLIP), not normalised.
        """
        tokens = tokens.to(self._device)
        if self.cuts_text:
            return encode_cut(text_tower(self._model), tokens).float().cpu()
        return torch.as_tensor(self._model.encode_text(tokens)).float().cpu()

    @torch.inference_mode()
    def encode_words(self, tokens: Tensor) -> Tensor:
        """Encode tokenized captions and keep the word tokens.

        Args:
            tokens: (B, context_length) ids.

        Returns:
            (B, W, D) float32 on the CPU, W at least the longest caption; the token at EOT (the
            largest id) is the caption's feature, later tokens are meaningless.
        """
        tokens = tokens.to(self._device)
        return word_tokens(self._model, tokens, cut=self.cuts_text).float().cpu()

    @torch.inference_mode()
    def require_words(self) -> None:
        """Check that the model provides word tokens.

        Raises:
            ConfigError: they do not reproduce the caption's feature.
        """
        tokens = self.tokenize(_PROBE_CAPTIONS).to(self._device)
        require_words(self._model, tokens, cut=self.cuts_text, name=self.name, dtype=self._dtype)

    def text_parts(self) -> tuple[TextShape, dict[str, Tensor]] | None:
        """Return shape and weights of the text tower; None if it is not of CLIP's kind in fp32.

        CLIP's kind is causal, pooled at EOT, and has CLIP's tokenizer; see ``ClipText``.
        """
        if not self.cuts_text or self._dtype != torch.float32 or not is_plain(self._tokenizer):
            return None
        return split_tower(text_tower(self._model))

    def head_start(self) -> dict[str, Tensor]:
        """Return the tensors that heads start from, see ``text_tower.head_start``."""
        return head_start(self._model, dim=self.dim)


def load_encoder(
    source: ModelSource,
    *,
    precision: str = "fp32",
    device: torch.device | None = None,
    context_length: int | None = None,
    preprocess: str = "exact",
    download: bool = True,
) -> Encoder:
    """Load a model with its tokenizer, preprocessing and identity.

    Args:
        source: model and weights.
        precision: ``fp32``, ``bf16`` or ``fp16``; part of the identity.
        device: where to run; None is the CPU.
        context_length: maximum number of tokens per caption; None takes the model's context.
        preprocess: ``exact`` or ``device``, see ``Preprocessing``; part of the identity.
        download: whether missing weights are downloaded; otherwise they stay random, and
            ``has_weights`` is False.

    Raises:
        ConfigError: unknown names, or a context longer than the model's.
        EncoderError: the weights cannot be loaded.
        EnvironmentFailure: the weights cannot be downloaded.
    """
    device = device or torch.device("cpu")
    loaded = load_model(source, precision=precision, device=device, download=download)
    model = loaded.model
    configured = loaded.config.get("text_cfg", {}).get("context_length")
    whole, most = text_context(model, configured)
    tokenizer = load_tokenizer(source.model, loaded.config, whole)
    tokens = tokenize(tokenizer, _PROBE_CAPTIONS, context_length=whole, name=source.model)
    notes = tokenizer_notes(tokenizer, tokens, model, name=source.model)
    with torch.inference_mode():
        cuts_text = can_cut(model, tokens.to(device))
    context = _context_length(
        source, context_length, whole, most=most, free=cuts_text or is_masked(model)
    )
    open_clip = import_open_clip()
    constants = open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg)
    identity = {
        "model_config": loaded.config,
        "weights_sha256": weights_digest(model),
        "quick_gelu": loaded.quick_gelu,
        "preprocess": {**asdict(constants), "kind": preprocess},
        "precision": precision,
        "context_length": context,
    }
    return Encoder(
        name=source.model,
        identity=identity,
        dim=int(loaded.config["embed_dim"]),
        context_length=context,
        cuts_text=cuts_text,
        preprocessing=preprocessing_of(constants, preprocess),
        has_weights=loaded.has_weights,
        notes=(*loaded.notes, *notes),
        _model=model,
        _tokenizer=tokenizer,
        _device=device,
        _dtype=PRECISIONS[precision],
    )


def weights_digest(model: torch.nn.Module) -> str:
    """Return the SHA-256 of all weights by name, independent of the file that held them."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{name}:{array.dtype}:{tuple(array.shape)};".encode())
        digest.update(array.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _context_length(
    source: ModelSource, asked: int | None, whole: int, *, most: int | None, free: bool
) -> int:
    if asked is None or asked == whole:
        return whole
    if not free:
        raise ConfigError(
            f"encoder.context_length is {asked}, but the text tower of {source.model!r} needs its "
            f"whole context of {whole}; set it to null"
        )
    if asked < 3 or (most is not None and asked > most):
        allowed = "3 or more" if most is None else f"3 to {most}"
        raise ConfigError(f"encoder.context_length is {asked}; {source.model!r} allows {allowed}")
    return asked
