"""Features of a study's variants: their location, their completeness, their extraction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gare_cache.cache.exchange.identity import is_imported
from gare_cache.cache.loading import expected_items
from gare_cache.cache.reader import FeatureCache
from gare_cache.cache.rows import ID
from gare_cache.cache.schema import KINDS
from gare_cache.config import Params
from gare_cache.errors import CacheError, GareCacheError
from gare_cache.files import canonical_digest
from gare_cache.manifest.tables import read_manifest
from gare_cache.project.features import open_features
from gare_cache.project.paths import (
    FEATURE_SECTIONS,
    PARAMS_FILE,
    Workspace,
    other_features,
)
from gare_cache.project.progress import say
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.training.setup import listed_digests

_SAMPLING = {
    "sampler": "sampler",
    "max_frames": "max_frames_cached",
    "patch_tokens": "patch_tokens",
    "word_tokens": "word_tokens",
}


@dataclass(frozen=True)
class VariantFeatures:
    """Manifest and features shared by some variants.

    Attributes:
        inputs: folder of the manifest and of features.json.
        listed: digests of the listed videos and captions, by split.
        features: content of features.json.
    """

    inputs: Path
    listed: Mapping[str, str]
    features: Mapping[str, Any]


def inputs_folder(project: Path, outputs: Path, params: Params) -> Path:
    """Return the folder of a variant's manifest and features.json.

    Variants with the data set, encoder and extraction of the project's params.yaml use the
    project's outputs; others have a separate folder under ``.gare/features/``.

    Args:
        project: folder of the project.
        outputs: its folder of outputs.
        params: settings of the variant.
    """
    if (project / PARAMS_FILE).is_file() and not other_features(project, params):
        return outputs
    sections = params.model_dump(include=set(FEATURE_SECTIONS))
    return project / ".gare" / "features" / canonical_digest(sections)[:12]


def open_all_features(
    spaces: Iterable[tuple[str, Workspace]], *, study_file: Path, make: bool, device: str
) -> dict[Path, VariantFeatures]:
    """Open the features of all variants, and extract missing ones if wanted.

    Args:
        spaces: name and workspace of every variant, with ``inputs`` set.
        study_file: for the message.
        make: run prepare and extract if features are missing or incomplete.
        device: where the encoder runs.

    Returns:
        By folder of the inputs.

    Raises:
        CacheError: features are missing, incomplete or of other settings, and ``make`` is False.
    """
    opened: dict[Path, VariantFeatures] = {}
    for name, space in spaces:
        inputs = space.inputs or space.outputs
        if inputs in opened:
            continue
        try:
            opened[inputs] = _open(space, inputs)
        except GareCacheError as err:
            if not make:
                raise CacheError(_explain(name, space, study_file, err)) from err
            say(f"features of variant {name!r}")
            of_inputs = Workspace(space.project, space.params, inputs)
            prepare(of_inputs)
            extract(of_inputs, device=device)
            opened[inputs] = _open(space, inputs)
    return opened


def _open(space: Workspace, inputs: Path) -> VariantFeatures:
    manifest = read_manifest(space.manifest)
    cache, features = open_features(space)
    _require_sampling(space, cache)
    for kind in KINDS:
        cache.rows(kind, expected_items(cache, manifest, kind)[ID[kind]].to_pylist())
    return VariantFeatures(inputs, listed_digests(manifest), features)


def _require_sampling(space: Workspace, cache: FeatureCache) -> None:
    """Raise an error if the settings changed after the cache was extracted."""
    if is_imported(cache):
        return
    sampling = cache.attributes["identity"]["sampling"]
    for name, key in _SAMPLING.items():
        value = getattr(space.params.extract, key)
        if sampling[name] != value:
            raise CacheError(
                f"{cache.folder} was extracted with extract.{key} {sampling[name]!r}, the settings "
                f"say {value!r}"
            )


def _explain(name: str, space: Workspace, study_file: Path, err: GareCacheError) -> str:
    remedy = (
        "import them with `gare-cache import-features`"
        if space.params.encoder is None
        else f"run `gare-cache ablate {study_file} --extract`, which extracts what is missing"
    )
    return f"variant {name!r} has no complete features ({err}); {remedy}"
