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

cache_app = typer.Typer(no_args_is_help=True, help="List, clean, pack and unpack feature caches.")
app.add_typer(cache_app, name="cache")


@app.callback()
def root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and the libraries' messages.")
    ] = False,
) -> None:
    """Encode a text-video benchmark once with CLIP; train and compare heads from the cache.

    The pipeline is [bold]prepare -> extract -> train -> evaluate -> report[/bold], one command
    each, all driven by params.yaml; `dvc repro` runs what is out of date. Start with
    [bold]gare-cache init[/bold], which writes params.yaml and dvc.yaml.

    Exit codes: 0 done, 1 the machine failed (disk, device, network), 2 a mistake in settings or
    data, 3 the canary found a leak or a run did not come out again, 130 interrupted.
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
    from gare_cache.project.paths import open_workspace
    from gare_cache.stages.prepare import prepare

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
        int, typer.Option(min=0, help="Processes that decode; 0: one a processor, at most 16.")
    ] = 0,
    shard: Annotated[
        str | None,
        typer.Option(metavar="i/n", help="Encode part i of n alone; run n such processes."),
    ] = None,
    finalise: Annotated[
        bool, typer.Option("--finalise", help="After the shards: write features.json, no more.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed in earlier runs.")
    ] = False,
    max_failures: Annotated[
        int | None, typer.Option(min=0, help="Stop once more videos than this have failed.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show work, bytes and time; write nothing.")
    ] = False,
) -> None:
    """Decode and encode what the cache lacks, unit by unit.

    The cache lies under cache/ beside the settings, or under $GARE_CACHE_ROOT, in a folder named
    after everything the features depend on: other settings make another folder, and going back
    finds the old one. Can be interrupted and run again at any time. docs/cache.md explains it.
    """
    from gare_cache.cache.lock import parse_shard
    from gare_cache.project.paths import open_workspace
    from gare_cache.stages.extract import extract

    workspace = open_workspace(params, outputs)
    if dry_run:
        from gare_cache.extraction.estimate import dry_run as estimate

        for line in estimate(workspace, device=device, threads=threads, workers=workers):
            typer.echo(line)
        return
    features = extract(
        workspace,
        device=device,
        threads=threads,
        workers=workers,
        shard=parse_shard(shard) if shard else None,
        finalise=finalise,
        retry_failed=retry_failed,
        max_failures=max_failures,
    )
    if features is not None:
        typer.echo(f"{workspace.features}")


@app.command("import-features")
def import_features(
    sources: Annotated[
        list[Path], typer.Argument(help="HDF5 files, npz archives or folders of npy files.")
    ],
    encoder_id: Annotated[
        str | None,
        typer.Option(help="Name of their encoder; a file of export-features knows its own."),
    ] = None,
    max_frames: Annotated[
        int | None, typer.Option(min=1, help="Frames of a row; else what the longest video needs.")
    ] = None,
    logit_scale: Annotated[
        float | None,
        typer.Option(help="Log of the scale that heads start from. Else the file's, or log 100."),
    ] = None,
    ignore_unknown: Annotated[
        bool, typer.Option("--ignore-unknown", help="Leave out ids that the manifest lacks.")
    ] = False,
    params: ParamsFile = DEFAULT_PARAMS,
    outputs: Outputs = None,
) -> None:
    """Make a cache of features that were encoded elsewhere, in place of extract.

    Layouts, and what becomes of faulty rows: docs/features.md. Files larger than memory are
    streamed; can be interrupted and run again at any time. Needs no video file: set
    dataset.video_roots to an empty list and run prepare first.
    """
    from gare_cache.project.paths import open_workspace
    from gare_cache.stages.exchange import import_features

    workspace = open_workspace(params, outputs)
    import_features(
        workspace,
        sources,
        encoder_id=encoder_id,
        max_frames=max_frames,
        logit_scale=logit_scale,
        ignore_unknown=ignore_unknown,
    )
    typer.echo(f"{workspace.features}")


@app.command("export-features")
def export_features(
    file: Annotated[Path, typer.Argument(help="The HDF5 file to make.")],
    split: Annotated[
        list[str] | None, typer.Option(help="train, val or test; may be repeated; else all.")
    ] = None,
    params: ParamsFile = DEFAULT_PARAMS,
    outputs: Outputs = None,
) -> None:
    """Write the cache's features to one HDF5 file, which import-features reads back exactly."""
    from gare_cache.project.paths import open_workspace
    from gare_cache.stages.exchange import export

    typer.echo(f"{export(open_workspace(params, outputs), file, split or ())}")


