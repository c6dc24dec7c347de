"""Stages index and search: make a folder of videos searchable, and find moments in them."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gare_cache.errors import ConfigError, counted
from gare_cache.files import file_digest, read_json, write_json, write_text
from gare_cache.manifest.tables import read_manifest
from gare_cache.presets import OWN_DATA, project_files
from gare_cache.project.paths import PARAMS_FILE, Workspace, open_workspace
from gare_cache.project.progress import say
from gare_cache.reports.pages.plain_table import plain_table
from gare_cache.reproducibility import resolve_device
from gare_cache.search.choice import StoreChoice
from gare_cache.search.hits import SearchHit, SearchResult
from gare_cache.search.opening import keep_text, open_searcher
from gare_cache.search.query import Query
from gare_cache.search.searcher import Searcher, Wanted
from gare_cache.training.checkpoint import load_checkpoint, require_encoder

_COLUMNS = ("query", *(field.name for field in dataclasses.fields(SearchHit)))


def index_folder(videos: Path, project: Path, *, encoder: str | None = None) -> Path:
    """Return the settings of a project that searches a folder of videos; written if missing.

    Args:
        videos: the folder.
        project: folder of the project.
        encoder: open_clip model, or ``demo``; None takes the preset's.

    Raises:
        ConfigError: ``videos`` is no folder, the encoder is unknown, or the project is of another
            folder or encoder.
    """
    if not videos.is_dir():
        raise ConfigError(f"{videos} is no folder; give the folder of the videos to search")
    file = project / PARAMS_FILE
    if file.is_file():
        _check_project(open_workspace(file), videos, encoder)
        return file
    place = json.dumps(str(videos.absolute()), ensure_ascii=False)
    params = project_files(OWN_DATA, encoder=encoder, name="index")[PARAMS_FILE]
    for old, new in (
        ("reader: generic", "reader: folder"),
        ("annotations: captions.csv", f"annotations: {place}"),
        ("video_roots: [videos]", f"video_roots: [{place}]"),
        ("val_fraction: 0.1", "val_fraction: null"),
        ("test_fraction: 0.1", "test_fraction: null"),
        ("max_failed_percent: 5.0", "max_failed_percent: 100.0"),
    ):
        assert old in params, old
        params = params.replace(old, new, 1)
    write_text(file, params)
    return file


def _check_project(workspace: Workspace, videos: Path, encoder: str | None) -> None:
    settings = workspace.params
    listed = workspace.locate(settings.dataset.annotations)
    if settings.dataset.reader != "folder" or listed.resolve() != videos.resolve():
        raise ConfigError(
            f"{workspace.project} is a project of {listed}; name another folder with --into"
        )
    model = settings.encoder and settings.encoder.model
    if encoder is not None and encoder != model:
        raise ConfigError(
            f"{workspace.project} was made with encoder {model}; leave --encoder out, or name "
            "another folder with --into"
        )


def index(
    workspace: Workspace,
    *,
    device: str = "auto",
    workers: int = 0,
    store: StoreChoice = StoreChoice(),  # noqa: B008
) -> list[str]:
    """Encode the videos that are new or changed, and make all of them searchable.

    Args:
        workspace: the project.
        device: where the encoder runs.
        workers: decoding processes; 0 takes one per processor, at most 16.
        store: what finds the shortlist.

    Returns:
        What changed, and how long the shortlist must be, as lines.

    Raises:
        AnnotationError, ConfigError, CacheError, DecodeError: as ``prepare`` and ``extract``.
    """
    # Imported late: a search neither reads annotations nor decodes.
    from gare_cache.stages.extract import extract
    from gare_cache.stages.prepare import prepare

    before = _listed(workspace)
    prepare(workspace)
    extract(workspace, device=device, workers=workers)
    searcher = project_searcher(workspace, device=device, store=store)
    keep_text(workspace, searcher)
    now = _listed(workspace)
    changed = sum(before[id_] != now[id_] for id_ in before.keys() & now.keys())
    parts = [
        f"{len(now.keys() - before.keys()):,} new",
        f"{changed:,} changed",
        f"{len(before.keys() - now.keys()):,} removed",
    ]
    gallery = searcher.gallery
    lines = [f"{counted(len(gallery.videos), 'video')} can be searched ({', '.join(parts)})"]
    notes = (searcher.shortlist_note(), searcher.disk_note())
    lines += [note for note in notes if note is not None]
    if gallery.failed:
        lines.append(
            f"warning: {counted(gallery.failed, 'video', 'have')} no features and cannot be found; "
            "`gare-cache info` tells why"
        )
    return lines


def _listed(workspace: Workspace) -> dict[str, Any]:
    if not (workspace.manifest / "videos.parquet").is_file():
        return {}
    rows = read_manifest(workspace.manifest).videos.to_pylist()
    return {row["video_id"]: (row["size_bytes"], row["mtime_ns"]) for row in rows}


def project_searcher(
    workspace: Workspace,
    *,
    zero_shot: bool = False,
    device: str = "auto",
    store: StoreChoice = StoreChoice(),  # noqa: B008
) -> Searcher:
    """Open a project for searching, with its trained head if it has one.

    Args:
        workspace: the project.
        zero_shot: rank by the mean frame, even if a head is trained.
        device: where queries are encoded and scored.
        store: what finds the shortlist.

    Raises:
        ConfigError, EnvironmentFailure: as ``StoreChoice.open``.
        CacheError: nothing was extracted.
        FingerprintMismatch: the head or the settings are of another encoder than the features.
    """
    target = resolve_device(device)
    file = workspace.run / "head.safetensors"
    if zero_shot or not file.is_file():
        return open_searcher(workspace, device=target, store=store)
    checkpoint = load_checkpoint(file)
    encoder_id = read_json(workspace.features)["encoder_id"] if workspace.features.is_file() else ""
    if encoder_id:
        require_encoder(checkpoint, encoder_id, where=workspace.features)
    return open_searcher(
        workspace,
        checkpoint.head.to(target),
        head_id=file_digest(file),
        device=target,
        store=store,
    )


def read_queries(path: Path) -> list[str]:
    """Return the queries of a file, one a line; blank lines are skipped.

    Raises:
        ConfigError: the file is missing, not UTF-8, or holds no query.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as err:
        raise ConfigError(f"{path} is not UTF-8 ({err}); save it as UTF-8") from err
    except OSError as err:
        raise ConfigError(f"{path} cannot be read: {err.strerror or err}") from err
    queries = [line.strip() for line in lines if line.strip()]
    if not queries:
        raise ConfigError(f"{path} holds no query; write one a line")
    return queries


