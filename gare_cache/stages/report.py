"""Stage report: what evaluate and train wrote -> Markdown, LaTeX and one HTML page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gare_cache.cache.exchange.identity import declared_name, is_imported
from gare_cache.cache.reader import FeatureCache
from gare_cache.diagnosis.report_section import increment_section
from gare_cache.errors import ConfigError
from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.evaluation.scores import HEAD, METHOD_TITLES, ZERO_SHOT
from gare_cache.files import write_text
from gare_cache.manifest import read_manifest
from gare_cache.own import is_own
from gare_cache.project import ledger
from gare_cache.project.features import open_features
from gare_cache.project.paths import Workspace
from gare_cache.reports.analysis_sections import duplicates, gaps, hubness, without_gap
from gare_cache.reports.content import METRICS, Epoch, NormaliserLedger, ReportContent, ResultRow
from gare_cache.reports.markdown import render_markdown
from gare_cache.reports.normalisers import HEADER, ledger_cells, ledger_notes
from gare_cache.reports.page import render_html
from gare_cache.reports.queries import Evaluation, examples, queries, rank_lists
from gare_cache.reports.tables import latex_table, markdown_table
from gare_cache.stages.evaluate import ledger_count

_LOSS_NAMES = {"info_nce": "InfoNCE", "ncl": "NCL"}
_REGULARISER_NAMES = {
    "ib": "L_ib",
    "eps": "L_eps",
    "dir": "L_dir",
    "orthogonality": "L_orth",
    "trust_region": "L_tr",
}
_ZERO_SHOT_NAME = "zero-shot mean pooling"
_RULES = {
    "drop": "queries without features left out",
    "count_as_miss": "queries without features counted as misses",
}
_CAPTIONS = {"all": "every caption is a query", "first": "one caption a video, its first"}
_CONVENTIONS = {
    "best_caption_of_all": "best own caption among the captions of other videos",
    "best_caption_group": "among the other videos' caption groups",
}


def report(workspace: Workspace) -> str:
    """Write ``report/{report.html, report.md, table.md, table.tex}``.

    Scores nothing anew. How often test was scored is read from the ledger at the time of writing.

    Returns:
        The results as a Markdown table.

    Raises:
        ConfigError: nothing was evaluated, or by an older version.
    """
    metrics = _read_json(workspace.evaluation / "metrics.json", "evaluate")
    analysis = _read_json(workspace.evaluation / "analysis.json", "evaluate")
    record = _read_json(workspace.run / "record.json", "train")
    cache, _ = open_features(workspace)
    names = {ZERO_SHOT: _ZERO_SHOT_NAME, HEAD: describe_head(record["settings"])}
    captions = _captions(workspace)
    _require_same_run(workspace, metrics, record)
    evaluation = Evaluation.read(workspace.evaluation, analysis, captions)
    best, worst = examples(evaluation, workspace.params.report.examples)
    content = ReportContent(
        title=f"{workspace.params.dataset.name}: text-video retrieval",
        summary=_summary(workspace, metrics, names[HEAD]),
        facts=_facts(workspace, cache, metrics, record),
        rows=_rows(metrics, names),
        alternative_rows=_alternative_rows(metrics, names),
        normalisers=_normalisers(metrics),
        differences=[_difference(direction, metrics) for direction in DIRECTIONS],
        epochs=_epochs(workspace.run / "train_log.jsonl"),
        best_epoch=record["best_epoch"],
        similarity=evaluation.similarity,
        true_video=evaluation.true_video,
        ranks=rank_lists(evaluation, METHOD_TITLES),
        best=best,
        worst=worst,
        notes=_notes(metrics),
        hubness=hubness(analysis, METHOD_TITLES, captions),
        duplicates=duplicates(analysis, evaluation),
        gaps=gaps(analysis, METHOD_TITLES),
        without_gap=without_gap(analysis, METHOD_TITLES),
        queries=queries(evaluation),
        captions=captions,
        pictures=_pictures(cache, evaluation),
        increment=increment_section(workspace.outputs / "diagnosis" / "diagnosis.json", record),
    )
    table = markdown_table([*content.rows, *content.alternative_rows])
    write_text(workspace.report / "report.html", render_html(content))
    write_text(workspace.report / "report.md", render_markdown(content))
    write_text(workspace.report / "table.md", table)
    write_text(
        workspace.report / "table.tex", latex_table([*content.rows, *content.alternative_rows])
    )
    return table


def describe_head(settings: dict[str, Any]) -> str:
    """Name a head by its parts and losses: ``linear, transformer, gap module: InfoNCE, L_ib``.

    Of the gap module, what differs from the published one is named: ``gap module (video side, words
    as context)``.
    """
    head, loss = settings["head"], settings["train"]["loss"]
    parts = [head["projection"]] if head["projection"] != "none" else []
    parts.append(head["aggregator"]["name"])
    interaction = head["interaction"]["name"]
    if interaction == "pooled":
        parts.append(f"{head['pooling']['name'].replace('_', '-')} pooling")
    else:
        shown = interaction if is_own(interaction) else interaction.replace("_", "-")
        parts.append(f"{shown} interaction")
    parts += [_describe_gap(head["gap"])] if head["gap"] else []
    contrastive = loss["contrastive"]["name"]
    losses = [_LOSS_NAMES.get(contrastive, contrastive)]
    losses += [term for name, term in _REGULARISER_NAMES.items() if loss[name]["weight"] > 0]
    return f"{', '.join(parts)}: {', '.join(losses)}"


def _describe_gap(gap: dict[str, Any]) -> str:
    changes = [
        phrase
        for phrase, differs in (
            ("video side", gap["side"] == "video"),
            ("words as context", gap["context"] == "words"),
            ("without a gap", gap["query"] == "text"),
            ("negated gap", gap["eta"] == -1),
            (f"{gap['layers']} layers", gap["layers"] > 1),
        )
        if differs
    ]
    return f"gap module ({', '.join(changes)})" if changes else "gap module"


def _read_json(path: Path, stage: str) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; run `gare-cache {stage}` first")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _require_same_run(
    workspace: Workspace, metrics: dict[str, Any], record: dict[str, Any]
) -> None:
    for what, scored, present in (
        ("run", metrics.get("run_key"), record["run_key"]),
        ("manifest", metrics.get("manifest"), read_manifest(workspace.manifest).digest()),
    ):
        if scored != present:
            raise ConfigError(
                f"{workspace.evaluation} was scored for {what} {str(scored)[:12]}, but {what} "
                f"{present[:12]} is here now; run `gare-cache evaluate` again"
            )


def _captions(workspace: Workspace) -> dict[str, str]:
    table = read_manifest(workspace.manifest).captions
    ids, sentences = (table[name].to_pylist() for name in ("caption_id", "caption"))
    return dict(zip(ids, sentences, strict=True))


def _pictures(cache: FeatureCache, evaluation: Evaluation) -> dict[str, bytes | None]:
    known = cache.tables["video"].latest()
    ids = [id_ for id_ in evaluation.listed_videos if id_ in known]
    return dict(zip(ids, cache.thumbnails(ids), strict=True))


def _summary(workspace: Workspace, metrics: dict[str, Any], head: str) -> list[str]:
    sentences = [
        head,
        f"{metrics['split']} split, {metrics['coverage']}; {_CAPTIONS[metrics['captions']]}",
    ]
    if metrics["split"] == ledger.TEST:
        sentences.append(str(ledger_count(workspace)))
    return sentences


def _facts(
    workspace: Workspace, cache: FeatureCache, metrics: dict[str, Any], record: dict[str, Any]
) -> list[tuple[str, str]]:
    params = workspace.params
    versions = record["provenance"]["versions"]
    facts = [
        ("Data set", params.dataset.name),
        ("Split", metrics["split"]),
        ("Protocol", _CAPTIONS[metrics["captions"]]),
        ("Video to text", _CONVENTIONS[metrics["v2t_convention"]]),
        ("Coverage", metrics["coverage"]),
        ("Headline", _RULES[metrics["missing"]]),
    ]
    if metrics["split"] == ledger.TEST:
        facts.append(("Test ledger", str(ledger_count(workspace))))
    return [
        *facts,
        ("Encoder", _encoder_fact(workspace, cache)),
        ("Encoder id", record["encoder_id"][:12]),
        ("Frames", _frames_fact(cache, record["settings"]["train"])),
        ("Trained on", record["coverage"]["train"]),
        ("Selected on", f"{record['coverage']['val']}; epoch {record['best_epoch']}"),
        ("Seed", str(record["settings"]["train"]["seed"])),
        ("Run", record["run_key"]),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("Machine", f"{record['provenance']['processor']}, device {record['device']}"),
    ]


def _encoder_fact(workspace: Workspace, cache: FeatureCache) -> str:
    settings = workspace.params.encoder
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


def _rows(metrics: dict[str, Any], names: dict[str, str]) -> list[ResultRow]:
    mark = f" ({_RULES[metrics['missing']]})" if metrics["alternative"] else ""
    return [_row(f"{name}{mark}", metrics["methods"][method]) for method, name in names.items()]


def _alternative_rows(metrics: dict[str, Any], names: dict[str, str]) -> list[ResultRow]:
    other = metrics["alternative"]
    if other is None:
        return []
    mark = _RULES[other["missing"]]
    return [_row(f"{name} ({mark})", other["methods"][method]) for method, name in names.items()]


def _row(name: str, scores: dict[str, Any]) -> ResultRow:
    return ResultRow(
        name=name,
        num_queries={d: scores[d]["queries"] for d in DIRECTIONS},
        coverage={
            d: (scores[d]["queries with features"], scores[d]["queries listed"]) for d in DIRECTIONS
        },
        num_items={d: scores[d]["items"] for d in DIRECTIONS},
        metrics={d: {metric: scores[d][metric] for metric in METRICS} for d in DIRECTIONS},
        intervals={d: {"R@1": (scores[d]["R@1 low"], scores[d]["R@1 high"])} for d in DIRECTIONS},
        num_tied={d: scores[d]["tied queries"] for d in DIRECTIONS},
    )


def _normalisers(metrics: dict[str, Any]) -> NormaliserLedger | None:
    if "normalisers" not in metrics:
        return None
    found = metrics["normalisers"]
    return NormaliserLedger(HEADER, ledger_cells(found["rows"]), ledger_notes(found))


def _difference(direction: str, metrics: dict[str, Any]) -> str:
    found = metrics["difference"][direction]
    low, high = found["R@1 low"], found["R@1 high"]
    verdict = "" if low > 0 or high < 0 else "; not distinguishable on this test set"
    return (
        f"{direction}: the head's R@1 differs from zero shot by {found['R@1']:+.1f} points, "
        f"95 % interval {low:+.1f} to {high:+.1f} (paired bootstrap over "
        f"{found['videos']:,} videos){verdict}."
    )


def _notes(metrics: dict[str, Any]) -> list[str]:
    notes = ["One training run: the interval covers the choice of test videos, not of the seed."]
    if metrics["alternative"]:
        notes.append(
            f"Some queries have no features ({metrics['coverage']}); the headline is with "
            f"{_RULES[metrics['missing']]}. Both rules are printed; compare with others' numbers "
            "only under the same one."
        )
    if metrics["split"] == "val":
        notes.append("These are validation figures: the epoch was selected on the same split.")
    if metrics["split"] == "train":
        notes.append("These are figures on the training split and say nothing about new videos.")
    return notes


def _epochs(path: Path) -> list[Epoch]:
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Epoch(r["epoch"], r["losses"], r["validation"], r["learning_rate"]) for r in records]
