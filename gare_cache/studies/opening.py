"""Open a study: read its file, expand it to variants, open their features, list the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from gare_cache.config import read_values, resolve
from gare_cache.errors import ConfigError
from gare_cache.finetuning.identity import finetuning_identity, finetuning_training, key_of_run
from gare_cache.own import own_names, require_trusted, split_own, use_project
from gare_cache.presets import PRESETS, project_files
from gare_cache.project.paths import Workspace
from gare_cache.reproducibility import resolve_device
from gare_cache.studies.expansion import Variant, expand
from gare_cache.studies.features import VariantFeatures, inputs_folder, open_all_features
from gare_cache.studies.runs import RunTask, is_begun
from gare_cache.studies.study import Study, read_study, with_settings
from gare_cache.training.setup import Trained, run_key, training_identity

_PARAMS = "params.yaml"


@dataclass(frozen=True)
class OpenStudy:
    """A study with its variants, run tasks and features.

    Attributes:
        study: content of the study file.
        file: path of the study file.
        project: folder of the project.
        folder: folder of the results.
        base: content of the base settings.
        variants: the rows of the study.
        tasks: one per run, seed by seed, so that all rows fill up together.
        features: by folder of the inputs.
    """

    study: Study
    file: Path
    project: Path
    folder: Path
    base: Mapping[str, Any]
    variants: tuple[Variant, ...]
    tasks: tuple[RunTask, ...]
    features: Mapping[Path, VariantFeatures]


def open_study(
    study_file: Path,
    *,
    outputs: Path | None,
    device: str,
    extract: bool = False,
    settings: Sequence[str] = (),
    trust: bool = False,
    batched: bool = True,
) -> OpenStudy:
    """Read a study, expand it and open its features.

    A run that was begun or finished as part of a batched program is the study's unless one trained
    alone was, or ``batched`` is False.

    Raises:
        ConfigError: the study or a setting is wrong, or it names a custom part that neither
            params.yaml nor, unless ``trust``, the project's folder has.
        CacheError: features are missing and ``extract`` is False.
    """
    resolve_device(device)
    study = with_settings(read_study(study_file), settings)
    project = _project(study_file)
    base = _base_settings(study, project)
    _use_project(study, study_file, project, base, trust=trust)
    try:
        variants = expand(study, base)
    except ConfigError as err:
        raise ConfigError(f"{study_file}: {err}") from err
    outputs = outputs or project / "outputs"
    inputs = {v.name: inputs_folder(project, outputs, v.params) for v in variants}
    spaces = [(v.name, Workspace(project, v.params, outputs, inputs[v.name])) for v in variants]
    features = open_all_features(spaces, study_file=study_file, make=extract, device=device)
    tasks = [
        _task(project, variant, seed, features[inputs[variant.name]], device, batched=batched)
        for seed in study.seeds
        for variant in sorted(variants, key=lambda v: str(inputs[v.name]))
    ]
    folder = outputs / "studies" / study.name
    return OpenStudy(study, study_file, project, folder, base, variants, tuple(tasks), features)


def _project(study_file: Path) -> Path:
    """Return the nearest folder above the study with a params.yaml, or else the study's."""
    parents = list(study_file.absolute().parents)
    project = next((folder for folder in parents if (folder / _PARAMS).is_file()), parents[0])
    here = Path.cwd()
    return project.relative_to(here) if project.is_relative_to(here) else project


def _use_project(
    study: Study, file: Path, project: Path, base: Mapping[str, Any], *, trust: bool
) -> None:
    """Make custom parts importable: those that params.yaml names, and those of the project."""
    settings = (project / _PARAMS).is_file() and read_values(project / _PARAMS)
    changes = [value.changes for axis in study.axes for value in axis.values]
    named = list(own_names([base, study.settings, study.protocol, changes]))
    tops = {name: split_own(name)[0].partition(".")[0] for name in named}
    local = [
        name
        for name, top in tops.items()
        if (project / f"{top}.py").is_file() or (project / top).is_dir()
    ]
    use_project(project, [*own_names(settings), *local], trust=trust)
    require_trusted([{"name": name} for name in named], where=file)


def _base_settings(study: Study, project: Path) -> dict[str, Any]:
    if study.base in PRESETS:
        values: dict[str, Any] = yaml.safe_load(project_files(study.base)[_PARAMS])
        return values
    path = resolve(project, study.base)
    if not path.is_file():
        raise ConfigError(
            f"base is {study.base!r}, but {path} does not exist; give a params file, relative to "
            f"{project}, or a preset ({', '.join(PRESETS)})"
        )
    return read_values(path)


def as_batched(task: RunTask, features: VariantFeatures) -> RunTask:
    """Return the same run as part of a batched program, which has another key."""
    return _trained_as("batched", task, features)


def _task(
    project: Path,
    variant: Variant,
    seed: int,
    features: VariantFeatures,
    device: str,
    *,
    batched: bool,
) -> RunTask:
    params = variant.with_seed(seed)
    unkeyed = RunTask(project, features.inputs, params, "", variant.name, device)
    alone = _trained_as("solo", unkeyed, features)
    if not batched or alone.finetunes or is_begun(alone):
        return alone
    together = as_batched(alone, features)
    return together if is_begun(together) else alone


def _trained_as(trained: Trained, task: RunTask, features: VariantFeatures) -> RunTask:
    params, own = task.params, task.params.finetune
    if own.encoder is None:
        identity = training_identity(
            params.head, params.train, features.features, features.listed, trained=trained
        )
    else:
        identity = finetuning_identity(
            params.head,
            finetuning_training(params.train, own),
            own,
            features.features,
            features.listed,
            from_run=key_of_run(task.project, own),
        )
    return replace(task, run_key=run_key(identity), trained=trained)
