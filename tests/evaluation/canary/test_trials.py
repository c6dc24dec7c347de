import numpy as np
import pytest
import torch

from gare_cache.evaluation.canary.trials import (
    ORDERS,
    num_permutations,
    permuted_trials,
    random_trial,
)


@pytest.mark.parametrize("order", ORDERS)
def test_a_random_gallery(order: str) -> None:
    trial = random_trial(np.random.default_rng(0), order=order, dim=8, max_frames=5)
    split = trial.split
    assert split.frames.shape == (60, 5, 8)
    assert split.text.shape == (ORDERS[order], 8)
    assert len(split.text) != len(split.frames)
    lengths = split.mask.sum(1)
    assert set(lengths.tolist()) == {1, 2, 3, 4, 5}
    assert torch.equal(split.mask, torch.arange(5) < lengths[:, None])
    assert not split.frames[~split.mask].any()
    assert split.text.norm(dim=1).mean() == pytest.approx(10, rel=0.1)
    captions = torch.bincount(split.video_of_text, minlength=60)
    assert captions.min() == 0
    assert trial.texts.tolist() == list(range(len(split.text)))
    assert len(trial.videos) == (captions > 0).sum()
    in_order = split.video_of_text.tolist() == list(range(len(split.text)))
    assert in_order == (order == "listed")
    assert (captions.max() > 1) == (order == "shuffled")


def test_galleries_differ_and_the_seed_gives_them_again() -> None:
    def draw(seed: int) -> list[torch.Tensor]:
        generator = np.random.default_rng(seed)
        return [
            random_trial(generator, order="shuffled", dim=4, max_frames=2).split.text
            for _ in range(2)
        ]

    first = draw(0)
    assert torch.equal(first[0], draw(0)[0])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], draw(1)[0])


@pytest.mark.parametrize("order", ORDERS)
def test_permuted_ids_exchange_whole_videos_and_keep_the_captions(order: str) -> None:
    split = random_trial(np.random.default_rng(0), order=order, dim=8, max_frames=5).split
    trials = list(permuted_trials(split, np.random.default_rng(1)))
    assert len(trials) == num_permutations(split) == 200
    owned = np.unique(split.video_of_text.numpy())
    for trial in trials[:20]:
        new = trial.split
        assert torch.equal(new.text, split.text)
        assert torch.equal(new.video_of_text, split.video_of_text)
        assert not torch.equal(new.frames, split.frames)
        for frames, mask in zip(new.frames, new.mask, strict=True):
            (source,) = (split.frames == frames).all(dim=(1, 2)).nonzero().flatten().tolist()
            assert torch.equal(split.mask[source], mask)
        assert len(trial.videos) == len(trial.texts) == len(owned) // 10
        assert split.video_of_text.numpy()[trial.texts].tolist() == owned[trial.videos].tolist()
    counted = np.concatenate([trial.texts for trial in trials])
    assert len(np.unique(counted)) > 0.9 * len(split.text)
