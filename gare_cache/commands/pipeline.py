"""Commands of the pipeline: prepare, extract or import-features, train, evaluate, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gare_cache.commands.options import (
    DEFAULT_PARAMS,
    Actors,
    Changes,
    Device,
    Engine,
    GpusPerActor,
    Outputs,
    ParamsFile,
    RayAddress,
    Seed,
    Timeout,
    Trust,
    Workers,
    cluster_of,
)


def prepare(params: ParamsFile = DEFAULT_PARAMS, outputs: Outputs = None) -> None:
    """Read annotations, locate video files and assign splits.

    Writes manifest/videos.parquet and manifest/captions.parquet, and lists the videos that have no
    file.

    Example:
        gare-cache prepare
    """
    from gare_cache.project.paths import open_workspace
    from gare_cache.stages.prepare import prepare

    workspace = open_workspace(params, outputs)
    with workspace.alone("prepare"):
        prepare(workspace)
    typer.echo(f"{workspace.manifest}")


def extract(
    params: ParamsFile = DEFAULT_PARAMS,
    outputs: Outputs = None,
    device: Device = "auto",
    threads: Annotated[
        int, typer.Option(min=0, metavar="N", help="Torch threads (0: torch's default).")
    ] = 0,
    workers: Workers = 0,
    shard: Annotated[
        str | None,
        typer.Option(metavar="i/n", help="Encode only part i of n. Run one process for each part."),
    ] = None,
    finalise: Annotated[
        bool,
        typer.Option(
            "--finalise", help="Only write the record of the cache, once all shards are done."
        ),
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Retry videos that failed in earlier runs.")
    ] = False,
    max_failures: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Stop when more than N videos have failed.",
            show_default="no limit",
        ),
    ] = None,
    frames: Annotated[
        bool,
        typer.Option(
            "--frames",
            help="Instead of features, keep the resized frames, to train the encoder on.",
        ),
    ] = False,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    actors: Actors = None,
    gpus_per_actor: GpusPerActor = None,
    encoder_from: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Encode with the encoder that finetune wrote into this folder of outputs, and "
            "write features.json there.",
            show_default="the encoder of params.yaml",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Estimate work, disk space and time; write and download nothing."
        ),
    ] = False,
) -> None:
    """Decode and encode the videos and captions not yet cached.

    The cache lies in cache/ beside the settings, or in $GARE_CACHE_ROOT, in a folder named after
    everything that the features depend on. Other settings make another folder; going back to the
    old settings finds the old one. You can interrupt the command and run it again at any time. See
    docs/cache.md.

    With --frames, the videos are decoded and the frames themselves are kept, in a folder of their
    own that serves every encoder with the same input: about 1.8 MB for a video of 12 frames of
    224 x 224 pixels. Training an encoder from them decodes no video again.

    With --engine ray, the actors of a Ray cluster are handed the units one by one and write one
    cache on a file system that they share; --threads and --workers are those of each actor. Workers
    may be lost and the command may be run again at any time. See docs/scale.md.

    Example:
        gare-cache extract --dry-run
    """
    from gare_cache.cache.lock import parse_shard
    from gare_cache.errors import ConfigError
    from gare_cache.project.finetuned import require_encoder_in
    from gare_cache.project.paths import open_workspace

    if encoder_from is not None:
        outputs = require_encoder_in(encoder_from, outputs)
    workspace = open_workspace(params, outputs)
    part = parse_shard(shard) if shard else None
    cluster = cluster_of(engine, ray_address, actors, gpus_per_actor)
    if cluster and (frames or dry_run):
        raise ConfigError("--engine ray goes with neither --frames nor --dry-run")
    if frames:
        from gare_cache.stages.extract_frames import estimate_frames, extract_frames

        if device != "auto" or threads:
            raise ConfigError("--frames runs no encoder; leave out --device and --threads")
        if dry_run:
            for line in estimate_frames(workspace):
                typer.echo(line)
        elif extract_frames(
            workspace,
            workers=workers,
            shard=part,
            finalise=finalise,
            retry_failed=retry_failed,
            max_failures=max_failures,
        ):
            typer.echo(f"{workspace.frames}")
        return
    from gare_cache.stages.extract import extract

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
        shard=part,
        finalise=finalise,
        retry_failed=retry_failed,
        max_failures=max_failures,
        cluster=cluster,
    )
    if features is not None:
        typer.echo(f"{workspace.features}")


def import_features(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="HDF5 files, npz archives, folders of npy files or what export-features wrote; "
            "with --layout, the videos'."
        ),
    ],
    encoder_id: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the encoder; needed unless export-features wrote the file.",
        ),
    ] = None,
    max_frames: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Frames kept per video, at least 1.",
            show_default="what the longest video needs",
        ),
    ] = None,
    logit_scale: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Natural logarithm of the logit scale that heads start from.",
            show_default="the file's, or log 100",
        ),
    ] = None,
    ignore_unknown: Annotated[
        bool,
        typer.Option("--ignore-unknown", help="Skip ids that are not in the manifest."),
    ] = False,
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Layout of a published release: npz-per-item, npy-per-item, h5-per-item, "
            "torch-dict, bigfile, webdataset or huggingface.",
            show_default="recognised by the content",
        ),
    ] = None,
    captions: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="With --layout: the captions' file or folder."),
    ] = None,
    caption_layout: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Layout of --captions.", show_default="that of the videos"
        ),
    ] = None,
    video_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Array in each video's npz file or HDF5 group.",
            show_default="the only one",
        ),
    ] = None,
    caption_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="The same for captions.",
            show_default="the only one",
        ),
    ] = None,
    caption_name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How captions are named, {} for the id: qid{}.",
            show_default="{}",
        ),
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV", help="Ids of the release and of the manifest; header: theirs,ours."
        ),
    ] = None,
    seconds_per_row: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="Seconds from one row of a video to the next.",
            show_default="no seconds",
        ),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(metavar="N", help="The same as rows of a video in a second: 1 / S."),
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Pool a caption's token features: mean, or eot, the last row.",
            show_default="they are refused",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the first items as understood; write nothing."),
    ] = False,
    params: ParamsFile = DEFAULT_PARAMS,
    outputs: Outputs = None,
) -> None:
    """Import features encoded elsewhere, instead of extract.

    No video file is needed: set dataset.video_roots to an empty list and run prepare first. Files
    larger than memory are streamed. You can interrupt the command and run it again at any time.

    What export-features wrote needs no option. Files as others publish them need --layout; try
    --dry-run first, which shows how their ids, shapes and seconds are understood. docs/features.md
    has the command for each known release, and says what becomes of faulty rows.

    Example:
        gare-cache import-features features.h5 --encoder-id mine
    """
    from gare_cache.project.paths import open_workspace
    from gare_cache.stages.exchange import import_features, preview_import
    from gare_cache.stages.import_request import ImportRequest, release_options

    workspace = open_workspace(params, outputs)
    release = release_options(
        layout,
        caption_layout=caption_layout,
        video_key=video_key,
        caption_key=caption_key,
        caption_name=caption_name,
        ids=ids,
        seconds_per_row=seconds_per_row,
        fps=fps,
        pool=pool,
    )
    request = ImportRequest(
        sources,
        captions=captions or [],
        release=release,
        encoder_id=encoder_id,
        max_frames=max_frames,
        logit_scale=logit_scale,
        ignore_unknown=ignore_unknown,
    )
    if dry_run:
        typer.echo("\n".join(preview_import(workspace, request)))
        return
    import_features(workspace, request)
    typer.echo(f"{workspace.features}")


def train(
    params: ParamsFile = DEFAULT_PARAMS,
    outputs: Outputs = None,
    device: Device = "auto",
    settings: Changes = None,
    seed: Seed = None,
    timeout: Timeout = 60.0,
) -> None:
    """Train a head on the cached features.

    Every epoch is validated and the best one is kept. Under torchrun, N processes share each batch:

      torchrun --nproc-per-node=N -m gare_cache.cli train

    An interrupted training continues after its last complete epoch, with the same result. A folder
    of outputs without features uses those of the project's outputs. The run's record holds the
    settings that it was trained with, those of --set and --seed included.

    Example:
        gare-cache train --seed 1 --set train.epochs=5
    """
    from gare_cache.project.paths import open_workspace
    from gare_cache.stages.train import train
    from gare_cache.studies.setting_keys import stage_changes
    from gare_cache.training.distributed import is_first_process

    changes = stage_changes("train", ("head", "train"), settings or (), seed=seed)
    workspace = open_workspace(params, outputs, changes=changes, borrow=True)
    train(workspace, device=device, timeout=timeout)
    if is_first_process():
        typer.echo(f"{workspace.run}")


def finetune(
    params: ParamsFile = DEFAULT_PARAMS,
    outputs: Annotated[
        Path | None,
        typer.Option(
            "--outputs",
            "-o",
            metavar="FOLDER",
            help="Folder of outputs to write encoder and run to.",
            show_default="outputs/finetune in the project",
        ),
    ] = None,
    device: Device = "auto",
    workers: Workers = 0,
    from_run: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Start from this run's head, trained on the cached features (outputs/run).",
            show_default="finetune.from_run, or a new head",
        ),
    ] = None,
    settings: Changes = None,
    seed: Seed = None,
    timeout: Timeout = 60.0,
) -> None:
    """Train the encoder, too, on frames.

    Off until finetune.encoder is full, last or lora. Writes a folder of outputs of its own with
    encoder/ and run/, which the other commands take with -o; make its cache first:

      gare-cache extract --encoder-from outputs/finetune

      gare-cache evaluate -o outputs/finetune

    Stopped by Ctrl-C or SIGTERM it keeps its state, and the same command continues. Under torchrun,
    N processes share each batch, as in train. See docs/finetuning.md.

    Example:
        gare-cache finetune --set finetune.encoder=lora
    """
    from dataclasses import replace

    from gare_cache.project.paths import open_workspace
    from gare_cache.studies.setting_keys import stage_changes

    changes = stage_changes("finetune", ("head", "train", "finetune"), settings or (), seed=seed)
    workspace = open_workspace(params, changes=changes)
    target = replace(workspace, outputs=outputs or workspace.outputs / "finetune")
    if workspace.params.finetune.encoder is None:
        from gare_cache.project.finetuned import write_off

        write_off(target)
        return
    from gare_cache.stages.finetune import finetune
    from gare_cache.training.distributed import is_first_process

    finetune(
        workspace,
        target=target,
        device=device,
        workers=workers,
        from_run=from_run,
        timeout=timeout,
    )
    if is_first_process():
        typer.echo(f"{target.outputs}")


def evaluate(
    params: ParamsFile = DEFAULT_PARAMS,
    outputs: Outputs = None,
    device: Device = "auto",
    settings: Changes = None,
    trust: Trust = False,
) -> None:
    """Score the head and the zero-shot baseline.

    Recall is measured in both directions, with fair ties and confidence intervals. Writes
    metrics.json, the rank of every query (ranks.parquet) and the similarity matrix. Test-time
    normalisers named in evaluate.normalisers are applied to the same scores (docs/normalisers.md).
    Every scoring of the test split is recorded in .gare/ledger.jsonl.

    Example:
        gare-cache evaluate
    """
    from gare_cache.project.paths import open_workspace
    from gare_cache.project.progress import say
    from gare_cache.stages.evaluate import evaluate
    from gare_cache.stages.report import score_lines
    from gare_cache.studies.setting_keys import stage_changes

    changes = stage_changes("evaluate", ("evaluate",), settings or ())
    workspace = open_workspace(params, outputs, changes=changes, borrow=True, trust=trust)
    with workspace.alone("evaluate"):
        evaluate(workspace, device=device)
    for line in score_lines(workspace):
        say(line)
    typer.echo(f"{workspace.evaluation}")


def report(params: ParamsFile = DEFAULT_PARAMS, outputs: Outputs = None) -> None:
    """Write the results as HTML, Markdown and LaTeX.

    The HTML page is self-contained: one file that loads nothing else. The results are printed, too,
    as evaluate prints them; report/table.md holds them as Markdown.

    Example:
        gare-cache report
    """
    from gare_cache.project.paths import open_workspace
    from gare_cache.stages.report import report, score_lines

    workspace = open_workspace(params, outputs, borrow=True)
    with workspace.alone("report"):
        report(workspace)
    for line in score_lines(workspace):
        typer.echo(line)
    typer.echo(f"{workspace.report / 'report.html'}")