@app.command()
def info(params: ParamsFile = DEFAULT_PARAMS, outputs: Outputs = None) -> None:
    """Show the cache: identities, coverage of every split, sizes, seconds spent, failures."""
    from gare_cache.project.paths import open_workspace
    from gare_cache.stages.info import describe

    for name, value in describe(open_workspace(params, outputs)):
        typer.echo(f"{name:<22} {value}")


@app.command()
def verify(
    folder: Annotated[
        str | None, typer.Argument(help="Name under the root, or path; else features.json's.")
    ] = None,
    drop_damaged: Annotated[
        bool, typer.Option("--drop-damaged", help="Take damaged units for not done.")
    ] = False,
    reextract: Annotated[
        int, typer.Option(min=0, metavar="N", help="Encode N random videos and captions again.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of the choice of these.")] = 0,
    params: ParamsFile = DEFAULT_PARAMS,
    outputs: Outputs = None,
    device: Device = "auto",
) -> None:
    """Reread a whole cache: checksums, sizes, counts, NaN, norms, digests of the videos.

    Every fault is a line with its file, unit, rows and remedy; exit code 2 where there is one.
    With --reextract it shows the cosines between the cache and the same items encoded now.
    """
    from gare_cache.project.paths import open_workspace
    from gare_cache.stages.verify import reextract as encode_again
    from gare_cache.stages.verify import verify

    workspace = open_workspace(params, outputs)
    for line in verify(workspace, folder, drop_damaged=drop_damaged):
        typer.echo(line)
    if reextract:
        for line in encode_again(workspace, folder, count=reextract, seed=seed, device=device):
            typer.echo(line)


@app.command()
def train(
    params: ParamsFile = DEFAULT_PARAMS, outputs: Outputs = None, device: Device = "auto"
) -> None:
    """Train a head on the cached features, validate every epoch, keep the best.

    An interrupted training goes on behind its last whole epoch, with the same result. Several
    processes share each batch: torchrun --nproc-per-node=N -m gare_cache.cli train.
    """
    from gare_cache.project.paths import open_workspace
    from gare_cache.stages.train import train
    from gare_cache.training.distributed import is_first_process

    workspace = open_workspace(params, outputs)
    train(workspace, device=device)
    if is_first_process():
        typer.echo(f"{workspace.run}")


@app.command()
def evaluate(
    params: ParamsFile = DEFAULT_PARAMS, outputs: Outputs = None, device: Device = "auto"
) -> None:
    """Score the head and the zero-shot baseline: recall with ties, both directions, intervals.

    Writes metrics.json, the rank of every query (ranks.parquet) and the similarity matrix. Where
    evaluate.normalisers names some, a ledger of test-time normalisers follows
    (docs/normalisers.md). A scoring of the test split is entered in .gare/ledger.jsonl.
    """
    from gare_cache.project.paths import open_workspace
    from gare_cache.stages.evaluate import evaluate

    workspace = open_workspace(params, outputs)
    evaluate(workspace, device=device)
    typer.echo(f"{workspace.evaluation}")


@app.command()
def report(params: ParamsFile = DEFAULT_PARAMS, outputs: Outputs = None) -> None:
    """Write the results as one self-contained HTML page, Markdown and LaTeX; print the table."""
    from gare_cache.project.paths import open_workspace
    from gare_cache.stages.report import report

    workspace = open_workspace(params, outputs)
    typer.echo(report(workspace))
    typer.echo(f"{workspace.report / 'report.html'}")


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Of the new project; made if need be.")],
    preset: Annotated[str, typer.Option(help="demo, generic or msrvtt-1ka.")],
    encoder: Annotated[
        str | None,
        typer.Option(help="ViT-B-32 (default), ViT-B-16 or ViT-L-14; the demo has its own."),
    ] = None,
) -> None:
    """Start a project: params.yaml, dvc.yaml, .gitignore and a README of the next commands.

    Nothing is overwritten.
    """
    from gare_cache.stages.init import init

    for path in init(folder, preset=preset, encoder=encoder):
        typer.echo(f"{path}")
    typer.echo(f"next: cd {folder}, and follow README.md")


