"""Report of a diagnosis as a self-contained HTML page and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from gare_cache.diagnosis import figures, readings
from gare_cache.errors import counted
from gare_cache.reports.pages.grids import (
    DIRECTION_TITLES,
    escape_markdown,
    format_change,
    format_interval,
    markdown_grid,
)
from gare_cache.reports.pages.html import Plot, page_environment

Diagnosis = Mapping[str, Any]
Grid = tuple[Sequence[str], list[tuple[str, ...]]]

_VARIANTS = {
    "head": "the head as it is",
    "mean": "Delta replaced by its mean over the texts",
    "zero": "Delta = 0",
}
_CAPTIONS = {"all": "every caption is a query", "first": "one caption per video, its first"}


@dataclass(frozen=True)
class Finding:
    """A finding of a diagnosis.

    Attributes:
        title: heading.
        reading: the numbers in a sentence.
        plots: its figures.
    """

    title: str
    reading: str
    plots: Sequence[Plot]


def render_html(diagnosis: Diagnosis) -> str:
    """Render the content of ``diagnosis.json`` as one self-contained HTML page.

    Equal content gives equal text; the page's policy forbids all scripts and requests.
    """
    template = page_environment(Path(__file__).parent).get_template("diagnosis.html")
    return template.render(
        title=page_title(diagnosis),
        summary=summary(diagnosis),
        answers=readings.answers(diagnosis),
        recall=recall_grid(diagnosis),
        variance=variance_grid(diagnosis),
        findings=list(findings(diagnosis)),
        candidates=candidates_grid(diagnosis),
        facts=facts(diagnosis),
    )


def render_markdown(diagnosis: Diagnosis) -> str:
    """Render the content of ``diagnosis.json`` as Markdown, without the figures."""
    parts = [f"# {escape_markdown(page_title(diagnosis))}\n"]
    parts.append("".join(f"* {escape_markdown(line)}\n" for line in summary(diagnosis)))
    parts.append("## Four questions\n")
    for question, answer in readings.answers(diagnosis):
        parts.append(f"**{escape_markdown(question)}** {escape_markdown(answer)}\n")
    parts.append(markdown_grid(*recall_grid(diagnosis)))
    parts.append(markdown_grid(*variance_grid(diagnosis)))
    for finding in findings(diagnosis):
        notes = dict.fromkeys(plot.caption for plot in finding.plots if plot.caption)
        parts.append(f"## {escape_markdown(finding.title)}\n")
        parts.append(f"{escape_markdown(finding.reading)}\n")
        parts += [f"{escape_markdown(note)}\n" for note in notes]
    if candidates_grid(diagnosis)[1]:
        parts.append(markdown_grid(*candidates_grid(diagnosis), num_left=1))
    parts.append("## How it was measured\n")
    parts.append(markdown_grid(("Fact", "Value"), facts(diagnosis), num_left=2))
    return "\n".join(parts)


def page_title(diagnosis: Diagnosis) -> str:
    """Return the page's heading."""
    return f"{diagnosis['dataset']}: anatomy of the increment"


def summary(diagnosis: Diagnosis) -> list[str]:
    """Return lines on the diagnosed run and split."""
    side = "t + Delta against p" if diagnosis["side"] == "text" else "t against p + Delta"
    return [
        f"run {diagnosis['run_key']}, epoch {diagnosis['best_epoch']}; {diagnosis['side']} side: "
        f"{side}",
        f"{diagnosis['split']} split, {diagnosis['coverage']}; {_CAPTIONS[diagnosis['captions']]}",
    ]


def findings(diagnosis: Diagnosis) -> Iterator[Finding]:
    """Yield the findings in the order of the page."""
    yield from _gradient_findings(diagnosis)
    yield from _geometry_findings(diagnosis)
    yield from _training_findings(diagnosis)
    plots = [
        Plot(
            f"The first ten, {DIRECTION_TITLES[direction].lower()}",
            Markup(figures.candidate_curve(direction, part)),
            "How much of the head's first ten the plain tower (Delta = 0) has among its first K.",
        )
        for direction, part in diagnosis["candidates"].items()
        if part["at"]
    ]
    yield Finding("Candidates of the plain tower", readings.candidates(diagnosis), plots)


