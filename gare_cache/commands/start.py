"""Commands that start a project: init, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    folder: Annotated[Path, typer.Argument(help="Project folder; created if missing.")],
    preset: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Settings to start from: demo, generic, msrvtt-1ka, didemo, activitynet, msvd, "
            "lsmdc, tgif, youcook2 or vatex.",
        ),
    ],
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="CLIP model: ViT-B-32, ViT-B-16 or ViT-L-14; demo needs no weights.",
            show_default="ViT-B-32; the demo has its own",
        ),
    ] = None,
    videos: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Own videos (generic); lists them in captions.csv."),
    ] = None,
    captions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Captions of own videos (generic).")
    ] = None,
) -> None:
    """Start a project from a preset.

    Writes params.yaml, dvc.yaml, .gitignore, the published studies and a README with the next
    commands. Existing files are never overwritten: if one is in the way, nothing is written. Beside
    a README of your own the commands are in GARE-CACHE.md, and an existing .gitignore is extended.

    Example:
        gare-cache init mine --preset generic
    """
    from gare_cache.stages.init import init

    written = init(folder, preset=preset, encoder=encoder, videos=videos, captions=captions)
    for path in written:
        typer.echo(f"{path}")
    if videos is not None and captions is None:
        typer.echo(f"fill in the column caption of {folder / 'captions.csv'}, one row a caption")
    guide = next(path.name for path in written if path.suffix == ".md")
    typer.echo(f"next: cd {folder}, and follow {guide}")


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder of the data set.")] = Path("data/demo"),
    train: Annotated[int, typer.Option(metavar="N", help="Number of training videos.")] = 2400,
    val: Annotated[int, typer.Option(metavar="N", help="Number of validation videos.")] = 300,
    test: Annotated[int, typer.Option(metavar="N", help="Number of test videos.")] = 400,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Random seed of the scenes and captions.")
    ] = 0,
) -> None:
    """Draw the demo data set: videos, captions and splits.

    The videos are short and hard to tell apart without their order in time. The small CLIP that
    encodes them comes with the package (encoder.model: demo). Only missing files are drawn, so an
    interrupted run can be continued.

    Example:
        gare-cache demo data/demo
    """
    from gare_cache.stages.draw_demo import draw_demo

    annotations = draw_demo(folder, num_train=train, num_val=val, num_test=test, seed=seed)
    typer.echo(f"{annotations}")
