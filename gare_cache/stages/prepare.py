"""Stage prepare: write the manifest from annotations and video folders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gare_cache.annotations.grammar import PARAGRAPH
from gare_cache.annotations.readers import (
    check_joins,
    official_sizes,
    read_annotations,
    split_fractions,
)
from gare_cache.errors import counted
from gare_cache.files import write_record
from gare_cache.manifest.build import build_manifest
from gare_cache.manifest.splits import caution_small
from gare_cache.project.paths import Workspace
from gare_cache.project.progress import say

_MISSING_SHOWN = 5


def prepare(workspace: Workspace) -> dict[str, Any]:
    """Write ``manifest/{videos,captions}.parquet`` and ``manifest/summary.json``.

    Returns:
        The summary: counts per split, the missing videos with the place of their annotation, the
        number of annotated sentences, the reader's notes and the official sizes.

    Raises:
        AnnotationError: the annotations or video folders are faulty.
        ConfigError: an unknown reader or protocol, or a setting that the reader does not use.
    """
    settings = workspace.params.dataset
    fractions = split_fractions(
        settings.reader,
        {"val_fraction": settings.val_fraction, "test_fraction": settings.test_fraction},
    )
    if settings.captions == PARAGRAPH:
        check_joins(settings.reader)
    path = workspace.locate(settings.annotations)
    annotations = read_annotations(settings.reader, path, settings.protocol)
    manifest = build_manifest(
        annotations.records,
        [workspace.locate(root) for root in settings.video_roots],
        captions=settings.captions,
        **fractions,
    )
    summary = manifest.summary() | {
        "sentences": len(annotations.records),
        "notes": list(annotations.notes),
        "official": official_sizes(settings.reader, settings.protocol),
    }
    manifest.write(workspace.manifest)
    write_record(workspace.manifest / "summary.json", summary)
    for line in _lines(workspace, summary):
        say(line)
    return summary


def _lines(workspace: Workspace, summary: dict[str, Any]) -> Iterator[str]:
    settings = workspace.params.dataset
    for split, counts in summary["splits"].items():
        captions = counted(counts["captions"], "caption")
        yield f"{split}: {counted(counts['videos'], 'video')}, {captions}"
        if counts["repeated_captions"]:
            yield f"    {counts['repeated_captions']:,} repeat a sentence of the same video"
        if counts["shared_sentences"]:
            yield (
                f"    {counts['captions_with_shared_sentence']:,} have a sentence that describes "
                f"several videos ({counts['shared_sentences']:,} such sentences)"
            )
    if settings.captions == PARAGRAPH:
        paragraphs = sum(counts["captions"] for counts in summary["splits"].values())
        if summary["sentences"] > paragraphs:
            sentences = counted(summary["sentences"], "sentence", "are")
            yield f"{sentences} joined to {counted(paragraphs, 'paragraph')}"
        else:
            yield (
                "warning: dataset.captions: paragraph joins nothing, every video has one sentence "
                "(rows with start and end are separate videos)"
            )
    yield from summary["notes"]
    for split in ("val", "test"):
        for caution in caution_small(split, summary["splits"][split]["videos"]):
            yield f"warning: {caution}"
    missing = list(summary["missing"].values())
    if not settings.video_roots:
        yield "dataset.video_roots is empty: features come from `gare-cache import-features`"
    elif missing:
        yield f"warning: no file for {counted(len(missing), 'video')}:"
        yield from (f"    {place}" for place in missing[:_MISSING_SHOWN])
        if len(missing) > _MISSING_SHOWN:
            yield f"    ... (all in {workspace.manifest / 'summary.json'})"