def recall_grid(diagnosis: Diagnosis) -> Grid:
    """Return a grid of R@1, one row per direction and variant."""
    header: Sequence[str]
    header = ("Variant", "n", "R@1", "95 % interval", "Difference", "95 % interval")
    rows: list[tuple[str, ...]] = []
    for direction, title in DIRECTION_TITLES.items():
        for variant, name in _VARIANTS.items():
            scores = diagnosis["recall"][variant][direction]
            apart = scores.get("difference")
            rows.append(
                (
                    f"{title}: {name}",
                    f"{scores['queries']:,}",
                    f"{scores['R@1']:.1f}",
                    format_interval(scores["low"], scores["high"]),
                    format_change(apart["points"]) if apart else "—",
                    format_interval(apart["low"], apart["high"], signed=True) if apart else "—",
                )
            )
    return header, rows


def variance_grid(diagnosis: Diagnosis) -> Grid:
    """Return a grid of the parts of the increments' variance."""
    shares = diagnosis["variance"]
    names = {
        "within videos": "over the texts at fixed video",
        "between videos": "between the videos' means",
        "between texts": "between the texts' means",
        "interaction": "of the pair alone: neither of the two means",
    }
    rows: list[tuple[str, ...]] = [
        (title, "—" if shares[key] is None else f"{100 * shares[key]:.1f} %")
        for key, title in names.items()
    ]
    return ("Part of the variance of Delta", "Share"), rows


def candidates_grid(diagnosis: Diagnosis) -> Grid:
    """Return a grid of the candidates' coverage by direction and K."""
    rows: list[tuple[str, ...]] = [
        (
            DIRECTION_TITLES[direction],
            f"{part['items']:,}",
            k,
            f"{100 * shares['share']:.1f} %",
            f"{100 * shares['whole']:.1f} %",
        )
        for direction, part in diagnosis["candidates"].items()
        for k, shares in part["at"].items()
    ]
    return ("Direction", "Gallery", "K", "Share inside", "Queries with all ten"), rows