@app.command()
def score(
    file: Annotated[Path, typer.Argument(help="npy of (T, V): rows texts, columns videos.")],
    video_of_text: Annotated[
        Path | None,
        typer.Option(help="npy, txt or csv: each text's column from 0. Else the diagonal is true."),
    ] = None,
    video_ids: Annotated[
        Path | None,
        typer.Option(help="Ids of the columns; then --video-of-text holds ids."),
    ] = None,
    transposed: Annotated[bool, typer.Option("--transposed", help="Rows are videos.")] = False,
    v2t_convention: Annotated[
        str, typer.Option(help="best_caption_of_all or best_caption_group.")
    ] = "best_caption_of_all",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures there, unrounded.")
    ] = None,
    normalise: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:param=value,...]", help="Correct the scores; may be repeated."),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(help="Logits = scale x values, for cosines. Else the values are logits."),
    ] = None,
    query_bank_t2v: Annotated[
        Path | None, typer.Option(help="npy: training texts (rows) against the videos.")
    ] = None,
    query_bank_v2t: Annotated[
        Path | None, typer.Option(help="npy: training videos (rows) against the texts.")
    ] = None,
    gallery_bank_t2v: Annotated[
        Path | None, typer.Option(help="npy: training videos (rows) against the videos.")
    ] = None,
    gallery_bank_v2t: Annotated[
        Path | None, typer.Option(help="npy: training texts (rows) against the texts.")
    ] = None,
) -> None:
    """Score a similarity matrix that any program saved: both directions, ties, intervals.

    NaN, infinity and lists that do not fit are errors; nothing is dropped. docs/compare.md.
    With --normalise a ledger of test-time normalisers follows, the raw scores first: sinkhorn,
    inverted_softmax, qbnorm, dsl, dual_is, dual_dis, csls, nnn, or one of your own. Such as
    --normalise dsl, which sees all queries at once, or --normalise csls:k=5 with both query banks.
    docs/normalisers.md.
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


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(help="Outputs folder of an evaluated run.")],
    run_b: Annotated[Path, typer.Argument(help="Outputs folder of the run to compare with.")],
    also_a: Annotated[
        list[Path] | None, typer.Option(help="Another seed of A; may be repeated.")
    ] = None,
    also_b: Annotated[
        list[Path] | None, typer.Option(help="Another seed of B; may be repeated.")
    ] = None,
    method_a: Annotated[str, typer.Option(help="head or zero_shot.")] = "head",
    method_b: Annotated[str, typer.Option(help="head or zero_shot.")] = "head",
    queries: Annotated[
        Path | None, typer.Option(help="List the queries won and lost: .parquet or .csv.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures there, unrounded.")
    ] = None,
) -> None:
    """Say whether run A beats run B: paired differences with intervals and p, queries won and lost.

    Runs on different test queries are refused. With --also-a and --also-b the interval covers the
    noise of the seeds, too. docs/compare.md.
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


@app.command()
def canary(
    head: Annotated[
        str, typer.Option(help="trained, or params: the head that training starts from.")
    ] = "trained",
    galleries: Annotated[int, typer.Option(min=1, help="Random galleries a test.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of features, permutations and ties.")] = 0,
    params: ParamsFile = DEFAULT_PARAMS,
    outputs: Outputs = None,
    device: Device = "auto",
) -> None:
    """Test that recall is chance where there is no truth: random features, permuted video ids.

    Every row is an exact test of R@1 through the functions that evaluate uses; one with p at most
    0.001 fails. A failure means that the head or the scoring knows which caption belongs to which
    video, or miscounts ranks; exit code 3. Writes canary.json. docs/canary.md explains it.
    """
    from gare_cache.project.paths import open_workspace
    from gare_cache.stages.canary import canary

    workspace = open_workspace(params, outputs)
    for line in canary(workspace, head=head, galleries=galleries, seed=seed, device=device):
        typer.echo(line)
    typer.echo(f"{workspace.outputs / 'canary.json'}")


