"""The protocol card as text and grids: what was scored, and what it compares with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gare_cache.errors import counted
from gare_cache.evaluation.protocol_card import ProtocolCard, PublishedTest, SplitCounts
from gare_cache.reports.pages.grids import Grid, escape_markdown, markdown_grid

TITLE = "Protocol"
# Settings of the evaluation that the section shows beside the card.
CONVENTIONS = ("captions", "v2t_convention", "missing")
CAPTION_RULES = {"all": "every caption is a query", "first": "one caption per video, its first"}
MISSING_RULES = {
    "drop": "queries without features left out",
    "count_as_miss": "queries without features counted as misses",
}
_CONVENTIONS = {
    "best_caption_of_all": "best of its captions among the captions of other videos",
    "best_caption_group": "among the other videos' caption groups",
}
_NONE = "—"
_FACTS = ("Fact", "Value")
_SPLITS = (
    *("Split", "Videos", "official", "found", "with features"),
    *("Captions", "official", "with features", "cut"),
)
_PUBLISHED = ("Scored by", "Comparable", "What differs", "Videos", "Captions")
_PUBLISHED_LEFT = 3


@dataclass(frozen=True)
class ProtocolSection:
    """A protocol card, ready for a page.

    Attributes:
        conclusion: whether published scores compare, in one sentence.
        facts: (name, value) pairs.
        splits: header and rows of counts.
        published: header and rows of test sets in print; no rows for data of one's own.
    """

    conclusion: str
    facts: Sequence[tuple[str, str]]
    splits: Grid
    published: Grid


def protocol_section(
    card: ProtocolCard, *, captions: str, v2t_convention: str, missing: str
) -> ProtocolSection:
    """Return a card with the conventions of the evaluation.

    Args:
        card: of the scored split.
        captions: rule for the queries, ``all`` or ``first``.
        v2t_convention: one of ``V2T_CONVENTIONS``.
        missing: rule for queries without features, ``drop`` or ``count_as_miss``.
    """
    return ProtocolSection(
        conclusion=_conclusion(card),
        facts=[
            ("Data set", _data_set(card)),
            ("Scored split", card.scored),
            ("Text to video", CAPTION_RULES[captions]),
            ("Video to text", f"each video is a query; rank {_CONVENTIONS[v2t_convention]}"),
            ("Without features", MISSING_RULES[missing]),
            ("Text context", _context(card)),
        ],
        splits=(_SPLITS, [_split_row(name, of) for name, of in card.splits.items()]),
        published=(_PUBLISHED, [_published_row(test) for test in card.published]),
    )


def protocol_lines(card: ProtocolCard) -> list[str]:
    """Return the card in short for a terminal: protocol, scored counts, comparability."""
    counts = card.splits[card.scored]
    videos = counted(counts.listed_videos, f"{card.scored} video")
    if counts.official_videos is not None and counts.official_videos != counts.listed_videos:
        videos += f" ({counts.official_videos:,} official)"
    cut = f", {counted(counts.cut_captions, 'caption')} cut" if counts.cut_captions else ""
    return [
        f"protocol: {_data_set(card)}; {counts.encoded_videos:,} of {videos} with features{cut}",
        *([_conclusion(card)] if card.published else []),
    ]


def protocol_markdown(section: ProtocolSection) -> str:
    """Return the section as GitHub-flavoured Markdown."""
    grids = [markdown_grid(_FACTS, section.facts, 2), markdown_grid(*section.splits)]
    if section.published[1]:
        grids.append(markdown_grid(*section.published, _PUBLISHED_LEFT))
    return "\n".join([f"## {TITLE}\n", f"{escape_markdown(section.conclusion)}\n", *grids])


def _data_set(card: ProtocolCard) -> str:
    parts = [f"reader {card.reader}"] if card.reader != card.dataset else []
    parts += [f"protocol {card.protocol}"] if card.protocol else []
    parts += ["sentences of a video joined to a paragraph"] if card.joined else []
    return f"{card.dataset} ({', '.join(parts)})" if parts else card.dataset


def _conclusion(card: ProtocolCard) -> str:
    if not card.published:
        return "No published test set is known for this data."
    if not card.comparable:
        return "The scores are not comparable with those on any published test set."
    sources = "; ".join(test.source for test in card.comparable)
    return f"The test set is that of {sources}; scores on another one are not comparable."


def _context(card: ProtocolCard) -> str:
    if card.context_length is None:
        return "not recorded with the features"
    context = f"{counted(card.context_length, 'token')} with start and end"
    if any(of.cut_captions is None for of in card.splits.values()):
        return f"{context}; longer captions were not counted"
    return f"{context}; longer captions are cut"


def _split_row(name: str, of: SplitCounts) -> tuple[str, ...]:
    return (
        name,
        *map(_count, (of.listed_videos, of.official_videos, of.found_videos, of.encoded_videos)),
        *map(_count, (of.listed_captions, of.official_captions)),
        *map(_count, (of.encoded_captions, of.cut_captions)),
    )


def _published_row(test: PublishedTest) -> tuple[str, ...]:
    words = "; ".join(filter(None, (*test.differs, test.note)))
    sizes = (_count(test.videos), _count(test.captions))
    return test.source, "no" if test.differs else "yes", words or _NONE, *sizes


def _count(number: int | None) -> str:
    return _NONE if number is None else f"{number:,}"
