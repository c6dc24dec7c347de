import numpy as np
import pytest
import torch

from gare_cache.evaluation.increment import angles, has_increment, increment_figures
from gare_cache.heads.retrieval import RetrievalHead, build_head
from tests.training.test_loop import DIM, VAL

ONE = VAL.one_caption_per_video()


def make_head(gap: dict[str, int] | None) -> RetrievalHead:
    torch.manual_seed(3)
    return build_head(dim=DIM, max_frames=5, aggregator={"name": "mean"}, gap=gap).eval()


def test_angles_of_a_case_by_hand() -> None:
    first = np.array([[1, 0], [1, 0], [2, 2], [0, 0]], np.float32)
    second = np.array([[5, 0], [-1, 0], [0, 3], [1, 0]], np.float32)
    assert angles(first, second) == pytest.approx([0, 180, 45, 90])


@torch.no_grad()
def test_figures_are_means_over_the_matched_pairs() -> None:
    head = make_head({"heads": 2})
    found = increment_figures(head, ONE)
    vectors = head.vectors(ONE.text, ONE.frames, ONE.mask)
    delta = torch.stack([vectors.delta[i, i] for i in range(30)])
    video = torch.stack([vectors.video[i, i] for i in range(30)])

    def mean_angle(other: torch.Tensor) -> float:
        cosine = torch.nn.functional.cosine_similarity(delta, other)
        return float(torch.rad2deg(torch.arccos(cosine)).mean())

    assert found == pytest.approx(
        {
            "angle to gap": mean_angle(video - vectors.text),
            "angle to text": mean_angle(vectors.text),
            "length": float(delta.norm(dim=1).mean()),
        },
        rel=1e-4,
    )


def test_a_head_without_increment_has_no_figures() -> None:
    head = make_head(None)
    assert not has_increment(head)
    assert increment_figures(head, ONE) is None


def test_no_random_number_is_drawn_and_no_weight_changed() -> None:
    head = make_head({})
    before = {name: value.clone() for name, value in head.state_dict().items()}
    state = torch.get_rng_state()
    increment_figures(head, ONE)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
