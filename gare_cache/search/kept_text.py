"""The encoder's text tower, kept in the project: a query need not load the whole encoder.

open_clip imports torchvision and transformers, which takes longer than a search. The tower is kept
in one file of safetensors, which is memory-mapped: of the token embedding only the rows of a
query's tokens are in use. The file's record says what the encoder was loaded from.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gare_cache.cache.chunks import checksum
from gare_cache.encoders.clip_text import TextShape, load_tower
from gare_cache.encoders.encoder import Encoder
from gare_cache.encoders.loading import ModelSource, local_files
from gare_cache.encoders.sentence_encoder import TextEncoder
from gare_cache.encoders.settings import EncoderSettings
from gare_cache.encoders.tokenizers import plain_tokenizer
from gare_cache.errors import UnreadableFile
from gare_cache.files import canonical_digest, parse_own_json, replacing, sealed, unsealed

_FILE = "text_tower.safetensors"
_RECORD = "record"
_FORMAT = 1
_PACKAGES = ("gare-cache", "open_clip_torch", "torch")
# Largest relative difference from the encoder's own features.
_TOLERANCE = 1e-6
_PROBES = (
    "a dog",
    "Two people talk, while a red car drives past them in the rain!",
    "naïve café: 12 x 7 = 84 &amp; more  of   it's",
    "a man in a long black coat walks slowly along the empty beach at night " * 12,
)


@dataclass(frozen=True)
class KeptText:
    """The text tower of a project's encoder, kept in a folder or to be kept there.

    Attributes:
        folder: where its file lies.
        stamp: what the encoder is loaded from, see ``encoder_stamp``.
        encoder_id: identity of the encoder of the gallery's features.
        device: where the tower runs.
    """

    folder: Path
    stamp: str
    encoder_id: str
    device: torch.device

    @property
    def is_refused(self) -> bool:
        """Whether the file says that the tower of this encoder cannot be kept."""
        record = self._record()
        return record is not None and record["shape"] is None

    def load(self) -> TextEncoder | None:
        """Return the kept tower; None if there is none of this encoder, or its file is damaged."""
        record = self._record()
        if record is None or record["shape"] is None:
            return None
        try:
            with safe_open(self._file, framework="pt") as opened:
                tensors = opened.get_tensors()
        except (OSError, SafetensorError):
            return None
        whole = all(value.dtype == torch.float32 for value in tensors.values())
        if not whole or _checksums(tensors) != record["checksums"]:
            return None
        return self._text_encoder(record, tensors)

    def keep(self, encoder: Encoder) -> None:
        """Write an encoder's text tower, if a tower of CLIP's kind gives the same features.

        Of another encoder the file says that nothing can be kept: of Hugging Face's and SigLIP's
        towers, half precision, other tokenizers.

        Args:
            encoder: that of the stamp.

        Raises:
            EnvironmentFailure: the disk fails.
        """
        record: dict[str, Any] = {
            "stamp": self.stamp,
            "encoder_id": encoder.encoder_id,
            "name": encoder.name,
            "dim": encoder.dim,
            "context_length": encoder.context_length,
            "shape": None,
        }
        tensors: dict[str, Tensor] = {}
        parts = encoder.text_parts()
        if parts is not None:
            shape, found = parts
            tensors = {name: value.cpu().contiguous() for name, value in found.items()}
            record |= {"shape": asdict(shape), "checksums": _checksums(tensors)}
            if not _agrees(self._text_encoder(record, tensors), encoder):
                record["shape"], tensors = None, {}
        content = save(tensors, metadata={_RECORD: json.dumps(sealed(record))})
        with replacing(self._file) as partial:
            partial.write_bytes(content)

    @property
    def _file(self) -> Path:
        return self.folder / _FILE

    def _record(self) -> dict[str, Any] | None:
        """Return the file's record; None if it is of another encoder, missing or damaged."""
        try:
            with safe_open(self._file, framework="pt") as opened:
                text = (opened.metadata() or {}).get(_RECORD, "")
            record: dict[str, Any] = unsealed(self._file, parse_own_json(self._file, text))
        except (OSError, SafetensorError, UnreadableFile):
            return None
        wanted = (self.stamp, self.encoder_id)
        return record if (record.get("stamp"), record.get("encoder_id")) == wanted else None

    def _text_encoder(
        self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> TextEncoder:
        return TextEncoder(
            name=record["name"],
            encoder_id=record["encoder_id"],
            dim=record["dim"],
            context_length=record["context_length"],
            _tower=load_tower(TextShape(**record["shape"]), tensors).to(self.device),
            _tokenizer=plain_tokenizer(),
            _device=self.device,
        )


def encoder_stamp(source: ModelSource, settings: EncoderSettings, device: torch.device) -> str:
    """Return the digest of what an encoder is loaded from: settings, local files and packages.

    Of a local file its size and time of modification count, as they do for videos.
    """
    stats = {path.name: path.stat() for path in local_files(source)}
    return canonical_digest(
        {
            "format": _FORMAT,
            "settings": settings.model_dump(),
            "files": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()},
            "packages": {name: _version(name) for name in _PACKAGES},
            "device": device.type,
        }
    )


def _agrees(kept: TextEncoder, encoder: Encoder) -> bool:
    """Return whether tokens, features and word tokens of some sentences are the encoder's."""
    tokens = encoder.tokenize(_PROBES)
    if not torch.equal(kept.tokenize(_PROBES), tokens):
        return False
    if kept.count_cut(_PROBES) != encoder.count_cut(_PROBES):
        return False
    pairs = [
        (kept.encode_tokens(tokens[:2]), encoder.encode_tokens(tokens[:2])),
        (kept.encode_words(tokens), encoder.encode_words(tokens)),
    ]
    return all(
        found.shape == expected.shape
        and bool((found - expected).norm() <= _TOLERANCE * expected.norm())
        for found, expected in pairs
    )


def _checksums(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: checksum(value.numpy()) for name, value in tensors.items()}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
