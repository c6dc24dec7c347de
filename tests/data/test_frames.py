from dataclasses import dataclass

import numpy as np
import torch

from gare_cache.data.frames import (
    FrameChoice,
    even_positions,
    jittered_positions,
    take_frames,
    training_frames,
)


def test_even_positions_are_those_of_the_samplers() -> None:
    counts = torch.arange(1, 300)
    for num_frames in (1, 2, 3, 8, 12, 48, 64):
        found = even_positions(counts, num_frames)
        for count, row in zip(counts.tolist(), found.tolist(), strict=True):
            if count > num_frames:
                assert row == np.linspace(0, count - 1, num_frames).astype(int).tolist()
            else:
                assert row == [*range(count), *[0] * (num_frames - count)]


def test_jittered_positions_take_one_frame_of_each_part() -> None:
    counts = torch.tensor([3, 4, 5, 10, 64])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([jittered_positions(counts, 4, generator) for _ in range(400)])
    assert drawn[:, 0].unique(dim=0).tolist() == [[0, 1, 2, 0]]
    assert drawn[:, 1].unique(dim=0).tolist() == [[0, 1, 2, 3]]
    for video, count in ((2, 5), (3, 10), (4, 64)):
        edges = [k * count // 4 for k in range(5)]
        for part in range(4):
            expected = list(range(edges[part], edges[part + 1]))
            assert drawn[:, video, part].unique().tolist() == expected


def test_frames_are_taken_with_their_mask() -> None:
    mask = torch.tensor([[True, True, False], [True, True, True]])
    frames = torch.arange(6.0).reshape(2, 3, 1).masked_fill(~mask[..., None], 0.0)
    taken, real = take_frames(frames, mask, torch.tensor([[0, 1], [0, 2]]))
    assert taken[..., 0].tolist() == [[0, 1], [3, 5]]
    assert real.all()
    taken, real = take_frames(frames, mask, torch.tensor([[0, 1, 0], [2, 2, 2]]))
    assert taken[..., 0].tolist() == [[0, 1, 0], [5, 5, 5]]
    assert real.tolist() == [[True, True, False], [True, True, True]]


@dataclass
class Split:
    frames: torch.Tensor
    mask: torch.Tensor
    views: torch.Tensor | None


def test_a_batch_shows_the_frames_themselves_and_every_view_equally_often() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    frames = torch.zeros(2, 3, 1)
    views = torch.tensor([1.0, 2.0, 3.0])[None, :, None, None].expand(2, 3, 3, 1)
    split = Split(frames, mask, views)
    generator = torch.Generator().manual_seed(0)
    videos = torch.randint(2, (4000,), generator=generator)
    choice = FrameChoice(2, jittered=False)
    shown, real = training_frames(split, videos, choice, generator)  # type: ignore[arg-type]
    assert shown.shape == (4000, 2, 1)
    assert real.all()
    assert (shown[:, 0] == shown[:, 1]).all()
    shares = torch.bincount(shown[:, 0, 0].long(), minlength=4) / 4000
    assert torch.allclose(shares, torch.full((4,), 0.25), atol=0.03)


def test_nothing_is_drawn_where_nothing_is_left_to_chance() -> None:
    split = Split(torch.zeros(2, 3, 1), torch.ones(2, 3, dtype=torch.bool), None)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    choice = FrameChoice(2, jittered=False)
    training_frames(split, torch.tensor([0, 1]), choice, generator)  # type: ignore[arg-type]
    assert torch.equal(before, generator.get_state())