@app.command()
def diagnose(
    params: ParamsFile = DEFAULT_PARAMS,
    outputs: Outputs = None,
    split: Annotated[
        str, typer.Option(help="train, val or test; test is entered in the ledger.")
    ] = "val",
    seed: Annotated[int, typer.Option(min=0, help="Of the batch of pairs for the gradients.")] = 0,
    radius: Annotated[
        float | None,
        typer.Option(
            help="Of the ideal step, a length of the increment; else that of the run's trust "
            "region or, without one, the largest length in the batch."
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """Take the increment of GARE's head apart: gradients, tension, lengths, angles, variance.

    Says what is left of R@1 with one increment a video and with none, and whether the increment
    points down the loss. Writes diagnosis/diagnosis.json, .html and .md. docs/diagnostics.md.
    """
    from gare_cache.diagnosis.readings import answers
    from gare_cache.project.paths import open_workspace
    from gare_cache.stages.diagnose import diagnose

    workspace = open_workspace(params, outputs)
    diagnosis = diagnose(workspace, split=split, seed=seed, radius=radius, device=device)
    for question, answer in answers(diagnosis):
        typer.echo(f"{question} {answer}")
    typer.echo(f"{workspace.outputs / 'diagnosis' / 'diagnosis.html'}")


@app.command("check-head")
def check_head(
    name: Annotated[str, typer.Argument(help="Import path, such as my_head:MyHead.")],
    role: Annotated[
        str, typer.Option("--as", help="head (an interaction) or aggregator.")
    ] = "head",
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Of its options; may be repeated."),
    ] = None,
    dim: Annotated[int, typer.Option(min=1, help="Width of the features.")] = 64,
    frames: Annotated[int, typer.Option(min=1, help="The most frames of a video.")] = 8,
    aggregator: Annotated[
        str, typer.Option(help="That a head is checked behind; its name or import path.")
    ] = "mean",
    galleries: Annotated[int, typer.Option(min=1, help="Random galleries of the leak test.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, features and draws.")] = 0,
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Check a head or aggregator of your own on random features, before anything is trained.

    Shapes, gradients, padding, order, batches, dropout, saving, learning and leaks: one row each,
    and what to do where one fails; exit code 2, or 3 for a leak. Needs no data: of --params only
    the folder counts, whose modules can be imported. docs/extending.md.
    """
    from gare_cache.stages.check_head import check_head, parse_options

    lines = check_head(
        name,
        folder=params.parent,
        role=role,
        options=parse_options(option or []),
        dim=dim,
        frames=frames,
        aggregator=aggregator,
        galleries=galleries,
        seed=seed,
    )
    for line in lines:
        typer.echo(line)


@app.command()
def ablate(
    study: Annotated[Path, typer.Argument(help="A study file, see docs/studies.md.")],
    outputs: Annotated[
        Path | None,
        typer.Option("--outputs", "-o", help="Folder of the outputs. [default: the project's]"),
    ] = None,
    device: Device = "auto",
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, each in a process.")] = 1,
    limit: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Train at most N runs now.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show variants, runs and time; do nothing.")
    ] = False,
    final: Annotated[
        bool, typer.Option("--final", help="Score the test split, once a run, and show it.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try runs again that failed before.")
    ] = False,
    extract: Annotated[
        bool, typer.Option("--extract", help="Prepare and extract features that are missing.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="SETTING=VALUE", help="Change it in all variants; may be repeated."
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Train one row again and compare: --check [ROW].")
    ] = False,
    row: Annotated[
        int | None, typer.Argument(metavar="[ROW]", help="For --check: its number in the plan.")
    ] = None,
) -> None:
    """Train the runs of a study that are missing, rank its variants on validation, compare them.

    Variants, seeds, the reference row and the protocol stand in the study file. Finished runs are
    kept under .gare/runs and skipped, also by other studies; can be interrupted and run again at
    any time. Writes report.html, its Markdown and LaTeX, and runs, ranks and history as Parquet
    under outputs/studies/NAME/. docs/studies.md explains it.
    """
    from gare_cache.studies.ablate import ablate
    from gare_cache.studies.reproduce import check_row

    if row is not None and not check:
        raise typer.BadParameter(f"row {row} is given without --check", param_hint="ROW")
    if check:
        lines = check_row(
            study, row=row or 1, outputs=outputs, device=device, settings=settings or ()
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
        )
    for line in lines:
        typer.echo(line)


@cache_app.command("list")
def list_caches(params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Show all caches under the root: data set, encoder, sampling, items, size, state."""
    from gare_cache.stages.cache_folders import list_caches

    for line in list_caches(params.parent):
        typer.echo(line)


@cache_app.command("gc")
def collect_garbage(
    params: ParamsFile = DEFAULT_PARAMS,
    outputs: Annotated[
        list[Path] | None, typer.Option("--outputs", "-o", help="Further folders of outputs.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove them; else they are only shown.")
    ] = False,
) -> None:
    """Show, and with --yes remove, caches that no features.json names, and leftover files."""
    from gare_cache.stages.cache_folders import collect_garbage

    for line in collect_garbage(params.parent, outputs or (), remove_them=yes):
        typer.echo(line)


@cache_app.command("pack")
def pack(
    folder: Annotated[str, typer.Argument(help="Name under the root, or path.")],
    file: Annotated[Path, typer.Argument(help="The tar to make.")],
    params: ParamsFile = DEFAULT_PARAMS,
    outputs: Outputs = None,
) -> None:
    """Write a finished cache into one file; the same cache gives the same bytes."""
    from gare_cache.project.paths import open_workspace
    from gare_cache.stages.cache_folders import pack_cache

    pack_cache(open_workspace(params, outputs), folder, file)
    typer.echo(f"{file}")


@cache_app.command("unpack")
def unpack(
    file: Annotated[Path, typer.Argument(help="Made by pack.")],
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Unpack a cache into the root and verify it; nothing that exists is overwritten."""
    from gare_cache.stages.cache_folders import unpack_cache

    typer.echo(f"{unpack_cache(params.parent, file)}")


def main() -> None:
    """Run the command line."""
    app(prog_name="gare-cache")


if __name__ == "__main__":
    main()
