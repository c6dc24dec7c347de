"""The command of studies: ablate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from gare_cache.commands.options import (
    Actors,
    Changes,
    Device,
    Engine,
    GpusPerActor,
    Outputs,
    RayAddress,
    Trust,
    cluster_of,
)


def ablate(
    study: Annotated[Path, typer.Argument(help="Study file (docs/studies.md).")],
    outputs: Outputs = None,
    device: Device = "auto",
    jobs: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of runs trained at the same time.")
    ] = 1,
    limit: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Train at most N runs now.", show_default="no limit"),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="List variants and runs, estimate the time; train nothing."),
    ] = False,
    final: Annotated[
        bool,
        typer.Option("--final", help="Score the test split, once per run, and show the results."),
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Retry runs that failed before.")
    ] = False,
    extract: Annotated[
        bool, typer.Option("--extract", help="Prepare and extract missing features first.")
    ] = False,
    settings: Changes = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Train one row of the plan again and compare the results."),
    ] = False,
    row: Annotated[
        int | None,
        typer.Argument(
            metavar="ROW", help="Row of the plan for --check.", show_default="the first"
        ),
    ] = None,
    trust: Trust = False,
    batched: Annotated[
        Literal["auto", "on", "off"],
        typer.Option(
            metavar="MODE",
            help="auto, on or off: train runs that differ in seed or scalar settings together; "
            "auto does where a trial finds it faster.",
        ),
    ] = "auto",
    engine: Engine = "local",
    ray_address: RayAddress = None,
    actors: Actors = None,
    gpus_per_actor: GpusPerActor = None,
) -> None:
    """Train the missing runs of a study and compare its variants.

    The study file holds variants, seeds, the reference row and the protocol. Variants are ranked on
    the validation split. Finished runs are
    kept in .gare/runs and reused, also by other studies. You can interrupt the command and run it
    again at any time. Writes report.html, Markdown, LaTeX, and runs, ranks and history as Parquet
    to outputs/studies/NAME. See docs/studies.md.

    Example:
        gare-cache ablate studies/gare_losses.yaml --dry-run
    """
    from gare_cache.studies.ablate import ablate
    from gare_cache.studies.reproduce import check_row

    if row is not None and not check:
        raise typer.BadParameter(f"row {row} is given without --check", param_hint="ROW")
    if check:
        lines = check_row(
            study,
            row=row or 1,
            outputs=outputs,
            device=device,
            settings=settings or (),
            trust=trust,
        )
    else:
        lines = ablate(
            study,
            outputs=outputs,
            device=device,
            jobs=jobs,
            limit=limit,
            dry_run=dry_run,
            final=final,
            retry_failed=retry_failed,
            extract=extract,
            settings=settings or (),
            trust=trust,
            batched=batched,
            cluster=cluster_of(engine, ray_address, actors, gpus_per_actor),
        )
    for line in lines:
        typer.echo(line)
