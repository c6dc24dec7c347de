import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from gare_cache.data.split import FeatureSplit
from gare_cache.evaluation.normalisers.banks import draw_items, make_banks
from gare_cache.heads.retrieval import RetrievalHead, build_head

DIM = 16
FRAMES = 3


def make_split(name: str, *, num_videos: int, captions: int, seed: int) -> FeatureSplit:
    generator = torch.Generator().manual_seed(seed)
    num_texts = num_videos * captions
    lengths = torch.randint(1, FRAMES + 1, (num_videos, 1), generator=generator)
    return FeatureSplit(
        name=name,
        video_ids=[f"{name}{row}" for row in range(num_videos)],
        caption_ids=[f"{name}#{row}" for row in range(num_texts)],
        captions=[f"caption {row}" for row in range(num_texts)],
        frames=torch.randn(num_videos, FRAMES, DIM, generator=generator),
        mask=torch.arange(FRAMES) < lengths,
        text=torch.randn(num_texts, DIM, generator=generator),
        video_of_text=torch.arange(num_texts) // captions,
        num_videos_listed=num_videos,
        num_captions_listed=num_texts,
    )


@pytest.fixture
def head() -> RetrievalHead:
    torch.manual_seed(0)
    made = build_head(
        dim=DIM,
        max_frames=FRAMES,
        projection="linear",
        aggregator={"name": "transformer", "layers": 1},
        gap={"heads": 1},
        logit_scale_init=math.log(30.0),
    ).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    return made


TRAIN = make_split("train", num_videos=6, captions=2, seed=1)
GALLERY = make_split("test", num_videos=4, captions=3, seed=2)


@torch.no_grad()
def test_query_banks_are_the_heads_scores_of_training_items(head: RetrievalHead) -> None:
    banks = make_banks(head, draw_items(TRAIN, size=None, seed=0), GALLERY, {"queries"})
    texts_to_videos = head(TRAIN.text, GALLERY.frames, GALLERY.mask).similarity
    videos_to_texts = head(GALLERY.text, TRAIN.frames, TRAIN.mask).similarity.T
    for direction, expected in (("t2v", texts_to_videos), ("v2t", videos_to_texts)):
        found = banks[direction]
        assert found.gallery is None
        np.testing.assert_allclose(found.queries, 30 * expected.numpy(), atol=2e-4)
    assert banks["t2v"].queries.shape == (12, 4)
    assert banks["v2t"].queries.shape == (6, 12)


@torch.no_grad()
def test_gallery_banks_compare_items_of_one_kind(head: RetrievalHead) -> None:
    banks = make_banks(head, draw_items(TRAIN, size=None, seed=0), GALLERY, {"gallery"})
    assert banks["t2v"].queries is None
    assert banks["t2v"].gallery.shape == (6, 4)
    assert banks["v2t"].gallery.shape == (12, 12)
    for item in range(6):
        for video in range(4):
            means = []
            for split, row in ((TRAIN, item), (GALLERY, video)):
                own = slice(row, row + 1)
                frames = head.encode_frames(split.frames[own], split.mask[own])[0]
                means.append(frames[split.mask[row]].mean(dim=0))
            expected = 30 * float(cosine_similarity(*means, dim=0))
            assert banks["t2v"].gallery[item, video] == pytest.approx(expected, abs=1e-3)
    one, other = head.encode_text(TRAIN.text[5:6]), head.encode_text(GALLERY.text[7:8])
    expected = 30 * float(cosine_similarity(one, other))
    assert banks["v2t"].gallery[5, 7] == pytest.approx(expected, abs=1e-3)


def test_drawn_items_are_a_seeded_choice(head: RetrievalHead) -> None:
    whole = make_banks(head, draw_items(TRAIN, size=None, seed=0), GALLERY, {"queries"})
    for seed in (0, 1):
        items = draw_items(TRAIN, size=5, seed=seed)
        assert (len(items.texts.caption_ids), len(items.videos.video_ids)) == (5, 5)
        rows = [TRAIN.caption_ids.index(id_) for id_ in items.texts.caption_ids]
        assert rows == sorted(set(rows))
        some = make_banks(head, items, GALLERY, {"queries"})
        np.testing.assert_allclose(some["t2v"].queries, whole["t2v"].queries[rows], atol=1e-4)
        columns = [TRAIN.video_ids.index(id_) for id_ in items.videos.video_ids]
        np.testing.assert_allclose(some["v2t"].queries, whole["v2t"].queries[columns], atol=1e-4)
    assert draw_items(TRAIN, size=5, seed=0).texts.caption_ids != items.texts.caption_ids
    clamped = draw_items(TRAIN, size=9, seed=0)
    assert (len(clamped.texts.caption_ids), len(clamped.videos.video_ids)) == (9, 6)


def test_the_order_of_the_bank_changes_no_bias(head: RetrievalHead) -> None:
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    shuffled = replace(TRAIN, frames=TRAIN.frames[order], mask=TRAIN.mask[order])
    found = [
        make_banks(head, draw_items(split, size=None, seed=0), GALLERY, {"queries"})["v2t"].queries
        for split in (TRAIN, shuffled)
    ]
    np.testing.assert_allclose(found[1], found[0][order.numpy()], atol=1e-4)
