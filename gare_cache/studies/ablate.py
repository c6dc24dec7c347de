"""Run a study: train and score the missing runs, then write its results."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gare_cache.cluster.ray_pool import Cluster
from gare_cache.errors import ConfigError
from gare_cache.locks import alone
from gare_cache.project import ledger
from gare_cache.project.progress import progress, say
from gare_cache.studies.batching import Batched, programs_of
from gare_cache.studies.cluster import run_on_cluster
from gare_cache.studies.estimate import trial_seconds
from gare_cache.studies.opening import OpenStudy, open_study
from gare_cache.studies.plan import PlannedRun, State
from gare_cache.studies.runs import (
    RunTask,
    forget_failure,
    is_begun,
    is_done,
    read_reason,
    read_seconds,
)
from gare_cache.studies.text import plan_lines
from gare_cache.studies.workers import run_all
from gare_cache.studies.writing import write_results


def ablate(
    study_file: Path,
    *,
    outputs: Path | None = None,
    device: str = "auto",
    jobs: int = 1,
    limit: int | None = None,
    dry_run: bool = False,
    final: bool = False,
    retry_failed: bool = False,
    extract: bool = False,
    settings: Sequence[str] = (),
    trust: bool = False,
    batched: Batched = "auto",
    cluster: Cluster | None = None,
) -> list[str]:
    """Train and score a study's missing runs; write its results to ``outputs/studies/<name>/``.

    Args:
        study_file: the study.
        outputs: folder of the outputs; None takes ``outputs/`` of the project.
        device: where to train.
        jobs: number of training processes.
        limit: train at most this many runs now; None trains all.
        dry_run: only show the plan.
        final: score every run once on the test split.
        retry_failed: retry failed runs.
        extract: extract missing features.
        settings: ``setting=value`` strings that apply to all variants.
        trust: import custom parts that the study names and the project has not.
        batched: whether runs that differ in seed or scalar settings train together as one batched
            program: ``on``, ``off``, or ``auto``: where a trial finds it faster, with one job.
        cluster: train by Ray actors; None trains on this machine.

    Returns:
        Lines to print: the table, or the plan of a dry run.

    Raises:
        ConfigError: the study or a setting is wrong, or ``final`` is given and the study is not
            finished.
        CacheError: features are missing.
        EnvironmentFailure: another process runs this study.
    """
    if batched == "on" and jobs > 1:
        raise ConfigError(
            f"--batched on trains runs in one process, and --jobs is {jobs}; leave one of them out"
        )
    if cluster and (batched == "on" or jobs > 1):
        raise ConfigError(
            "--engine ray trains one run an actor; leave out --jobs (see --actors) and --batched on"
        )
    opened = open_study(
        study_file,
        outputs=outputs,
        device=device,
        extract=extract,
        settings=settings,
        trust=trust,
        batched=batched != "off",
    )
    if retry_failed and not dry_run:
        for task in opened.tasks:
            forget_failure(task)
    planned = [_planned(task) for task in opened.tasks]
    trials = _trials(opened.tasks, planned)
    parallel = max(1, cluster.actors) if cluster else jobs
    plan = plan_lines(opened.study, opened.variants, planned, jobs=parallel, trials=trials)
    left = [t for t, run in zip(opened.tasks, planned, strict=True) if run.is_left]
    if final and left:
        raise ConfigError(
            f"{study_file} is not finished: {len(left)} of {len(planned):,} runs are "
            "left; run it "
            "without --final first. Test is scored once, when no choice is left to make"
        )
    if dry_run:
        return plan
    with alone(opened.project / ".gare" / "locks", opened.folder, "ablate"):
        execution = _Execution(jobs, cluster)
        return _run_and_write(opened, left[:limit], plan, execution, final=final, batched=batched)


@dataclass(frozen=True)
class _Execution:
    """Who executes runs: ``jobs`` processes here, or the actors of a cluster."""

    jobs: int
    cluster: Cluster | None

    @property
    def by_workers(self) -> bool:
        return self.jobs > 1 or self.cluster is not None


def _run_and_write(
    opened: OpenStudy,
    left: Sequence[RunTask],
    plan: Sequence[str],
    execution: _Execution,
    *,
    final: bool,
    batched: Batched,
) -> list[str]:
    for line in plan:
        say(line)
    # Workers train their runs alone; what was begun together goes on so, here.
    alone = [task for task in left if execution.by_workers and task.trained == "solo"]
    rest = [task for task in left if task not in alone]
    opened, programs, others = programs_of(opened, rest, batched)
    others += alone
    _run(others, execution, label=f"runs of {opened.study.name}", programs=programs)
    if final:
        _score_test(opened, execution)
    return write_results(opened, "test" if final else "val")


def _planned(task: RunTask) -> PlannedRun:
    state: State
    if read_reason(task) is not None:
        state = "failed"
    elif is_done(task):
        state = "done"
    else:
        state = "unfinished" if is_begun(task) else "missing"
    seconds = read_seconds(task)
    return PlannedRun(task.variant, task.params.train.seed, task.run_key, state, seconds)


def _trials(tasks: Sequence[RunTask], planned: Sequence[PlannedRun]) -> dict[str, float]:
    """Time a few batches of every variant that has runs left and no finished one."""
    known = {run.variant for run in planned if run.seconds is not None}
    wanted = {
        task.variant: task
        for task, run in zip(tasks, planned, strict=True)
        if run.is_left and run.variant not in known
    }
    return trial_seconds(wanted.values())


def _run(
    tasks: Sequence[RunTask],
    execution: _Execution,
    *,
    label: str,
    programs: Sequence[Sequence[RunTask]] = (),
) -> None:
    total = len(tasks) + sum(map(len, programs))
    if not total:
        return
    numbers = itertools.count(1)
    with progress(label, total) as advance:

        def ended(task: RunTask) -> None:
            advance(1)
            reason, seconds = read_reason(task), read_seconds(task)
            end = f"failed: {reason}" if reason else "done"
            took = "" if seconds is None else f", trained in {seconds:.1f} s"
            say(f"[{next(numbers)}/{total}] {task}: {end}{took}")

        here = () if execution.cluster else tasks
        for task in run_all(here, jobs=execution.jobs, programs=programs):
            ended(task)
        if execution.cluster and tasks:
            run_on_cluster(tasks, execution.cluster, ended=ended)


def _score_test(opened: OpenStudy, execution: _Execution) -> None:
    tasks = [replace(task, split=ledger.TEST) for task in opened.tasks if is_done(task)]
    left = [task for task in tasks if not task.scores.is_dir()]
    _run(left, execution, label="test scorings")
