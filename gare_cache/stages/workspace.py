"""Where a project keeps its files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gare_cache.cache.identity import cache_root
from gare_cache.cache.reader import FeatureCache, open_cache
from gare_cache.config import Params, load_params
from gare_cache.data.split import FeatureSplit
from gare_cache.errors import CacheError, FingerprintMismatch
from gare_cache.files import write_json
from gare_cache.own import use_project

# Has the arguments of ``gare_cache.data.split.load_split``.
SplitLoader = Callable[..., FeatureSplit]


@dataclass(frozen=True)
class Workspace:
    """A project and one run of it.

    Attributes:
        project: folder of params.yaml.
        params: the settings.
        outputs: folder of the outputs.
        inputs: folder of manifest and features.json, where other runs share them (a study's); None
            where they lie among the outputs.
    """

    project: Path
    params: Params
    outputs: Path
    inputs: Path | None = None

    @property
    def manifest(self) -> Path:
        """Folder of the manifest's tables."""
        return (self.inputs or self.outputs) / "manifest"

    @property
    def features(self) -> Path:
        """What extraction leaves for the later stages: identities, counts, content digest."""
        return (self.inputs or self.outputs) / "features.json"

    @property
    def run(self) -> Path:
        """Folder of the trained head."""
        return self.outputs / "run"

    @property
    def evaluation(self) -> Path:
        """Folder of metrics and ranks."""
        return self.outputs / "evaluation"

    @property
    def report(self) -> Path:
        """Folder of the report."""
        return self.outputs / "report"

    @property
    def cache_root(self) -> Path:
        """Folder of all feature caches."""
        return cache_root(self.project)

    @property
    def state(self) -> Path:
        """Folder of what must survive between runs and is no output: unfinished trainings.

        A run with shared inputs keeps its own, so that it goes with the run.
        """
        return self.project / ".gare" / "state" if self.inputs is None else self.outputs / "state"

    @property
    def ledger(self) -> Path:
        """The record of all scorings of the test split; shared by all folders of outputs."""
        return self.project / ".gare" / "ledger.jsonl"


def open_workspace(params_file: Path, outputs: Path | None = None) -> Workspace:
    """Read the settings; outputs lie in ``outputs/`` beside them unless another folder is given.

    Modules that lie beside the settings can be imported from then on.

    Raises:
        ConfigError: the settings are faulty.
    """
    project = params_file.parent
    use_project(project)  # first: the settings may name parts that lie there
    return Workspace(project, load_params(params_file), outputs or project / "outputs")


def write_features(
    workspace: Workspace,
    cache: FeatureCache,
    *,
    videos: Mapping[str, int],
    captions: Mapping[str, int | None],
) -> dict[str, Any]:
    """Write ``features.json``: the same features give the same bytes.

    Args:
        workspace: the project.
        cache: the features.
        videos: what became of the manifest's videos.
        captions: what became of its captions.

    Returns:
        The content.
    """
    features = {
        "dataset": workspace.params.dataset.name,
        "folder": cache.folder.name,
        "encoder_id": cache.encoder_id,
        "extraction_id": cache.extraction_id,
        "content_digest": cache.content_digest,
        "dim": cache.layout.dim,
        "max_frames": cache.layout.max_frames,
        "videos": dict(videos),
        "captions": dict(captions),
    }
    write_json(workspace.features, features)
    return features


def open_features(workspace: Workspace) -> tuple[FeatureCache, dict[str, Any]]:
    """Open the cache that ``features.json`` names and check that it still is the same.

    Returns:
        The cache and the content of ``features.json``.

    Raises:
        CacheError: nothing was extracted, or the folder is gone.
        FingerprintMismatch: the folder holds other features than when it was extracted.
    """
    if not workspace.features.is_file():
        raise CacheError(f"{workspace.features} does not exist; run `gare-cache extract` first")
    features = json.loads(workspace.features.read_text(encoding="utf-8"))
    cache = open_cache(workspace.cache_root / features["folder"])
    for name, found in (
        ("extraction_id", cache.extraction_id),
        ("content_digest", cache.content_digest),
    ):
        if found != features[name]:
            raise FingerprintMismatch(
                f"{cache.folder} has {name} {found[:12]}, but {workspace.features} was written for "
                f"{features[name][:12]}; run `gare-cache extract` again"
            )
    return cache, features
