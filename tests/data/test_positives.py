import functools

import pytest
import torch

from gare_cache.data.positives import positives_of
from gare_cache.data.split import FeatureSplit
from gare_cache.losses.contrastive import info_nce
from gare_cache.losses.ncl import ncl

# Videos 0 and 1 share "a dog runs", which each says of its own; video 2 is alone.
CAPTIONS = ["a dog runs", "a dog", "a dog runs", "a cat", "a bird", "A bird"]
VIDEOS = [0, 0, 1, 1, 2, 2]


@pytest.fixture
def split() -> FeatureSplit:
    frames, text = torch.zeros(3, 1, 4), torch.zeros(6, 4)
    ids = [str(i) for i in range(6)]
    mask = torch.ones(3, 1, dtype=torch.bool)
    return FeatureSplit(
        "train", ids[:3], ids, CAPTIONS, frames, mask, text, torch.tensor(VIDEOS), 3, 6
    )


def _loop(rows: list[int]) -> torch.Tensor:
    return torch.tensor(
        [
            [
                any(
                    VIDEOS[k] == VIDEOS[j] and CAPTIONS[k] == CAPTIONS[i]
                    for k in range(len(CAPTIONS))
                )
                for j in rows
            ]
            for i in rows
        ]
    )


def test_one_video_equal_sentences_and_nothing_else(split: FeatureSplit) -> None:
    found = positives_of(split).among(torch.tensor([0, 1, 2, 4]))
    expected = torch.eye(4, dtype=torch.bool)
    expected[0, 1] = expected[1, 0] = True  # one video
    expected[0, 2] = expected[2, 0] = True  # one sentence
    expected[2, 1] = True  # video 0 of column 1 has the sentence of text 2, not in this pair
    assert torch.equal(found, expected)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5], [5, 4, 3], [3, 1], [2]])
def test_matches_the_loop(split: FeatureSplit, rows: list[int]) -> None:
    assert torch.equal(positives_of(split).among(torch.tensor(rows)), _loop(rows))


@pytest.mark.parametrize(
    "loss", [info_nce, functools.partial(ncl, iterations=4, detach_biases=False)]
)
def test_a_batch_of_one_video_teaches_nothing(split: FeatureSplit, loss: object) -> None:
    positives = positives_of(split).among(torch.tensor([0, 1]))
    assert positives.all()
    similarity = torch.tensor([[0.1, 0.9], [0.8, 0.2]], requires_grad=True)
    value = loss(similarity, 100.0, positives=positives)  # type: ignore[operator]
    value.backward()
    assert value.item() == 0.0
    assert torch.equal(similarity.grad, torch.zeros(2, 2))
