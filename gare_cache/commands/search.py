"""Commands that search videos: index, search, serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gare_cache.commands.options import DEFAULT_PARAMS, Device, Outputs, ParamsFile
from gare_cache.errors import ConfigError

Store = Annotated[
    str,
    typer.Option("--index", metavar="NAME", help="What finds the shortlist: exact, faiss, qdrant."),
]
Nprobe = Annotated[
    int | None,
    typer.Option(metavar="N", help="Lists that faiss looks into.", show_default="64"),
]
QdrantUrl = Annotated[
    str | None,
    typer.Option("--qdrant", metavar="URL", help="Server of --index qdrant.", show_default="none"),
]


def index(
    videos: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR",
            help="Folder of videos, with all its subfolders.",
            show_default="the videos of the project",
        ),
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Project folder that keeps settings and features.",
            show_default="NAME-index here",
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="CLIP model of a new index: ViT-B-32, ViT-B-16 or ViT-L-14; demo needs no "
            "weights but knows the demo's scenes only.",
            show_default="ViT-B-32",
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Decoding processes; 0 takes one per processor."),
    ] = 0,
    store: Store = "exact",
    nprobe: Nprobe = None,
    qdrant: QdrantUrl = None,
    params: ParamsFile = DEFAULT_PARAMS,
    outputs: Outputs = None,
    device: Device = "auto",
) -> None:
    """Make a folder of videos searchable.

    No captions and no training are needed. Run it again after videos were added, changed or
    removed: it encodes only what is new, and forgets what is gone.

    Example:
        gare-cache index ~/Videos
    """
    from gare_cache.project.paths import open_workspace
    from gare_cache.search.choice import StoreChoice
    from gare_cache.stages.search import index as make_index
    from gare_cache.stages.search import index_folder

    chosen = StoreChoice(store, nprobe, qdrant)
    if videos is None and (into or encoder):
        raise ConfigError("--into and --encoder are of a new index; name its folder of videos")
    if videos is not None and params != DEFAULT_PARAMS:
        raise ConfigError("give a folder of videos or --params, not both")
    if videos is not None:
        project = into or Path(f"{videos.resolve().name}-index")
        params = index_folder(videos, project, encoder=encoder)
    workspace = open_workspace(params, outputs)
    for line in make_index(workspace, device=device, workers=workers, store=chosen):
        typer.echo(line)
    shown = "" if params == DEFAULT_PARAMS else f" -p {params}"
    typer.echo(f'next: gare-cache search "what the video shows"{shown}')


def search(
    query: Annotated[
        str | None,
        typer.Argument(help='What the video shows; "a dog^0.5" has half the weight.'),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Something else it shows; may be repeated."),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Something it does not show; may be repeated."),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Image that it resembles; may be repeated."),
    ] = None,
    video: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE|ID", help="Video that it resembles; may be repeated."),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File of many queries, one a line."),
    ] = None,
    top: Annotated[int, typer.Option(metavar="N", help="Number of videos to show.")] = 10,
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only videos of train, val or test.", show_default="all"),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Only videos below this folder.", show_default="all"),
    ] = None,
    min_seconds: Annotated[
        float, typer.Option(metavar="S", help="Shortest span of a moment.")
    ] = 0.0,
    max_seconds: Annotated[
        float | None,
        typer.Option(metavar="S", help="Longest span of a moment.", show_default="no limit"),
    ] = None,
    zero_shot: Annotated[
        bool, typer.Option("--zero-shot", help="Do not use the trained head.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the hits as JSON.")
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Also write the hits as CSV.")
    ] = None,
    open_best: Annotated[
        bool, typer.Option("--open", help="Open the best video in the default player.")
    ] = False,
    store: Store = "exact",
    nprobe: Nprobe = None,
    qdrant: QdrantUrl = None,
    params: ParamsFile = DEFAULT_PARAMS,
    outputs: Outputs = None,
    device: Device = "auto",
) -> None:
    """Search the videos of a project or an index.

    Prints rank, score, the share of videos that rank lower, the second that matches best with the
    span around it, and the file. The trained head ranks if there is one, else CLIP alone.

    Example:
        gare-cache search "a red circle moves left" --top 5
    """
    from gare_cache.project.paths import open_workspace
    from gare_cache.search.choice import StoreChoice
    from gare_cache.search.query import make_query
    from gare_cache.search.searcher import Wanted
    from gare_cache.stages import search as stage

    if queries is not None and query is not None:
        raise ConfigError("give a query or --queries, not both")
    texts = [query] if queries is None else stage.read_queries(queries)
    asked = [
        (
            text or "",
            make_query(
                text,
                also=also or (),
                without=without or (),
                images=image or (),
                like=video or (),
            ),
        )
        for text in texts
    ]
    wanted = Wanted(
        top=top,
        split=split,
        folder=folder,
        least_seconds=min_seconds,
        most_seconds=max_seconds,
    )
    chosen = StoreChoice(store, nprobe, qdrant)
    workspace = open_workspace(params, outputs, borrow=True)
    searcher = stage.project_searcher(workspace, zero_shot=zero_shot, device=device, store=chosen)
    lines, results = stage.search(searcher, asked, wanted, json_file=json_file, csv_file=csv_file)
    for line in lines:
        typer.echo(line)
    for result in results:
        stage.warn_missing(result)
    best = results[0].hits[0].path if results[0].hits else None
    if open_best and best is not None:
        typer.launch(str(best))


def serve(
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="OUTPUTS",
            help="Output folder of a second run, shown beside the first; zero-shot is CLIP alone.",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, metavar="N", help="Port; 0 takes any free one.")
    ] = 8765,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="Address to serve; any but this machine's own needs --token."
        ),
    ] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(
            envvar="GARE_CACHE_TOKEN",
            metavar="SECRET",
            help="Secret that opens page and API; better in $GARE_CACHE_TOKEN.",
            show_envvar=False,
        ),
    ] = None,
    zero_shot: Annotated[
        bool, typer.Option("--zero-shot", help="Do not use the trained head.")
    ] = False,
    fold: Annotated[
        float,
        typer.Option(
            metavar="COSINE",
            help="Above this cosine results are folded as near duplicates; 1 folds none.",
        ),
    ] = 0.99,
    rate: Annotated[
        float,
        typer.Option(
            min=0.0, metavar="N", help="Searches a second that one client may ask; 0 is no limit."
        ),
    ] = 20.0,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the page in the default browser.")
    ] = False,
    store: Store = "exact",
    nprobe: Nprobe = None,
    qdrant: QdrantUrl = None,
    params: ParamsFile = DEFAULT_PARAMS,
    outputs: Outputs = None,
    device: Device = "auto",
) -> None:
    """Search the videos on a page in the browser.

    The page plays each video at its moment. Only this machine can open it, unless --host and
    --token say otherwise. Ctrl-C stops it. Programs ask the same at /api, described in
    /api/openapi.json.

    Example:
        gare-cache serve --compare zero-shot --open
    """
    from gare_cache.search.choice import StoreChoice
    from gare_cache.serving.command import serve_project

    chosen = StoreChoice(store, nprobe, qdrant)

    def ready(url: str, line: str) -> None:
        typer.echo(line)
        typer.echo(f"open {url} (Ctrl-C stops)")
        if open_page:
            typer.launch(url)

    serve_project(
        params,
        outputs,
        compare=compare,
        zero_shot=zero_shot,
        device=device,
        host=host,
        port=port,
        token=token,
        fold_above=fold,
        rate=rate,
        store=chosen,
        on_ready=ready,
    )
    typer.echo("stopped")
