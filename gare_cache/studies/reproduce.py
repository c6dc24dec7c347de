"""Reproducibility check: train one row of a study again and compare it with the stored run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from gare_cache.data.split import load_split
from gare_cache.errors import ConfigError, GareCacheError
from gare_cache.files import finite_or_none, read_json
from gare_cache.finetuning.encoder_folder import WEIGHTS
from gare_cache.project.progress import say
from gare_cache.studies.opening import OpenStudy, open_study
from gare_cache.studies.runs import (
    RunTask,
    execute,
    execute_together,
    is_done,
    read_reason,
    read_run,
    together_with,
)
from gare_cache.studies.setting_keys import flat
from gare_cache.studies.workers import KeptSplits

_SHOWN = 5


class NotReproduced(GareCacheError, RuntimeError):
    """Training a run again gave other weights or scores."""

    exit_code: ClassVar[int] = 3


def check_row(
    study_file: Path,
    *,
    row: int = 1,
    outputs: Path | None = None,
    device: str = "auto",
    settings: Sequence[str] = (),
    trust: bool = False,
) -> list[str]:
    """Train one row again in a temporary folder and compare weights and validation scores.

    Args:
        study_file: the study.
        row: number of the variant in the plan, from 1; its first finished seed is trained again.
        outputs: folder of the outputs.
        device: where to train.
        settings: ``setting=value`` strings that apply to all variants.
        trust: import custom parts that the study names and the project has not.

    Returns:
        Lines that say what is equal.

    Raises:
        ConfigError: there is no such row, or none of its runs is finished.
        NotReproduced: weights or scores differ; the message names differing versions or machines.
    """
    opened = open_study(study_file, outputs=outputs, device=device, settings=settings, trust=trust)
    if not 1 <= row <= len(opened.variants):
        raise ConfigError(f"--check {row}: the study has rows 1 to {len(opened.variants)}")
    name = opened.variants[row - 1].name
    stored = next((t for t in opened.tasks if t.variant == name and is_done(t)), None)
    if stored is None:
        raise ConfigError(
            f"--check {row}: no run of {name!r} is done; run `gare-cache ablate {study_file}` first"
        )
    say(f"train {stored} again")
    with tempfile.TemporaryDirectory(prefix="gare-cache-check-") as folder:
        again = replace(stored, runs=Path(folder))
        if stored.trained == "solo":
            execute(again, load=load_split)
        else:
            program = [replace(task, runs=Path(folder)) for task in _program(opened, stored)]
            execute_together(program, load=KeptSplits().of(stored.inputs))
        reason = read_reason(again)
        if reason is not None:
            raise NotReproduced(f"{stored} failed this time: {reason}")
        differing = [*_weights(stored, again), *_scores(stored, again)]
        elsewhere = _circumstances(stored, again)
    if differing:
        cause = "; ".join(elsewhere) or "versions, machine and device are the same"
        raise NotReproduced(f"{stored} was not reproduced: {'; '.join(differing)}. {cause}")
    return [
        f"{stored}: weights, validation ranks and validation scores are bit for bit equal",
        *(f"although {line}" for line in elsewhere),
    ]


def _program(opened: OpenStudy, stored: RunTask) -> list[RunTask]:
    """Return the runs that a run was trained with, which decide how its numbers are rounded.

    Raises:
        ConfigError: the study no longer has them all.
    """
    keys = together_with(stored)
    tasks = {task.run_key: task for task in opened.tasks}
    if missing := [key for key in keys if key not in tasks]:
        raise ConfigError(
            f"{stored} was trained together with {len(keys) - 1} other runs (--batched), and the "
            f"study no longer has {len(missing)} of them (run keys {', '.join(missing[:_SHOWN])}); "
            "give the study the seeds and variants that it had, or train with --batched off"
        )
    say(f"it was trained together with {len(keys) - 1} other runs, and is again")
    return [tasks[key] for key in keys]


def _weights(stored: RunTask, again: RunTask) -> Iterator[str]:
    yield from _differing_weights(stored, again, Path("run") / "head.safetensors")
    if stored.finetunes:
        yield from _differing_weights(stored, again, Path("encoder") / WEIGHTS)


def _differing_weights(stored: RunTask, again: RunTask, file: Path) -> Iterator[str]:
    ours, theirs = (load_file(task.folder / file) for task in (stored, again))
    if ours.keys() != theirs.keys():
        yield f"other tensors: {', '.join(sorted(ours.keys() ^ theirs.keys())[:_SHOWN])}"
        return
    differing = [name for name in ours if not _same_bits(ours[name], theirs[name])]
    if differing:
        largest = max(float((ours[n].double() - theirs[n].double()).abs().max()) for n in differing)
        yield f"{len(differing)} of {len(ours):,} tensors differ, by {largest:.2g} at most"


def _same_bits(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    return torch.equal(ours.flatten().view(torch.uint8), theirs.flatten().view(torch.uint8))


def _scores(stored: RunTask, again: RunTask) -> Iterator[str]:
    ours, theirs = (read_run(task, ("val",)).splits["val"] for task in (stored, again))
    for key, value in ours.metrics.items():
        if finite_or_none(theirs.metrics[key]) != finite_or_none(value):
            yield f"val {key} was {value:.4f} and is {theirs.metrics[key]:.4f}"
    if not ours.ranks.equals(theirs.ranks):
        yield "validation ranks differ"


def _circumstances(stored: RunTask, again: RunTask) -> list[str]:
    ours, theirs = (_record(task) for task in (stored, again))
    return [
        f"{name} was {ours.get(name)!r} and is {theirs.get(name)!r}"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]


def _record(task: RunTask) -> Mapping[str, Any]:
    record = read_json(task.folder / "run" / "record.json")
    return flat({"device": record["device"], **record["provenance"]})
