"""Commands of ``gare-cache``: parse, call a stage, turn errors into exit codes.

Everything heavy is imported inside a command, so that ``--help`` answers at once.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gare_cache.errors import GareCacheError

INTERRUPTED = 130
ENVIRONMENT = 1


class _ErrorReportingGroup(TyperGroup):
    """Turn a known error into one line on stderr and its exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("interrupted; finished work is kept: run the same command again", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except (GareCacheError, OSError) as err:
            if ctx.params["debug"]:
                raise
            typer.echo(f"error: {' '.join(str(err).split())}", err=True)
            code = err.exit_code if isinstance(err, GareCacheError) else ENVIRONMENT
            raise typer.Exit(code) from None


app = typer.Typer(
    cls=_ErrorReportingGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

ParamsFile = Annotated[
    Path, typer.Option("--params", "-p", help="Settings; its folder is the project's.")
]
Outputs = Annotated[
    Path | None,
    typer.Option("--outputs", "-o", help="Folder of the outputs. [default: outputs/ beside them]"),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
DEFAULT_PARAMS = Path("params.yaml")


@app.callback()
def root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and the libraries' messages.")
    ] = False,
) -> None:
    """Encode a text-video benchmark once with CLIP; train and compare heads from the cache.

    The pipeline is [bold]prepare -> extract -> train -> evaluate -> report[/bold], one command
    each, all driven by params.yaml; `dvc repro` runs what is out of date. Start with
    [bold]gare-cache demo[/bold] and the params.yaml of the repository.

    Exit codes: 0 done, 1 the machine failed (disk, device, network), 2 a mistake in settings or
    data, 130 interrupted.
    """
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING, format="%(name)s: %(message)s"
    )


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where to draw.")] = Path("data/demo"),
    train: Annotated[int, typer.Option(help="Videos to train on.")] = 2400,
    val: Annotated[int, typer.Option(help="Videos to select by.")] = 300,
    test: Annotated[int, typer.Option(help="Videos to test on.")] = 400,
    seed: Annotated[int, typer.Option(help="Of scenes, takes and captions.")] = 0,
) -> None:
    """Draw the demo data set: mp4 files in which time matters, with captions and splits.

    Draws only what is missing, so it can be interrupted. Its small CLIP comes with the package
    (`encoder.model: demo`).
    """
    from gare_cache.stages.draw_demo import draw_demo

    annotations = draw_demo(folder, num_train=train, num_val=val, num_test=test, seed=seed)
    typer.echo(f"{annotations}")


@app.command()
def prepare(params: ParamsFile = DEFAULT_PARAMS, outputs: Outputs = None) -> None:
    """Read the annotations, find the video files, assign splits.

    Writes manifest/videos.parquet and captions.parquet, and says which videos have no file.
    """
    from gare_cache.stages.prepare import prepare
    from gare_cache.stages.workspace import open_workspace

    workspace = open_workspace(params, outputs)
    prepare(workspace)
    typer.echo(f"{workspace.manifest}")


@app.command()
def extract(
    params: ParamsFile = DEFAULT_PARAMS,
    outputs: Outputs = None,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(min=0, help="Of torch; 0: its own choice.")] = 0,
    workers: Annotated[
        int, typer.Option(min=0, help="Threads that decode; 0: one a processor, at most 8.")
    ] = 0,
) -> None:
    """Decode and encode what the cache lacks, unit by unit.

    The cache lies under cache/ beside the settings, or under $GARE_CACHE_ROOT, in a folder named
    after everything the features depend on: other settings make another folder, and going back
    finds the old one. Can be interrupted and run again at any time.
    """
    from gare_cache.stages.extract import extract
    from gare_cache.stages.workspace import open_workspace

    workspace = open_workspace(params, outputs)
    extract(workspace, device=device, threads=threads, workers=workers)
    typer.echo(f"{workspace.features}")


@app.command()
def info(params: ParamsFile = DEFAULT_PARAMS, outputs: Outputs = None) -> None:
    """Show the cache: identities, coverage of every split, sizes, seconds spent, failures."""
    from gare_cache.stages.info import describe
    from gare_cache.stages.workspace import open_workspace

    for name, value in describe(open_workspace(params, outputs)):
        typer.echo(f"{name:<22} {value}")


@app.command()
def train(
    params: ParamsFile = DEFAULT_PARAMS, outputs: Outputs = None, device: Device = "auto"
) -> None:
    """Train a head on the cached features, validate every epoch, keep the best.

    An interrupted training goes on behind its last whole epoch, with the same result.
    """
    from gare_cache.stages.train import train
    from gare_cache.stages.workspace import open_workspace

    workspace = open_workspace(params, outputs)
    train(workspace, device=device)
    typer.echo(f"{workspace.run}")


@app.command()
def evaluate(
    params: ParamsFile = DEFAULT_PARAMS, outputs: Outputs = None, device: Device = "auto"
) -> None:
    """Score the head and the zero-shot baseline: recall with ties, both directions, intervals.

    Writes metrics.json, the rank of every query (ranks.parquet) and the similarity matrix.
    """
    from gare_cache.stages.evaluate import evaluate
    from gare_cache.stages.workspace import open_workspace

    workspace = open_workspace(params, outputs)
    evaluate(workspace, device=device)
    typer.echo(f"{workspace.evaluation}")


@app.command()
def report(params: ParamsFile = DEFAULT_PARAMS, outputs: Outputs = None) -> None:
    """Write the results as one self-contained HTML page, Markdown and LaTeX; print the table."""
    from gare_cache.stages.report import report
    from gare_cache.stages.workspace import open_workspace

    workspace = open_workspace(params, outputs)
    typer.echo(report(workspace))
    typer.echo(f"{workspace.report / 'report.html'}")


def main() -> None:
    """Run the command line."""
    app(prog_name="gare-cache")
