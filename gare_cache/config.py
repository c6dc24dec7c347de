"""params.yaml -> typed, frozen settings; every tunable with its default and range."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import model_validator

from gare_cache.annotations.settings import DatasetSettings
from gare_cache.encoders.settings import EncoderSettings, ExtractSettings
from gare_cache.errors import ConfigError
from gare_cache.evaluation.settings import EvaluateSettings
from gare_cache.finetuning.settings import FinetuneSettings
from gare_cache.heads.settings import HeadSettings
from gare_cache.limits import read_yaml
from gare_cache.reports.settings import ReportSettings
from gare_cache.settings import CustomSettings, Settings, parse_settings
from gare_cache.training.settings import TrainSettings


class Params(Settings):
    """The whole of params.yaml."""

    dataset: DatasetSettings
    encoder: EncoderSettings | None = None
    extract: ExtractSettings = ExtractSettings()
    head: HeadSettings = HeadSettings()
    train: TrainSettings = TrainSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    report: ReportSettings = ReportSettings()

    @model_validator(mode="after")
    def _no_idle_setting(self) -> Params:
        if self.encoder and self.head.needs_word_tokens and not self.extract.word_tokens:
            raise ValueError(
                "extract.word_tokens is false, but this head compares words "
                "(head.interaction.name: token_wise or head.gap.context: words); set "
                "extract.word_tokens: true"
            )
        loss, gap = self.train.loss, self.head.gap
        active = [name for name, term in loss.regularisers.items() if term.weight > 0]
        if gap is None and active and not isinstance(self.head.interaction, CustomSettings):
            raise ValueError(
                "head.gap is null, so there is no increment to regularise; set "
                f"{_weights(active)} to 0, or give head.gap its settings"
            )
        if gap is not None and gap.same_for_all_videos:
            idle = [name for name in active if name in _of_a_text(gap.side, loss.ib.anchor)]
            if idle:
                raise ValueError(
                    "with head.gap.query: text and head.gap.context: words a text has the same "
                    "increment for all videos, so there is nothing to compare; set "
                    f"{_weights(idle)} to 0, or head.gap.query: gap"
                )
        return self


def _weights(regularisers: Sequence[str]) -> str:
    return ", ".join(f"train.loss.{name}.weight" for name in regularisers)


def _of_a_text(side: str, anchor: str) -> tuple[str, ...]:
    """Return the regularisers that compare a text's increments to several videos."""
    at_item = ("eps", "dir", "orthogonality") if side == "text" else ()
    return (*at_item, "ib") if anchor == "text" else at_item


def load_params(path: Path, changes: Mapping[str, Any] | None = None) -> Params:
    """Read and check a params file.

    Args:
        path: of the file.
        changes: dotted setting -> value in place of the file's.

    Raises:
        ConfigError: the file is missing, no YAML, or a setting is unknown, of a wrong type or out
            of range; every fault is named with its place.
    """
    values = read_values(path)
    return parse_params(with_changes(values, changes or {}), where=str(path))


def read_values(path: Path) -> dict[str, Any]:
    """Read the settings of a file as plain values, unchecked.

    Raises:
        ConfigError: the file is missing or no YAML mapping.
        LimitExceeded: it is too large, or aliases or nesting make it so.
    """
    if not path.is_file():
        raise ConfigError(
            f"{path} does not exist; give the settings with --params FILE, or start a project with "
            f"`gare-cache init FOLDER --preset NAME` ({path.absolute().parent} is no project)"
        )
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no settings")
    return values


def parse_params(values: dict[str, Any], *, where: str) -> Params:
    """Check settings given as plain values.

    Raises:
        ConfigError: as ``load_params``.
    """
    return parse_settings(Params, values, where=where)


def with_changes(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of settings with dotted keys changed, in their order.

    A section that is null is created. ``{"head.gap.heads": 2}`` on ``{"head": {"gap": None}}``
    gives ``{"head": {"gap": {"heads": 2}}}``.

    Raises:
        ConfigError: a key is below a setting that is not a section.
    """
    changed = copy.deepcopy(dict(values))
    for key, value in changes.items():
        *parents, name = key.split(".")
        section = changed
        for parent in parents:
            if section.get(parent) is None:
                section[parent] = {}
            section = section[parent]
            if not isinstance(section, dict):
                raise ConfigError(f"{key} cannot be set: {parent} is {section!r}, not a section")
        section[name] = copy.deepcopy(value)
    return changed


def resolve(project: Path, path: str) -> Path:
    """Return a path of params.yaml, relative ones seen from the project's folder."""
    return Path(os.path.normpath(project / Path(path).expanduser()))