def facts(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """Return how the numbers were measured, as (name, value) pairs."""
    batch, step = diagnosis["batch"], diagnosis["step"]
    other = f"; the run was trained with {diagnosis['loss']}"
    return [
        (
            "All pairs",
            f"{counted(diagnosis['num_texts'], 'text')} by "
            f"{counted(diagnosis['num_videos'], 'video')}",
        ),
        (
            "Gradients",
            f"{counted(batch['pairs'], 'matched pair')} of different videos (training's batches "
            "have "
            f"{batch['asked']:,}), seed {batch['seed']}",
        ),
        ("Softmax", f"InfoNCE's{other if diagnosis['loss'] != 'info_nce' else ''}"),
        ("Logit scale", f"{diagnosis['scale']:.2f}, the run's"),
        ("Radius of the ideal step", f"{step['radius']:.3f}, {batch['radius from']}"),
        ("Video to text", diagnosis["v2t_convention"]),
        (
            "Dense against exact scores",
            f"at most {diagnosis['largest difference to the exact scores']:.1e} apart",
        ),
        ("Mean length of Delta, all pairs", f"{diagnosis['increment length']:.3f}"),
        ("Run", diagnosis["run_key"]),
    ]


def _gradient_findings(diagnosis: Diagnosis) -> Iterator[Finding]:
    parts = diagnosis["gradient"]
    limits = figures.gradient_limits(list(parts.values()))
    yield Finding(
        "Gradients on the anchors",
        readings.gradient(diagnosis),
        [
            Plot(
                f"Gradient per dimension, {name} Delta",
                Markup(figures.gradient_lines(f"gradient {name}", parts[name], limits)),
                "After GARE's figure 2, in our reading: the contrastive loss differentiated by "
                "its anchors, mean over the batch, from the own pair and from all others.",
            )
            for name in ("without", "with")
        ],
    )
    yield Finding(
        "Tension",
        readings.tension(diagnosis),
        [
            Plot(
                "Tension of the anchors",
                Markup(
                    figures.histogram(
                        "tension",
                        diagnosis["tension"]["anchors"],
                        "|sum g| / sum |g|",
                        what="anchors",
                    )
                ),
                "Norm of the summed gradient over the sum of the norms of the pairs' gradients, "
                "per anchor: 1, all pairs pull together; 0, they cancel.",
            ),
            Plot(
                "Difference that Delta makes, anchor by anchor",
                Markup(
                    figures.histogram(
                        "tension gain",
                        diagnosis["tension"]["gain"],
                        "with Delta minus without",
                        what="anchors",
                        reference=0.0,
                    )
                ),
                "Right of 0: less of the anchor's gradient cancels with Delta.",
            ),
        ],
    )
    yield Finding(
        "The direction of descent",
        readings.points_down(diagnosis),
        [
            Plot(
                f"cos(Delta, -g), g at {place}",
                Markup(
                    figures.histogram(
                        f"descent {name}",
                        diagnosis["descent"][name],
                        "cos(Delta, -g)",
                        reference=0.0,
                    )
                ),
                "1: Delta points down the loss of its pair; 0: across it. Hardest: the unmatched "
                "pair of the highest probability of each anchor.",
            )
            for name, place in (("with", "item + Delta"), ("without", "Delta = 0"))
        ],
    )
    yield Finding(
        "The ideal step",
        readings.step(diagnosis),
        [
            Plot(
                "|a - eta| / eta",
                Markup(figures.histogram("step", diagnosis["step"]["relative"], "|a - eta| / eta")),
                "After GARE's figure 9, in our reading: a is the largest step along -g from the "
                "trained Delta inside the radius, eta = radius / |g| the step from no increment. "
                "0: the trained increments change nothing.",
            ),
            Plot(
                "|a - eta|",
                Markup(
                    figures.histogram(
                        "step difference", diagnosis["step"]["difference"], "log10 |a - eta|"
                    )
                ),
                "The same, not divided: it is large where the gradient is small.",
            ),
        ],
    )


def _geometry_findings(diagnosis: Diagnosis) -> Iterator[Finding]:
    item = "t" if diagnosis["side"] == "text" else "p"
    yield Finding(
        "Cosines",
        readings.cosines(diagnosis),
        [
            Plot(
                f"Cosines of {kind} pairs",
                Markup(figures.histogram(f"cosines {kind}", diagnosis["cosines"][kind], "cosine")),
                note,
            )
            for kind, note in (
                ("matched", "After GARE's figure 3, in our reading: all texts and their videos."),
                ("unmatched", "All other pairs: how much of a change all pairs share."),
            )
        ],
    )
    yield Finding(
        "Lengths and distances",
        f"{readings.norms(diagnosis)} {readings.distances(diagnosis)}",
        [
            Plot(
                f"Lengths of t, Delta, {item} + Delta and p",
                Markup(figures.histogram("norms", diagnosis["norms"], "length")),
                "After GARE's figure 4, in our reading: matched pairs; p is the video as pooled "
                "for the text.",
            ),
            Plot(
                "Distance of text and video",
                Markup(figures.histogram("distances", diagnosis["distances"], "distance")),
                "After GARE's figure 7, in our reading: Euclidean distance of matched pairs, not "
                "normalised. Means by direction are those of vectors of length 1.",
            ),
        ],
    )


def _training_findings(diagnosis: Diagnosis) -> Iterator[Finding]:
    gap = "the gap being p - t, the video as pooled for the text minus the text"
    plots = [
        Plot(
            "Angles on this split",
            Markup(figures.histogram("angles now", diagnosis["angles"], "angle (degrees)")),
            f"Angle of Delta to the gap and to the text, matched pairs, {gap}.",
        )
    ]
    if diagnosis["epochs"]:
        curves = Plot(
            "Angles over training",
            Markup(figures.angle_curves(diagnosis["epochs"], diagnosis["best_epoch"])),
            f"After GARE's figure 8, in our reading: means over the validation split's matched "
            f"pairs, one caption per video, {gap}. The vertical line marks the kept epoch.",
        )
        plots.insert(0, curves)
    yield Finding("Angles", readings.training(diagnosis), plots)
