"""Protocol card: on what a score was measured, and with which published scores it compares."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gare_cache.annotations.published_sizes import PUBLISHED_SIZES, PublishedSize
from gare_cache.annotations.record import SPLITS
from gare_cache.annotations.settings import DatasetSettings
from gare_cache.cache.coverage import coverage
from gare_cache.cache.loading import expected_items
from gare_cache.cache.reader import FeatureCache
from gare_cache.errors import counted
from gare_cache.evaluation.settings import EvaluateSettings
from gare_cache.manifest.tables import Manifest

if TYPE_CHECKING:  # torch takes a second to import, and a card is read without it
    from gare_cache.evaluation.protocol import ProtocolSplit


@dataclass(frozen=True)
class SplitCounts:
    """Sizes of a split.

    Attributes:
        official_videos: of the official files; None where there is no official number.
        official_captions: as ``official_videos``.
        listed_videos: in the manifest.
        found_videos: of these, with a file or imported features.
        encoded_videos: of these, with features.
        listed_captions: in the manifest.
        encoded_captions: with features.
        cut_captions: longer than the context of the text tower; None if it was not counted.
    """

    official_videos: int | None
    official_captions: int | None
    listed_videos: int
    found_videos: int
    encoded_videos: int
    listed_captions: int
    encoded_captions: int
    cut_captions: int | None


@dataclass(frozen=True)
class PublishedTest:
    """A test set in print, and why scores on it do not compare with those of this run.

    Attributes:
        source: who scores it.
        videos: size of its gallery.
        captions: number of its queries; None where it is not known.
        differs: each difference; empty if the test sets are the same.
        note: what to heed where they are the same.
    """

    source: str
    videos: int
    captions: int | None
    differs: Sequence[str]
    note: str


@dataclass(frozen=True)
class ProtocolCard:
    """What was scored: data set, protocol and counts, and the published test sets beside it.

    Attributes:
        dataset: name of the data set.
        reader: of its annotations.
        protocol: of the reader; None if it has no protocols.
        joined: whether ``dataset.captions`` joined the sentences of a video.
        scored: the scored split.
        context_length: tokens that the text tower reads, start and end included; None if unknown.
        splits: counts by split; without splits that the manifest does not have.
        published: test sets in print; empty for data of one's own.
    """

    dataset: str
    reader: str
    protocol: str | None
    joined: bool
    scored: str
    context_length: int | None
    splits: Mapping[str, SplitCounts]
    published: Sequence[PublishedTest]

    @property
    def comparable(self) -> list[PublishedTest]:
        """The published test sets that are the scored one."""
        return [test for test in self.published if not test.differs]

    def to_json(self) -> dict[str, Any]:
        """Return the card as metrics.json holds it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ProtocolCard:
        """Read what ``to_json`` returned.

        Raises:
            KeyError: an entry is missing: another version of gare-cache wrote it.
        """
        fields = {field.name: values[field.name] for field in dataclasses.fields(cls)}
        fields["splits"] = {name: SplitCounts(**of) for name, of in values["splits"].items()}
        fields["published"] = [PublishedTest(**test) for test in values["published"]]
        return cls(**fields)


def protocol_card(
    cache: FeatureCache,
    manifest: Manifest,
    split: ProtocolSplit,
    dataset: DatasetSettings,
    evaluate: EvaluateSettings,
    *,
    official: Mapping[str, Sequence[int | None]],
    cut: Mapping[str, int] | None,
) -> ProtocolCard:
    """Describe what a split's scores were measured on.

    A published test set is the scored one if the protocol, the number of videos and the number of
    queries are the same, and no listed item lacks features.

    Args:
        cache: the features.
        manifest: all listed items.
        split: the scored split.
        dataset: settings of the data set.
        evaluate: settings of the evaluation.
        official: videos and captions of the official files, by split.
        cut: captions longer than the text tower's context, by split; None if not counted.
    """
    queries = split.listed["t2v"]
    return ProtocolCard(
        dataset=dataset.name,
        reader=dataset.reader,
        protocol=dataset.protocol,
        joined=dataset.captions == "paragraph",
        scored=split.features.name,
        context_length=cache.attributes["identity"]["encoder"].get("context_length"),
        splits=_counts(cache, manifest, official, cut),
        published=published_tests(
            dataset,
            split=split.features.name,
            v2t=evaluate.v2t_convention,
            scored=(len(split.features.video_ids), len(split.features.caption_ids)),
            listed=(queries.num_items, len(queries.query_ids)),
        ),
    )


def published_tests(
    dataset: DatasetSettings,
    *,
    split: str,
    v2t: str,
    scored: tuple[int, int],
    listed: tuple[int, int],
) -> list[PublishedTest]:
    """Return the test sets in print of a data set, and how each differs from the scored one.

    Args:
        dataset: settings of the data set.
        split: the scored split.
        v2t: the convention of video to text.
        scored: number of videos and of text-to-video queries with features.
        listed: number of those that the protocol lists.
    """
    if split == "test":
        lacking = [
            f"{here:,} of {counted(all_, noun)} here"
            for here, all_, noun in zip(scored, listed, ("video", "caption"), strict=True)
            if here != all_
        ]
    else:
        lacking = [f"the {split} split here"]
    return [
        PublishedTest(
            test.source,
            test.videos,
            test.captions,
            differs=[*_differences(test, dataset.protocol, listed), *lacking],
            note=_note(test, v2t),
        )
        for test in PUBLISHED_SIZES.get(dataset.reader, ())
    ]


def _differences(
    test: PublishedSize, protocol: str | None, listed: tuple[int, int]
) -> Iterator[str]:
    if test.protocols and protocol not in test.protocols:
        yield f"protocol {' or '.join(test.protocols)}"
        return
    sizes = zip((test.videos, test.captions), listed, ("video", "caption"), strict=True)
    other = [(there, here, noun) for there, here, noun in sizes if there not in (None, here)]
    if len({(there, here) for there, here, _ in other}) == 1:  # one caption a video
        other = other[:1]
    yield from (f"{counted(there, noun)}, here {here:,}" for there, here, noun in other if there)
    if not test.protocols and not other:
        yield "no protocol has this test set"


def _note(test: PublishedSize, v2t: str) -> str:
    other = test.v2t is not None and test.v2t != v2t
    parts = [f"video to text is by {test.v2t} there" if other else "", test.note]
    return "; ".join(filter(None, parts))


def _counts(
    cache: FeatureCache,
    manifest: Manifest,
    official: Mapping[str, Sequence[int | None]],
    cut: Mapping[str, int] | None,
) -> dict[str, SplitCounts]:
    encoded = {
        (kind, split): (there, listed) for kind, split, there, listed in coverage(cache, manifest)
    }
    found = expected_items(cache, manifest, "video")["split"].to_pylist()
    counts = {}
    for split in SPLITS:
        (videos, listed_videos), (captions, listed_captions) = (
            encoded[kind, split] for kind in ("video", "text")
        )
        if listed_videos:
            official_videos, official_captions = official.get(split, (None, None))
            counts[split] = SplitCounts(
                official_videos,
                official_captions,
                listed_videos=listed_videos,
                found_videos=found.count(split),
                encoded_videos=videos,
                listed_captions=listed_captions,
                encoded_captions=captions,
                cut_captions=None if cut is None else cut.get(split, 0),
            )
    return counts
