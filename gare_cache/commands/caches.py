"""Commands about feature caches: info, verify, export-features, cache list|gc|pack|unpack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gare_cache.commands.options import DEFAULT_PARAMS, Device, Outputs, ParamsFile


def info(params: ParamsFile = DEFAULT_PARAMS, outputs: Outputs = None) -> None:
    """Show what the project's caches hold.

    Prints identity, the coverage of every split, sizes, the seconds spent and the failures; and
    coverage, size and state of the cache of frames, if there is one.

    Example:
        gare-cache info
    """
    from gare_cache.project.paths import open_workspace
    from gare_cache.stages.info import describe

    for name, value in describe(open_workspace(params, outputs, borrow=True)):
        typer.echo(f"{name:<22} {value}")


def verify(
    folder: Annotated[
        str | None,
        typer.Argument(
            help="Name of a cache under the cache root, or its path.",
            show_default="the project's caches",
        ),
    ] = None,
    drop_damaged: Annotated[
        bool,
        typer.Option("--drop-damaged", help="Mark damaged units as not done, for extract to redo."),
    ] = False,
    reextract: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Encode N random videos and captions again, decode cached frames again; compare.",
        ),
    ] = 0,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Random seed of the sample for --reextract.")
    ] = 0,
    params: ParamsFile = DEFAULT_PARAMS,
    outputs: Outputs = None,
    device: Device = "auto",
) -> None:
    """Check whole caches for damage.

    They are those of the project's features and frames, or the one named. Rereads everything:
    checksums, sizes, counts, NaN, norms and the digests of the videos. Each fault is printed with
    its file, unit, rows and remedy; the exit code is 2 if there is any. With --reextract, cosines
    between the cached features and new ones are printed; frames must be equal.

    Example:
        gare-cache verify --reextract 20
    """
    from gare_cache.project.paths import open_workspace
    from gare_cache.stages.verify import reextract as encode_again
    from gare_cache.stages.verify import verify

    workspace = open_workspace(params, outputs, borrow=True)
    for line in verify(workspace, folder, drop_damaged=drop_damaged):
        typer.echo(line)
    if reextract:
        for line in encode_again(workspace, folder, count=reextract, seed=seed, device=device):
            typer.echo(line)


def export_features(
    path: Annotated[Path, typer.Argument(help="HDF5 file to write, or folder of another layout.")],
    layout: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="hdf5: one file. npz-per-item: a file an item, as moment retrieval's releases. "
            "webdataset: tar shards. huggingface: Parquet for datasets.load_dataset.",
        ),
    ] = "hdf5",
    shard_mib: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Mebibytes of features in a file of webdataset and huggingface.",
            show_default="512",
        ),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Split to export: train, val or test; may be repeated.",
            show_default="all",
        ),
    ] = None,
    params: ParamsFile = DEFAULT_PARAMS,
    outputs: Outputs = None,
) -> None:
    """Write the cached features for other programs.

    import-features reads every layout back exactly, with the encoder's name and what heads start
    from. Nothing that exists is overwritten, and a path appears only when it is whole. The folders'
    files and keys are in docs/features.md.

    Example:
        gare-cache export-features out --layout npz-per-item
    """
    from gare_cache.project.paths import open_workspace
    from gare_cache.stages.exchange import export

    workspace = open_workspace(params, outputs, borrow=True)
    typer.echo(f"{export(workspace, path, split or (), layout=layout, shard_mib=shard_mib)}")


def cache() -> None:
    """List, clean, pack, unpack and merge feature caches.

    Caches lie in cache/ beside the settings, or in $GARE_CACHE_ROOT. See docs/cache.md.

    Example:
        gare-cache cache list
    """


def list_caches(params: ParamsFile = DEFAULT_PARAMS) -> None:
    """List all caches under the cache root.

    Prints the data set, encoder, sampling, number of items, size and state of each.

    Example:
        gare-cache cache list
    """
    from gare_cache.stages.cache_folders import list_caches

    for line in list_caches(params.parent):
        typer.echo(line)


def collect_garbage(
    params: ParamsFile = DEFAULT_PARAMS,
    outputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--outputs",
            "-o",
            metavar="FOLDER",
            help="Another output folder whose cache is in use; may be repeated.",
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove them; without this flag they are only listed.")
    ] = False,
) -> None:
    """List unused caches and leftover files, and remove them with --yes.

    A cache is unused if no features.json of the outputs names it.

    Example:
        gare-cache cache gc
    """
    from gare_cache.stages.cache_folders import collect_garbage

    for line in collect_garbage(params.parent, outputs or (), remove_them=yes):
        typer.echo(line)


def pack(
    folder: Annotated[
        str, typer.Argument(help="Name of a cache under the cache root, or its path.")
    ],
    file: Annotated[Path, typer.Argument(help="Tar file to write.")],
    params: ParamsFile = DEFAULT_PARAMS,
    outputs: Outputs = None,
    part: Annotated[
        bool, typer.Option("--part", help="Also pack an unfinished cache, for cache merge.")
    ] = False,
) -> None:
    """Pack a finished cache into one tar file.

    The same cache always gives the same bytes.

    Example:
        gare-cache cache pack demo-0123456789ab demo.tar
    """
    from gare_cache.project.paths import open_workspace
    from gare_cache.stages.cache_folders import pack_cache

    pack_cache(open_workspace(params, outputs, borrow=True), folder, file, part=part)
    typer.echo(f"{file}")


def unpack(
    file: Annotated[Path, typer.Argument(help="Tar file written by cache pack.")],
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Unpack a cache into the cache root and verify it.

    Nothing that exists is overwritten.

    Example:
        gare-cache cache unpack demo.tar
    """
    from gare_cache.stages.cache_folders import unpack_cache

    typer.echo(f"{unpack_cache(params.parent, file)}")


def merge(
    parts: Annotated[
        list[Path], typer.Argument(help="Cache folders, or tar files of cache pack --part.")
    ],
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Join parts of one extraction that were written apart.

    Each part is verified; videos and captions that the cache under the cache root lacks are taken
    from it. For machines without a shared file system: extract --shard i/n on each, then cache
    pack --part, copy the files to one place, merge them, and run extract --finalise.

    Example:
        gare-cache cache merge part1.tar part2.tar
    """
    from gare_cache.stages.cache_folders import merge_caches

    for line in merge_caches(params.parent, parts):
        typer.echo(line)
