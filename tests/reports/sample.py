"""A plausible report: two methods, 400 texts on 100 videos, 20 epochs."""

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from gare_cache.evaluation.protocol_card import ProtocolCard, PublishedTest, SplitCounts
from gare_cache.evaluation.results import DirectionResult
from gare_cache.reports.content import (
    BrowsedQuery,
    Epoch,
    Hub,
    Hubness,
    ModalityGap,
    NearDuplicates,
    QueryExample,
    ReportContent,
    ResultRow,
    RetrievedVideo,
    TableSection,
    VideoCell,
)
from gare_cache.reports.protocol import protocol_section

ZERO_SHOT = ResultRow(
    "zero-shot mean pooling",
    {
        "t2v": DirectionResult(
            {"R@1": 22.25, "R@5": 48.5, "R@10": 63.75, "R@50": 93.0, "MdR": 6.0, "MnR": 14.31},
            low=16.75,
            high=28.25,
            queries=400,
            queries_with_features=400,
            queries_listed=412,
            items=100,
            items_listed=103,
            tied=12,
        ),
        "v2t": DirectionResult(
            {"R@1": 25.0, "R@5": 51.0, "R@10": 66.0, "R@50": 95.0, "MdR": 5.0, "MnR": 12.04},
            low=17.0,
            high=34.0,
            queries=100,
            queries_with_features=100,
            queries_listed=103,
            items=400,
            items_listed=412,
            tied=3,
        ),
    },
)
HEAD = ResultRow(
    "transformer + gap (GARE)",
    {
        "t2v": dataclasses.replace(
            ZERO_SHOT.scores["t2v"],
            metrics={
                **{"R@1": 61.5, "R@5": 88.25, "R@10": 94.5, "R@50": 99.75},
                **{"MdR": 1.0, "MnR": 2.98},
            },
            low=54.0,
            high=68.75,
            tied=0,
        ),
        "v2t": dataclasses.replace(
            ZERO_SHOT.scores["v2t"],
            metrics={
                **{"R@1": 64.0, "R@5": 90.0, "R@10": 96.0, "R@50": 100.0},
                **{"MdR": 1.5, "MnR": 2.44},
            },
            low=54.0,
            high=73.0,
            tied=0,
        ),
    },
)
FACTS = (
    ("Coverage", "100 of 100 test videos"),
    ("Encoder", "demo-clip-64, 64 x 64 px, frozen"),
    ("Frames", "8 a video, uniform"),
    ("Selected on", "validation split, t2v R@1"),
    ("Seed", "0"),
    ("Versions", "gare-cache 0.1.0, torch 2.6.0, open_clip 3.3.0"),
)
NORMALISERS = TableSection(
    header=("Direction", "Scores", "Kind", "n", "R@1", "95 % interval", "R@5", "R@10", "E"),
    rows=[
        ("t2v", "raw", "", "400", "61.5", "54.0 to 68.8", "88.2", "94.5", "0.412"),
        ("t2v", "csls (k 10)", "I", "400", "62.0", "54.5 to 69.3", "88.5", "94.8", "0.331"),
    ],
    notes=("Raw scores are the result; the other rows correct them.",),
)
NUM_PICTURES = 40
CAPTIONS = (
    "a red circle moves left, then a blue square grows",
    "a green triangle turns while a yellow star follows it to the right",
    "two squares appear one after another; the second is purple",
    "the orange hexagon shrinks and then moves up",
    "a blue circle follows a white square",
    "a grey star appears, turns twice and leaves at the top of the picture",
)


CARD = ProtocolCard(
    dataset="clips",
    reader="didemo",
    protocol="paragraph",
    joined=False,
    scored="test",
    context_length=64,
    splits={
        "train": SplitCounts(None, None, 8395, 8362, 8361, 8395, 8361, 120),
        "test": SplitCounts(1004, 1004, 1004, 1004, 1004, 1004, 1004, 12),
    },
    published=[
        PublishedTest("Collaborative Experts", 1004, 1004, [], ""),
        PublishedTest("VindLU", 1003, 1003, ["1,003 videos, here 1,004"], ""),
    ],
)


def make_content() -> ReportContent:
    similarity, true_video = make_similarity()
    return ReportContent(
        title="Demo data, test split: transformer + gap against zero-shot",
        facts=FACTS,
        protocol=protocol_section(
            CARD, captions="all", v2t_convention="best_caption_group", missing="drop"
        ),
        rows=(ZERO_SHOT, HEAD),
        differences=(
            "transformer + gap (GARE) - zero-shot mean pooling, t2v R@1: +39.3 points "
            "[+31.0, +47.3], paired bootstrap over 100 videos, p < 0.001.",
        ),
        epochs=make_epochs(20),
        best_epoch=14,
        similarity=similarity,
        true_video=true_video,
        best=make_examples(true_ranks=(1, 1, 1, 1, 1, 1)),
        worst=make_examples(true_ranks=(71, 64.5, 48, 47, 33, 30)),
        notes=("Features are frozen: numbers of finetuned encoders are not comparable.",),
        summary=("test scored 1 time by this run",),
        alternative_rows=(ZERO_SHOT,),
        normalisers=NORMALISERS,
        ranks=make_ranks(),
        hubness=make_hubness(),
        duplicates=make_duplicates(),
        gaps=make_gaps(),
        queries=make_queries(),
        captions={f"c{number}": caption for number, caption in enumerate(CAPTIONS)},
        pictures={f"video{number}": make_thumbnail(number) for number in range(NUM_PICTURES)},
    )


