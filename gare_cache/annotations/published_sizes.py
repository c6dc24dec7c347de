"""Test sets in print: the sizes that papers and benchmarks score, by reader.

Scores on test sets of different sizes or captions do not compare: a gallery that lacks a tenth of
its videos gains points of R@1. Each entry is a fact about a paper, its code or its data card;
``docs/datasets`` says where it was read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_GROUPED = "best_caption_group"


@dataclass(frozen=True)
class PublishedSize:
    """A test set in print.

    Attributes:
        source: who scores it.
        videos: size of the gallery.
        captions: number of queries; None where it is not known.
        protocols: the protocols of the reader with the same test set; none if no protocol has it.
        v2t: the convention of its video-to-text scores; None if it has none, or if one caption a
            video makes the conventions the same.
        note: what else it differs in.
    """

    source: str
    videos: int
    captions: int | None
    protocols: tuple[str, ...] = ()
    v2t: str | None = None
    note: str = ""


PUBLISHED_SIZES: Mapping[str, Sequence[PublishedSize]] = {
    "msrvtt": (
        PublishedSize("CLIP4Clip and later CLIP models, 9k training", 1000, 1000, ("1k-a-9k",)),
        PublishedSize("papers with 7k training", 1000, 1000, ("1k-a-7k",)),
        PublishedSize("papers on the full split", 2990, 59_800, ("full",), _GROUPED),
        PublishedSize(
            "MMEB-V2", 1000, 1000, ("1k-a-9k", "1k-a-7k"), note="text to video alone, 8 frames"
        ),
        PublishedSize("mteb", 879, 879, note="its main score is nDCG@10"),
    ),
    "didemo": (
        PublishedSize("Collaborative Experts, ProST, MMEB-V2", 1004, 1004, ("paragraph",)),
        PublishedSize("CLIP4Clip's code, T-MASS", 1004, 1004, ("paragraph-listed",)),
        PublishedSize("localisation papers, by sentence", 1004, 4021, ("sentence",)),
        PublishedSize("VindLU", 1003, 1003),
        PublishedSize("UMT", 1036, 1036),
        PublishedSize("VIOLET and its successors", 979, 979),
        PublishedSize("mteb", 999, 999, note="its main score is nDCG@10"),
    ),
    "activitynet": (
        PublishedSize(
            "Collaborative Experts, CLIP4Clip, EMCL-Net, DGL", 4917, 4917, ("paragraph",)
        ),
        PublishedSize("mteb", 4884, 4884, note="its main score is nDCG@10"),
        PublishedSize("MS-SL and others, by sentence", 4430, 15_753, note="a split of their own"),
    ),
    "msvd": (
        PublishedSize(
            "Collaborative Experts, CLIP4Clip, X-Pool, CLIP2Video",
            670,
            27_763,
            ("all-captions",),
            _GROUPED,
        ),
        PublishedSize(
            "MMEB-V2", 670, 670, ("first-caption",), note="text to video alone, 8 frames"
        ),
        PublishedSize("older papers, five random captions a video", 670, 3350),
        PublishedSize("mteb", 660, 660, note="its main score is nDCG@10"),
    ),
    "lsmdc": (
        PublishedSize("Collaborative Experts, InternVideo", 1000, 1000, ("1k",)),
        PublishedSize("X-Pool, DiffusionRet", 999, 999, note="each leaves out another clip"),
    ),
    "tgif": (PublishedSize("HGR, RIVRL, PVSE", 11_310, None, note="not verified"),),
    "youcook2": (
        PublishedSize("MIL-NCE, VideoCLIP", 3349, 3350, ("clip-milnce",)),
        PublishedSize("COOT, by paragraph", 457, 457, ("video",)),
        PublishedSize("MMEB-V2", 3179, 3179, note="text to video alone, 8 frames"),
        PublishedSize("mteb", 3104, 3104, note="its main score is nDCG@10"),
    ),
    "vatex": (
        PublishedSize(
            "HGR, CLIP2Video, TS2-Net, InternVideo, DGL", 1500, 15_000, ("hgr",), _GROUPED
        ),
        PublishedSize("CLIP2Video, random 1k5", 1500, 15_000, ("random-1k5",), _GROUPED),
        PublishedSize("MMEB-V2", 4478, 4478, note="text to video alone, 8 frames"),
        PublishedSize("mteb", 1000, 1000, note="its main score is nDCG@10"),
    ),
}
