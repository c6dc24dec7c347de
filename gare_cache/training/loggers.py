"""Experiment trackers that a training logs to: TensorBoard, Weights & Biases, Trackio, DVCLive.

Nothing of theirs is imported unless ``train.logger`` names it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gare_cache.errors import EnvironmentFailure
from gare_cache.files import read_json, write_json
from gare_cache.training.loop import EpochRecord, TrainingState

_PROJECT = "gare-cache"


@dataclass(frozen=True)
class LogPlace:
    """Where a training logs to.

    Attributes:
        folder: of the logger's files, which exists.
        run_key: of the training, its name in the log.
        logged: epochs that are in the log already; 0 for a new one.
        settings: of the training by dotted key, for a tracker that takes them when it begins.
    """

    folder: Path
    run_key: str
    logged: int
    settings: Mapping[str, Any]


class Logger(Protocol):
    """What a training tells a tracker; the step of all figures is the epoch."""

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        """Log the settings by dotted key, once, before the first epoch."""

    def log_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Log the figures of an epoch, counted from 1."""

    def log_best(self, figures: Mapping[str, float]) -> None:
        """Log the best epoch and its figures, at the end."""

    def close(self) -> None:
        """Write what is left and end."""


class RunLog:
    """The log of one training, which a resumed training goes on in.

    How far it is stands beside the logger's files, in ``LOGGER.json``. What is behind a training
    that goes on, and is not in its log, is logged first: so a logger may be named later.

    Args:
        name: one of ``LOGGERS``.
        folder: of all logs of the training.
        run_key: of the training.
        settings: of the training, nested.
        resumed: whether the training goes on; what is there of another one is deleted.

    Raises:
        EnvironmentFailure: the logger's package is missing, or it cannot begin.
    """

    def __init__(
        self, name: str, folder: Path, *, run_key: str, settings: Mapping[str, Any], resumed: bool
    ) -> None:
        self._name, self._marker = name, folder / f"{name}.json"
        own = folder / name
        if not resumed:
            shutil.rmtree(own, ignore_errors=True)
            self._marker.unlink(missing_ok=True)
        known = read_json(self._marker) if self._marker.is_file() else {"epoch": 0, "best": False}
        self._logged, self._whole = int(known["epoch"]), bool(known["best"])
        self._logger: Logger | None = None
        if self._whole:
            return
        require_logger(name)
        own.mkdir(parents=True, exist_ok=True)
        with self._failures():
            flat = dict(_flat(settings))
            self._logger = LOGGERS[name](LogPlace(own, run_key, self._logged, flat))
            if not self._logged:
                self._logger.log_settings(flat)

    def log(self, state: TrainingState) -> None:
        """Log the epochs that are not in the log yet."""
        if self._logger is None:
            return
        for record in state.history[self._logged :]:
            with self._failures():
                self._logger.log_epoch(record.epoch, epoch_figures(record))
            self._keep(record.epoch)

    def finish(self, state: TrainingState) -> None:
        """Log what is left of a finished training, and its best epoch."""
        self.log(state)
        if self._logger is None:
            return
        best = epoch_figures(state.history[state.best_epoch - 1])
        scores = {f"best/{k.removeprefix('validation/')}": v for k, v in best.items() if "val" in k}
        with self._failures():
            self._logger.log_best({"best/epoch": float(state.best_epoch), **scores})
        self._keep(state.epoch, best=True)

    def close(self) -> None:
        """End the log, on every way out of a training."""
        if self._logger is not None:
            with self._failures():
                self._logger.close()

    def _keep(self, epoch: int, *, best: bool = False) -> None:
        self._logged = epoch
        write_json(self._marker, {"epoch": epoch, "best": best})

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except EnvironmentFailure:
            raise
        except Exception as err:  # whatever a tracker raises
            raise EnvironmentFailure(
                f"train.logger: {self._name} failed: {' '.join(str(err).split())}; the training's "
                "state is kept: mend that, or set train.logger: null, and run the same command "
                "again"
            ) from err