def make_ranks():
    generator = np.random.default_rng(2)
    return {
        direction: {
            row.name: generator.integers(1, spread, row.scores[direction].queries).astype(float)
            for row, spread in ((ZERO_SHOT, 90), (HEAD, 20))
        }
        for direction in ("t2v", "v2t")
    }


def make_hubness() -> list[Hubness]:
    generator = np.random.default_rng(3)
    return [
        Hubness(
            method=row.name,
            direction=direction,
            num_queries=row.scores[direction].queries,
            num_items=row.scores[direction].items,
            skewness=(2.25, 1.75),
            never=(40, 7),
            counts=generator.poisson(12, row.scores[direction].items),
            hubs=[
                Hub(f"video{number}", "" if direction == "t2v" else CAPTIONS[number], 4, 9, 31)
                for number in range(3)
            ],
        )
        for direction in ("t2v", "v2t")
        for row in (ZERO_SHOT, HEAD)
    ]


def make_duplicates() -> list[NearDuplicates]:
    return [
        NearDuplicates(
            title="Videos with near-identical features",
            finding="4 of 100 (4.0 %) videos, in 2 pairs.",
            meaning="The same clip twice.",
            header=("Video", "Video", "Cosine"),
            examples=[(VideoCell("video1"), VideoCell("video2"), "0.997")],
        )
    ]


def make_gaps() -> list[ModalityGap]:
    generator = np.random.default_rng(4)
    shifts = {"text": -0.4, "video": 0.4, "shifted": 0.2}
    points = {
        name: generator.normal((shift, 0), (0.05, 0.3), (50, 2)) for name, shift in shifts.items()
    }
    bare = {name: points[name] for name in ("text", "video")}
    plain = {"gap": 0.8, "cosine": 0.31, "unmatched_cosine": 0.2}
    shifted = {"shifted_gap": 0.3, "shifted_cosine": 0.55, "delta_length": 0.62}
    return [
        ModalityGap(ZERO_SHOT.name, plain, bare, 400, 0.25),
        ModalityGap(HEAD.name, {**plain, **shifted, "delta_cosine": 0.44}, points, 50, 0.25),
    ]


def make_queries() -> list[BrowsedQuery]:
    """30 captions, the last without features, and 3 videos as queries."""
    rows = [
        BrowsedQuery(
            direction="t2v",
            text=f"{CAPTIONS[number % len(CAPTIONS)]}, take {number}",
            video_id=f"video{number % NUM_PICTURES}",
            head_rank=1.0 + number % 12,
            zero_shot_rank=1.0 + (number * 7) % 30,
            retrieved=[f"video{(number + place) % NUM_PICTURES}" for place in range(5)],
            is_true=[place == 0 for place in range(5)],
        )
        for number in range(29)
    ]
    rows.append(BrowsedQuery("t2v", "lost without features", "gone", None, None, [], []))
    rows += [
        BrowsedQuery("v2t", f"video{n}", f"video{n}", n + 1.0, 2.0, ["c0", "c1"], [False, True])
        for n in range(3)
    ]
    return rows


def make_similarity(num_texts: int = 400, num_videos: int = 100):
    generator = np.random.default_rng(0)
    true_video = generator.permutation(np.arange(num_texts) % num_videos)
    similarity = generator.normal(0.2, 0.06, (num_texts, num_videos))
    similarity[np.arange(num_texts), true_video] += 0.17
    return similarity.astype(np.float32), true_video.astype(np.int64)


def make_epochs(count: int) -> list[Epoch]:
    generator = np.random.default_rng(1)
    epochs = []
    for epoch in range(1, count + 1):
        rise = 1 - np.exp(-epoch / 4) - 0.004 * max(0, epoch - 14)
        losses = {
            "info_nce": 3.4 * np.exp(-epoch / 5) + 0.9 + generator.normal(0, 0.02),
            "increment_kl": 0.02 + 0.05 * np.exp(-epoch / 8),
            "direction": -0.3 * rise,
        }
        validation = {
            "t2v R@1": 22 + 40 * rise + generator.normal(0, 0.8),
            "v2t R@1": 25 + 39 * rise + generator.normal(0, 0.8),
            "t2v R@10": 64 + 31 * rise,
        }
        epochs.append(Epoch(epoch, losses, validation, min(1.0, epoch / 3) * (1 - epoch / 21)))
    return epochs


def make_examples(true_ranks: Sequence[float]) -> list[QueryExample]:
    return [
        QueryExample(CAPTIONS[index], rank, make_retrieved(index, rank))
        for index, rank in enumerate(true_ranks)
    ]


def make_retrieved(seed: int, true_rank: float, num_top: int = 5) -> list[RetrievedVideo]:
    ranks = [*range(1, num_top + 1), *([true_rank] if true_rank > num_top else [])]
    return [
        RetrievedVideo(
            video_id=f"video{(7 * seed + index) % NUM_PICTURES}",
            rank=rank,
            score=0.48 - 0.015 * index,
            is_true=rank == true_rank,
        )
        for index, rank in enumerate(ranks)
    ]


def make_thumbnail(seed: int) -> bytes:
    generator = np.random.default_rng(seed)
    image = Image.new("RGB", (96, 72), tuple(generator.integers(20, 90, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for shape in (draw.ellipse, draw.rectangle):
        left, top = generator.integers(4, 44, 2).tolist()
        shape((left, top, left + 24, top + 24), tuple(generator.integers(120, 255, 3).tolist()))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
