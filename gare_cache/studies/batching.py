"""Which missing runs of a study train together as one batched program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from gare_cache.errors import ConfigError, EnvironmentFailure, counted
from gare_cache.project.progress import say
from gare_cache.reproducibility import resolve_device
from gare_cache.studies.estimate import program_seconds
from gare_cache.studies.opening import OpenStudy, as_batched
from gare_cache.studies.runs import RunTask, is_begun
from gare_cache.training.together import obstacle, program_key

Batched = Literal["auto", "on", "off"]
# Memory grows with the number of runs, and larger programs gain little more.
_MOST_RUNS = 8


def programs_of(
    opened: OpenStudy, left: Sequence[RunTask], mode: Batched
) -> tuple[OpenStudy, list[list[RunTask]], list[RunTask]]:
    """Choose the runs that train together: those begun so, and missing ones of one program.

    Args:
        opened: the study.
        left: the runs to train or score.
        mode: ``on`` trains together what can; ``auto`` what a trial of a few updates finds to be
            faster; ``off`` nothing.

    Returns:
        The study with the chosen runs as parts of a program, the programs, and the other runs.

    Raises:
        ConfigError: ``mode`` is ``on``, and no two missing runs can train together.
    """
    groups: dict[tuple[object, ...], list[RunTask]] = {}
    why: dict[str, None] = {}
    for task in left if mode != "off" else ():
        params = task.params
        reason = (
            "a finetuning trains alone"
            if task.finetunes
            else obstacle(params.head, params.train, resolve_device(task.device))
        )
        if task.trained == "solo" and (reason or is_begun(task)):
            why[reason or "runs were begun alone, and go on so"] = None
            continue
        key = (task.trained, task.inputs, program_key(params.head, params.train))
        groups.setdefault(key, []).append(task)
    programs: list[list[RunTask]] = []
    chosen: dict[str, RunTask] = {}
    for (trained, *_), members in groups.items():
        worthwhile = False
        for start in range(0, len(members), _MOST_RUNS):
            part = members[start : start + _MOST_RUNS]
            if trained == "batched":
                programs.append(part)
                continue
            if len(part) > 1 and start == 0:
                worthwhile = mode == "on" or _pays(part)  # the trial speaks for the whole group
            if len(part) > 1 and worthwhile:
                features = opened.features[part[0].inputs]
                programs.append([as_batched(task, features) for task in part])
                chosen |= {task.run_key: new for task, new in zip(part, programs[-1], strict=True)}
    missing = any(task.trained == "solo" and not is_begun(task) for task in left)
    if mode == "on" and missing and not programs:
        reasons = "; ".join(why) or "they differ in more than the seed and scalar settings"
        raise ConfigError(
            f"--batched on, and no two missing runs can train together: {reasons}; use --batched "
            "auto or off"
        )
    tasks = tuple(chosen.get(task.run_key, task) for task in opened.tasks)
    together = {task.run_key for program in programs for task in program} | set(chosen)
    others = [task for task in left if task.run_key not in together]
    return replace(opened, tasks=tasks), programs, others


def _pays(tasks: Sequence[RunTask]) -> bool:
    """Return whether a trial finds the runs to be faster together; say so."""
    names = f"{counted(len(tasks), 'run')} such as {tasks[0]}"
    try:
        alone, together = program_seconds(tasks)
    except (OSError, EnvironmentFailure):
        raise
    except Exception as err:  # alone, each run will record its own failure
        say(f"{names}: trained alone; a trial together failed: {' '.join(str(err).split())}")
        return False
    choice = "together" if together < alone else "alone"
    say(f"{names}: trained {choice}; together they take {together / alone:.2f} of the time alone")
    return together < alone
