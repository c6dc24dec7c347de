"""Where a project keeps its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gare_cache.cache.identity import cache_root
from gare_cache.config import Params, load_params
from gare_cache.own import use_project


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
