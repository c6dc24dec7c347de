"""Paths of a project's files and folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gare_cache.cache.identity import cache_root
from gare_cache.config import Params, load_params
from gare_cache.own import use_project


@dataclass(frozen=True)
class Workspace:
    """Settings and paths of a project and one of its runs.

    Attributes:
        project: folder of params.yaml.
        params: the settings.
        outputs: folder of the outputs.
        inputs: folder of manifest and features.json if several runs share them, as in a study; None
            if they are among the outputs.
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
        """Path of features.json, which extraction writes: identities, counts, content digest."""
        return (self.inputs or self.outputs) / "features.json"

    @property
    def stopped(self) -> Path:
        """Path of the record of an extraction that too many failures stopped."""
        return self.features.with_name("extraction_stopped.json")

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
        """Folder of state that survives between runs but is not an output: unfinished trainings.

        A run with shared inputs has a state folder of its own, which is removed with the run.
        """
        return self.project / ".gare" / "state" if self.inputs is None else self.outputs / "state"

    @property
    def ledger(self) -> Path:
        """Path of the test ledger, shared by all output folders."""
        return self.project / ".gare" / "ledger.jsonl"


def open_workspace(params_file: Path, outputs: Path | None = None) -> Workspace:
    """Read the settings; outputs go to ``outputs/`` beside them unless another folder is given.

    Modules beside the settings become importable.

    Raises:
        ConfigError: the settings are invalid.
    """
    project = params_file.parent
    use_project(project)  # first, because the settings may name custom parts defined there
    return Workspace(project, load_params(params_file), outputs or project / "outputs")