def search(
    searcher: Searcher,
    queries: Sequence[tuple[str, Query]],
    wanted: Wanted,
    *,
    json_file: Path | None = None,
    csv_file: Path | None = None,
) -> tuple[list[str], list[SearchResult]]:
    """Search for each query.

    Args:
        searcher: the open project.
        queries: their texts, as shown, and the queries.
        wanted: which videos, how many, and how long their moments.
        json_file: where to write the hits of all queries with notes.
        csv_file: where to write them as a table, one row a hit.

    Returns:
        Lines to print, and the results.

    Raises:
        ConfigError, DecodeError, NonFiniteScores: as ``Searcher.search``.
    """
    results = [searcher.search(query, wanted) for _, query in queries]
    named = [(text, result) for (text, _), result in zip(queries, results, strict=True)]
    if json_file is not None:
        write_json(json_file, [_json(text, result) for text, result in named])
    if csv_file is not None:
        write_text(csv_file, _csv(named))
    return [line for text, result in named for line in _lines(text, result, len(named))], results


def _lines(text: str, result: SearchResult, queries: int) -> Iterator[str]:
    if queries > 1:
        yield f"query: {text}"
    rows = [
        (
            str(hit.rank),
            f"{hit.score:.3f}",
            f"{hit.percentile:.1f}",
            *map(_seconds, (hit.best_time, hit.start, hit.end)),
            hit.video_id if hit.path is None else str(hit.path),
        )
        for hit in result.hits
    ]
    header = ("rank", "score", "percentile", "best s", "from s", "to s", "video")
    yield from plain_table(header, rows, num_left=0, last_left=True)
    exact = "" if result.reranked == result.searched else f", {result.reranked:,} of them exactly"
    yield f"searched {counted(result.searched, 'video')}{exact}"
    yield from (f"note: {note}" for note in result.notes)


def _seconds(value: float | None) -> str:
    return "—" if value is None else f"{value:.1f}"


def _json(text: str, result: SearchResult) -> dict[str, Any]:
    return {
        "query": text,
        "searched": result.searched,
        "reranked": result.reranked,
        "notes": list(result.notes),
        "hits": [_values(hit) for hit in result.hits],
    }


def _csv(named: Sequence[tuple[str, SearchResult]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {"query": query, **_values(hit)} for query, result in named for hit in result.hits
    )
    return text.getvalue()


def _values(hit: SearchHit) -> dict[str, Any]:
    return {**dataclasses.asdict(hit), "path": None if hit.path is None else str(hit.path)}


def warn_missing(result: SearchResult) -> None:
    """Say which files of the hits are gone."""
    gone = [hit.path for hit in result.hits if hit.path is not None and not hit.path.exists()]
    if gone:
        say(
            f"warning: {counted(len(gone), 'file', 'are')} gone, the first is {gone[0]}; run "
            "`gare-cache index` again"
        )
