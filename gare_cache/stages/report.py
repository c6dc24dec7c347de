"""Stage report: write the results of train and evaluate as HTML, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gare_cache.cache.coverage import coverage
from gare_cache.cache.exchange.identity import declared_name, is_imported
from gare_cache.cache.reader import FeatureCache
from gare_cache.diagnosis.report_section import increment_section
from gare_cache.errors import ConfigError
from gare_cache.evaluation.leaks import describe_copies
from gare_cache.evaluation.results import SplitResult
from gare_cache.evaluation.scores import METHOD_TITLES
from gare_cache.files import read_json, read_json_lines, write_text
from gare_cache.manifest.splits import caution_small
from gare_cache.manifest.tables import Manifest, read_manifest
from gare_cache.project import ledger
from gare_cache.project.features import open_features
from gare_cache.project.paths import Workspace
from gare_cache.reports.analysis_sections import (
    duplicates,
    gaps,
    hubness,
    leaks,
    without_gap,
)
from gare_cache.reports.content import Epoch, ReportContent, TableSection
from gare_cache.reports.finetuned import finetuned_section
from gare_cache.reports.markdown import render_markdown
from gare_cache.reports.page import render_html
from gare_cache.reports.protocol import CAPTION_RULES, protocol_section
from gare_cache.reports.queries import Evaluation, examples, queries, rank_lists
from gare_cache.reports.run_content import (
    alternative_rows,
    describe_head,
    describe_methods,
    difference_sentences,
    normaliser_ledger,
    result_notes,
    result_rows,
    run_facts,
    verdict,
)
from gare_cache.reports.scores import describe_scores
from gare_cache.reports.tables import latex_table, markdown_table
from gare_cache.stages.evaluate import ledger_count


def report(workspace: Workspace) -> str:
    """Write ``report/{report.html, report.md, table.md, table.tex}``.

    Nothing is scored again. The ledger tells how often test was scored so far.

    Returns:
        The results as a Markdown table.

    Raises:
        ConfigError: nothing was evaluated, or by an older version.
    """
    result = _read_result(workspace.evaluation / "metrics.json")
    analysis = _read_json(workspace.evaluation / "analysis.json", "evaluate")
    record = _read_json(workspace.run / "record.json", "train")
    cache, _ = open_features(workspace)
    manifest = read_manifest(workspace.manifest)
    captions = _captions(manifest)
    _require_same_run(workspace, result, record)
    scored = str(ledger_count(workspace)) if result.split == ledger.TEST else None
    evaluation = Evaluation.read(workspace.evaluation, analysis, captions)
    if "leaks" not in analysis:
        raise ConfigError(_other_version(workspace.evaluation / "analysis.json", "leaks"))
    copies = describe_copies(analysis["leaks"])
    best, worst = examples(evaluation, workspace.params.report.examples)
    content = ReportContent(
        title=f"{workspace.params.dataset.name}: text-video retrieval",
        verdict=verdict(result),
        methods=describe_methods(record["settings"], result),
        without_features=list(_without_features(cache, manifest)),
        summary=[
            describe_head(record["settings"]),
            f"{result.split} split, {result.coverage}; {CAPTION_RULES[result.captions]}",
            *filter(None, (scored,)),
        ],
        facts=run_facts(
            result,
            record,
            encoder=_encoder_fact(workspace, cache, record),
            frames=_frames_fact(cache, record["settings"]["train"]),
            ledger=scored,
        ),
        protocol=protocol_section(
            result.card,
            captions=result.captions,
            v2t_convention=result.v2t_convention,
            missing=result.headline.missing,
        ),
        rows=result_rows(result, METHOD_TITLES),
        alternative_rows=alternative_rows(result, METHOD_TITLES),
        normalisers=normaliser_ledger(result),
        finetuned=_finetuned(workspace, result),
        differences=difference_sentences(result),
        epochs=_epochs(workspace.run / "train_log.jsonl"),
        best_epoch=record["best_epoch"],
        similarity=evaluation.similarity,
        true_video=evaluation.true_video,
        ranks=rank_lists(evaluation, METHOD_TITLES),
        best=best,
        worst=worst,
        notes=[
            *(f"{sentence}: the scores are not those of new videos." for sentence in copies),
            *_small_splits(cache, manifest, result.split),
            *result_notes(result),
        ],
        hubness=hubness(analysis, METHOD_TITLES, captions),
        duplicates=duplicates(analysis, evaluation),
        leaks=leaks(analysis),
        gaps=gaps(analysis, METHOD_TITLES),
        without_gap=without_gap(analysis, METHOD_TITLES),
        queries=queries(evaluation),
        captions=captions,
        pictures=_pictures(cache, [*evaluation.listed_videos, *_videos_elsewhere(analysis)]),
        increment=increment_section(workspace.outputs / "diagnosis" / "diagnosis.json", record),
    )
    rows = [*content.rows, *content.alternative_rows]
    table = markdown_table(rows, content.methods)
    write_text(workspace.report / "report.html", render_html(content))
    write_text(workspace.report / "report.md", render_markdown(content))
    write_text(workspace.report / "table.md", table)
    write_text(workspace.report / "table.tex", latex_table(rows, methods=content.methods))
    return table


def score_lines(workspace: Workspace) -> list[str]:
    """Return the results of ``evaluate`` as lines for a terminal.

    Raises:
        ConfigError: nothing was evaluated, or by an older version.
    """
    result = _read_result(workspace.evaluation / "metrics.json")
    counted = [str(ledger_count(workspace))] if result.split == ledger.TEST else []
    return [*describe_scores(result), *counted]


def _read_json(path: Path, stage: str) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; run `gare-cache {stage}` first")
    content: dict[str, Any] = read_json(path)
    return content


def _read_result(path: Path) -> SplitResult:
    try:
        return SplitResult.from_json(_read_json(path, "evaluate"))
    except KeyError as err:
        raise ConfigError(_other_version(path, err.args[0])) from err


def _other_version(path: Path, lacking: str) -> str:
    return (
        f"{path} lacks {lacking!r}: it was written by another version of gare-cache; run "
        "`gare-cache evaluate` again"
    )


def _require_same_run(workspace: Workspace, result: SplitResult, record: dict[str, Any]) -> None:
    for what, scored, present in (
        ("run", result.run_key, record["run_key"]),
        ("manifest", result.manifest, read_manifest(workspace.manifest).digest()),
    ):
        if scored != present:
            raise ConfigError(
                f"{workspace.evaluation} was scored for {what} {str(scored)[:12]}, but {what} "
                f"{present[:12]} is here now; run `gare-cache evaluate` again"
            )


def _small_splits(cache: FeatureCache, manifest: Manifest, scored: str) -> Iterator[str]:
    for kind, split, encoded, _ in coverage(cache, manifest):
        if kind == "video" and split in ("val", scored):
            for caution in caution_small(split, encoded):
                yield f"{caution[:1].upper()}{caution[1:]}."


def _without_features(cache: FeatureCache, manifest: Manifest) -> Iterator[tuple[str, str, str]]:
    table = cache.tables["video"]
    known, reasons = table.latest(), cache.failures()
    absent = "not among the imported features" if is_imported(cache) else "not encoded"
    for row in manifest.videos.to_pylist():
        id_ = row["video_id"]
        if id_ in known and table.status(known[id_]) == "ok":
            continue
        missing = "no file" if row["path"] is None and not is_imported(cache) else absent
        yield row["annotated"], row["split"], reasons.get(id_, missing)


def _captions(manifest: Manifest) -> dict[str, str]:
    table = manifest.captions
    ids, sentences = (table[name].to_pylist() for name in ("caption_id", "caption"))
    return dict(zip(ids, sentences, strict=True))


def _videos_elsewhere(analysis: dict[str, Any]) -> Iterator[str]:
    for part in analysis["leaks"].values():
        for kind in ("copies", "near"):
            yield from (example[1] for example in part[kind]["examples"])


def _pictures(cache: FeatureCache, videos: Sequence[str]) -> dict[str, bytes | None]:
    known = cache.tables["video"].latest()
    ids = [id_ for id_ in dict.fromkeys(videos) if id_ in known]
    return dict(zip(ids, cache.thumbnails(ids), strict=True))


def _finetuned(workspace: Workspace, result: SplitResult) -> TableSection | None:
    """Return the encoder before and after, if this run has finetuned it."""
    if not (workspace.run / "cost.json").is_file():
        return None
    own = replace(workspace, outputs=workspace.project / "outputs", inputs=None)
    scored = own.evaluation / "metrics.json"
    frozen = _read_result(scored) if scored.is_file() else None
    return finetuned_section(
        result,
        frozen,
        read_json(workspace.run / "cost.json"),
        {} if frozen is None else own.cost_of(frozen.run_key),
    )


def _encoder_fact(workspace: Workspace, cache: FeatureCache, record: dict[str, Any]) -> str:
    settings = workspace.params.encoder
    if "started_from" in record:
        how = record["settings"]["finetune"]["encoder"]
        start = record["started_from"]["encoder_id"]
        return f"{cache.encoder_id[:12]}, finetuned ({how}) from {start[:12]}"
    if is_imported(cache):
        return ", ".join(filter(None, (declared_name(cache), "features imported")))
    return f"{settings.model}, {settings.precision}, frozen" if settings else "frozen"


def _frames_fact(cache: FeatureCache, train: dict[str, Any]) -> str:
    sampling = cache.attributes["identity"]["sampling"]
    how = "as imported" if is_imported(cache) else sampling["sampler"]
    fact = f"up to {train['num_frames']} of up to {cache.layout.max_frames} cached, {how}"
    trained = [train["frame_choice"]] if train["frame_choice"] != "even" else []
    trained += ["augmented views"] if train["views"] else []
    return f"{fact}; trained on {' and '.join(trained)}" if trained else fact


def _epochs(path: Path) -> list[Epoch]:
    records = read_json_lines(path)
    return [Epoch(r["epoch"], r["losses"], r["validation"], r["learning_rate"]) for r in records]
