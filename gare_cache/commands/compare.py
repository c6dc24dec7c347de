"""Commands that score saved results and compare them: score, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gare_cache.commands.options import JsonFile

NORMALISERS = "Test-time normalisers"


def compare(
    run_a: Annotated[Path, typer.Argument(help="Output folder of an evaluated run A.")],
    run_b: Annotated[Path, typer.Argument(help="Output folder of an evaluated run B.")],
    also_a: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Another seed of method A; may be repeated."),
    ] = None,
    also_b: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Another seed of method B; may be repeated."),
    ] = None,
    method_a: Annotated[
        str, typer.Option(metavar="NAME", help="Scores of A to use: head or zero_shot.")
    ] = "head",
    method_b: Annotated[
        str, typer.Option(metavar="NAME", help="Scores of B to use: head or zero_shot.")
    ] = "head",
    queries: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the queries won and lost to this .parquet or .csv file."
        ),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Test whether run A beats run B.

    Prints paired differences with confidence intervals and p values, and the number of queries won
    and lost. Runs that were scored on different queries are refused. With --also-a and --also-b
    the intervals cover the variation between seeds, too. See docs/compare.md.

    Example:
        gare-cache compare outputs-a outputs-b
    """
    from gare_cache.stages.compare import compare

    lines = compare(
        [run_a, *(also_a or ())],
        [run_b, *(also_b or ())],
        method_a=method_a,
        method_b=method_b,
        queries_file=queries,
        json_file=json_file,
    )
    for line in lines:
        typer.echo(line)


def score(
    file: Annotated[
        Path, typer.Argument(help="Matrix as npy of shape (T, V): texts are rows, videos columns.")
    ],
    video_of_text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Each text's video, as npy, txt or csv: its column, counted from 0.",
            show_default="the diagonal is true",
        ),
    ] = None,
    video_ids: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Ids of the columns; --video-of-text then holds ids, too."
        ),
    ] = None,
    transposed: Annotated[
        bool, typer.Option("--transposed", help="The matrix has videos in rows.")
    ] = False,
    v2t_convention: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Ranks of videos with several captions: best_caption_of_all or "
            "best_caption_group.",
        ),
    ] = "best_caption_of_all",
    json_file: JsonFile = None,
    normalise: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=NORMALISERS,
            metavar="NAME",
            help="Test-time normaliser to apply, such as dsl or csls:k=5; may be repeated.",
        ),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=NORMALISERS,
            metavar="X",
            help="Factor that turns the values into logits; give it for cosines.",
            show_default="the values are logits",
        ),
    ] = None,
    query_bank_t2v: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=NORMALISERS,
            metavar="FILE",
            help="npy: training texts (rows) against the videos.",
        ),
    ] = None,
    query_bank_v2t: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=NORMALISERS,
            metavar="FILE",
            help="npy: training videos (rows) against the texts.",
        ),
    ] = None,
    gallery_bank_t2v: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=NORMALISERS,
            metavar="FILE",
            help="npy: training videos (rows) against the videos.",
        ),
    ] = None,
    gallery_bank_v2t: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=NORMALISERS,
            metavar="FILE",
            help="npy: training texts (rows) against the texts.",
        ),
    ] = None,
) -> None:
    """Score a similarity matrix that any program saved.

    Prints recall and ranks in both directions, with ties counted fairly and confidence intervals.
    NaN, infinity and lists that do not fit are errors; nothing is dropped. See docs/compare.md.

    With --normalise the scores after test-time normalisers follow, the raw scores first. Known are
    sinkhorn, inverted_softmax, qbnorm, dsl, dual_is, dual_dis, csls, nnn, and the import path of
    one of your own. dsl sees all queries at once; others, such as csls, need both query banks. See
    docs/normalisers.md.

    Example:
        gare-cache score sim_matrix.npy --normalise dsl
    """
    from gare_cache.stages.score import score

    lines = score(
        file,
        video_of_text=video_of_text,
        video_ids=video_ids,
        transposed=transposed,
        v2t_convention=v2t_convention,
        json_file=json_file,
        normalisers=normalise or (),
        scale=scale,
        banks={
            "query-bank-t2v": query_bank_t2v,
            "query-bank-v2t": query_bank_v2t,
            "gallery-bank-t2v": gallery_bank_t2v,
            "gallery-bank-v2t": gallery_bank_v2t,
        },
    )
    for line in lines:
        typer.echo(line)
