"""Paths of a project's files and folders."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gare_cache.cache.identity import Owner, cache_root, original_project, project_owner
from gare_cache.config import (
    Params,
    load_params,
    parse_params,
    read_values,
    resolve,
    with_changes,
)
from gare_cache.errors import ConfigError
from gare_cache.files import read_json
from gare_cache.locks import alone
from gare_cache.own import own_names, use_project
from gare_cache.project.progress import say

PARAMS_FILE = "params.yaml"
ENCODER_CONFIG = "open_clip_config.json"
# Sections of params.yaml that decide manifest and cache.
FEATURE_SECTIONS = ("dataset", "encoder", "extract")


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
    def frames(self) -> Path:
        """Path of frames.json, the record of the cache of frames."""
        return self.features.with_name("frames.json")

    @property
    def stopped(self) -> Path:
        """Path of the record of an extraction that too many failures stopped."""
        return self.features.with_name("extraction_stopped.json")

    @property
    def run(self) -> Path:
        """Folder of the trained head."""
        return self.outputs / "run"

    @property
    def cost(self) -> Path:
        """Path of what ``train`` cost.

        It is no part of ``run``, whose bytes are those of every repetition, as DVC expects.
        """
        return self.outputs / "cost.json"

    def cost_of(self, run_key: str) -> dict[str, Any]:
        """Return what ``cost`` holds of a run; empty if it holds none, or another run's."""
        cost: dict[str, Any] = read_json(self.cost) if self.cost.is_file() else {}
        return cost if cost.get("run_key") == run_key else {}

    @property
    def encoder(self) -> Path:
        """Folder of a finetuned encoder, which stands for the encoder of the settings."""
        return self.outputs / "encoder"

    @property
    def evaluation(self) -> Path:
        """Folder of metrics and ranks."""
        return self.outputs / "evaluation"

    @property
    def report(self) -> Path:
        """Folder of the report."""
        return self.outputs / "report"

    def locate(self, path: str) -> Path:
        """Return a path of the settings, in the original project if only that one has it.

        A temporary checkout of DVC has what git tracks alone, for example no videos.
        """
        here, there = (resolve(of, path) for of in (self.project, self.original))
        return there if there.exists() and not here.exists() else here

    @property
    def original(self) -> Path:
        """Folder of the project, or of the one that a temporary checkout of DVC was made from."""
        return original_project(self.project)

    @property
    def cache_root(self) -> Path:
        """Folder of all feature caches."""
        return cache_root(self.project)

    @property
    def owner(self) -> Owner:
        """The project as an owner of caches."""
        return project_owner(self.original)

    @property
    def state(self) -> Path:
        """Folder of state that survives between runs but is not an output: unfinished trainings.

        A run with shared inputs has a state folder of its own, which is removed with the run.
        """
        return self.project / ".gare" / "state" if self.inputs is None else self.outputs / "state"

    def alone(self, doing: str, place: Path | None = None) -> AbstractContextManager[None]:
        """Hold the outputs, or another folder, against other processes; see ``locks.alone``."""
        return alone(self.project / ".gare" / "locks", place or self.outputs, doing)

    @property
    def ledger(self) -> Path:
        """Path of the test ledger, shared by all output folders and by DVC's checkouts."""
        return self.original / ".gare" / "ledger.jsonl"


def open_workspace(
    params_file: Path,
    outputs: Path | None = None,
    *,
    changes: Mapping[str, Any] | None = None,
    borrow: bool = False,
    trust: bool = False,
) -> Workspace:
    """Read the settings; outputs go to ``outputs/`` beside them unless another folder is given.

    Modules beside the settings become importable if the settings name custom parts.

    Args:
        params_file: the settings.
        outputs: folder of the outputs. An encoder in it, which ``finetune`` wrote, stands for that
            of the settings.
        changes: dotted setting -> value in place of the file's.
        borrow: whether a folder of outputs without manifest and features reads those of the
            project's ``outputs/``, which is said; for whoever writes neither.
        trust: import the custom parts that a run names and the settings do not.

    Raises:
        ConfigError: the settings are invalid, or they are not those of the features to borrow.
    """
    project = params_file.parent
    values = with_changes(read_values(params_file), changes or {})
    if outputs is not None and (outputs / "encoder" / ENCODER_CONFIG).is_file():
        values = with_changes(values, own_encoder(outputs / "encoder"))
    # First, because checking the settings imports the custom normalisers that they name.
    use_project(project, own_names(values), trust=trust)
    params = parse_params(values, where=str(params_file))
    workspace = Workspace(project, params, outputs or project / "outputs")
    lender = Workspace(project, params, project / "outputs")
    if not borrow or _has_inputs(workspace) or not _has_inputs(lender):
        return workspace
    differing = other_features(project, params)
    if differing:
        raise ConfigError(
            f"{workspace.outputs} has no manifest and features, and those of {lender.outputs} are "
            f"of other settings ({', '.join(differing)} of {params_file} differ from those of "
            f"{project / PARAMS_FILE}); run prepare and extract with -p {params_file} "
            f"-o {workspace.outputs} first"
        )
    say(f"{workspace.outputs} has no manifest and features; those of {lender.outputs} are used")
    return Workspace(project, params, workspace.outputs, inputs=lender.outputs)


def with_own_encoder(workspace: Workspace) -> Workspace:
    """Return the workspace with the encoder of its folder of outputs, if there is one."""
    if not (workspace.encoder / ENCODER_CONFIG).is_file():
        return workspace
    values = with_changes(workspace.params.model_dump(), own_encoder(workspace.encoder))
    params = parse_params(values, where=str(workspace.encoder))
    return replace(workspace, params=params)


def own_encoder(folder: Path) -> dict[str, Any]:
    """Return the settings that name a folder's encoder, such as a finetuned one's."""
    return {
        "encoder.model": f"local-dir:{folder.absolute()}",
        "encoder.pretrained": None,
        "encoder.quick_gelu": None,
        "encoder.trust_checkpoint": False,
    }


def other_features(project: Path, params: Params) -> list[str]:
    """Return the sections that give settings other features than the project's params.yaml does.

    Without that file there is nothing to compare with, and the list is empty.
    """
    file = project / PARAMS_FILE
    if not file.is_file():
        return []
    of_project = load_params(file)
    return [key for key in FEATURE_SECTIONS if getattr(of_project, key) != getattr(params, key)]


def _has_inputs(workspace: Workspace) -> bool:
    return any(p.exists() for p in (workspace.manifest, workspace.features, workspace.stopped))