def epoch_figures(record: EpochRecord) -> dict[str, float]:
    """Return what is logged of an epoch: ``loss/total``, ``validation/t2v_R1`` ..."""
    groups = {"loss": record.losses, "validation": record.validation}
    groups |= {"increment": record.increment or {}}
    figures = {
        f"{group}/{name.replace('@', '').replace(' ', '_')}": float(value)
        for group, values in groups.items()
        for name, value in values.items()
    }
    rates = {"learning_rate": record.learning_rate, "logit_scale": record.scale}
    radius = {} if record.radius is None else {"trust_region_radius": record.radius}
    return {**figures, **rates, **radius}


def require_logger(name: str) -> None:
    """Raise an error unless a logger's package is installed; nothing of it is imported.

    Raises:
        EnvironmentFailure: it is not installed.
    """
    if importlib.util.find_spec(name) is None:
        raise EnvironmentFailure(
            f"train.logger: {name} needs the package {name}: pip install 'gare-cache[{name}]'"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        elif value is None or isinstance(value, list | Mapping):
            yield f"{prefix}{name}", json.dumps(value)
        else:
            yield f"{prefix}{name}", value


class _TensorBoard:
    """Event files."""

    def __init__(self, place: LogPlace) -> None:
        # What stands behind the last epoch of a training that was killed counts no more.
        purged = place.logged + 1 if place.logged else None
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self._writer = writer(str(place.folder), purge_step=purged)

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        lines = [f"    {name}: {value}" for name, value in settings.items()]
        self._writer.add_text("settings", "\n".join(lines), 0)

    def log_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def log_best(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, int(figures["best/epoch"]))

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """A run of Weights & Biases, offline unless WANDB_MODE says otherwise: it asks for no login."""

    def __init__(self, place: LogPlace) -> None:
        wandb = importlib.import_module("wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            id=place.run_key,
            name=place.run_key,
            dir=str(place.folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow" if place.logged else None,
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        self._run.config.update(dict(settings), allow_val_change=True)

    def log_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=epoch)

    def log_best(self, figures: Mapping[str, float]) -> None:
        self._run.summary.update(dict(figures))

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    """A run in Trackio's own database on this machine."""

    def __init__(self, place: LogPlace) -> None:
        with redirect_stdout(sys.stderr):  # it says where it logs to
            self._run = importlib.import_module("trackio").init(
                project=_PROJECT,
                name=place.run_key,
                config=dict(place.settings),
                resume="allow" if place.logged else "never",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        """Do nothing: Trackio stores the settings that it is given at its beginning alone."""

    def log_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=epoch)

    def log_best(self, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=int(figures["best/epoch"]))

    def close(self) -> None:
        self._run.finish()


def _require_dvc_beside_git(folder: Path) -> None:
    """Refuse a git repository without DVC, which DVCLive would initialise and stage unasked."""
    for place in (folder, *folder.parents):
        if (place / ".dvc").is_dir():
            return
        if (place / ".git").exists():
            raise EnvironmentFailure(
                f"train.logger: dvclive would make the git repository {place} one of DVC, too; run "
                "`dvc init` there first, or name another logger"
            )


class _DVCLive:
    """DVCLive's files, without an experiment, a commit or a ``dvc.yaml``."""

    def __init__(self, place: LogPlace) -> None:
        _require_dvc_beside_git(Path.cwd())
        self._live = importlib.import_module("dvclive").Live(
            str(place.folder),
            resume=place.logged > 0,
            save_dvc_exp=False,
            dvcyaml=None,
            report=None,
        )

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        self._live.log_params(dict(settings))

    def log_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        self._live.step = epoch
        for name, value in figures.items():
            self._live.log_metric(name, value)
        self._live.make_summary()

    def log_best(self, figures: Mapping[str, float]) -> None:
        self._live.summary.update(figures)
        self._live.make_summary()

    def close(self) -> None:
        self._live.end()


# Name, which is also that of the package and of the extra -> what opens a log.
LOGGERS: Mapping[str, Callable[[LogPlace], Logger]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
    "trackio": _Trackio,
    "dvclive": _DVCLive,
}
