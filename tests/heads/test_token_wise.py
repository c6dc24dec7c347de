from itertools import product

import pytest
import torch

from gare_cache.errors import ConfigError
from gare_cache.heads.settings import TokenWiseSettings
from gare_cache.heads.token_wise import TokenWiseInteraction
from tests.heads import slow


def _interaction(dim=16):
    torch.manual_seed(0)
    return TokenWiseInteraction(dim, TokenWiseSettings()).double()


def test_matches_the_loop(inputs, random_words):
    text, frames, mask = inputs()
    tokens, real = random_words()
    interaction = _interaction()
    scores = interaction(text, frames, mask, (tokens, real))
    assert scores.delta is None
    for i, j in product(range(5), range(4)):
        expected = slow.token_wise(interaction, list(tokens[i][real[i]]), list(frames[j][mask[j]]))
        assert scores.similarity[i, j].item() == pytest.approx(expected, abs=1e-12)


def test_orientation_by_hand():
    """2 texts x 3 videos with equal weights: one word (1, 0); two words (1, 0) and (0, 1)."""
    interaction = _interaction(2)
    for parameter in interaction.parameters():
        parameter.data.zero_()
    tokens = torch.tensor([[[2.0, 0], [0, 0]], [[1, 0], [0, 3]]], dtype=torch.float64)
    real = torch.tensor([[True, False], [True, True]])
    frames = torch.tensor([[[1.0, 0]], [[0, 1]], [[-1, 0]]], dtype=torch.float64)
    mask = torch.ones(3, 1, dtype=torch.bool)
    scores = interaction(tokens[:, 0], frames, mask, (tokens, real)).similarity
    # Text 1, video 2: the words' best frames -1 and 0, the frame's best word 0.
    assert scores.tolist() == [[1, 0, -1], [(0.5 + 1) / 2, (0.5 + 1) / 2, (-0.5 + 0) / 2]]


def test_the_sentence_feature_does_not_matter(inputs, random_words):
    text, frames, mask = inputs()
    interaction = _interaction()
    scores = [interaction(t, frames, mask, random_words()).similarity for t in (text, -text)]
    assert torch.equal(*scores)


def test_gradcheck(inputs, random_words):
    text, frames, mask = inputs(num_texts=2, num_videos=2, num_frames=3, dim=4)
    tokens, real = random_words(num_texts=2, num_words=3, dim=4)
    mask[0] = False
    interaction = _interaction(4)

    def similarity(frames, tokens):
        return interaction(text, frames, mask, (tokens, real)).similarity

    arguments = (frames.requires_grad_(), tokens.requires_grad_())
    assert torch.autograd.gradcheck(similarity, arguments, fast_mode=True)


def test_words_are_asked_for(inputs):
    with pytest.raises(ConfigError, match="compares words, and none were given"):
        _interaction()(*inputs())


def test_weights_start_as_published_unless_asked_otherwise():
    torch.manual_seed(0)
    published = TokenWiseInteraction(256, TokenWiseSettings())
    for linear in (published.text_weight[0], published.video_weight[0]):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert linear.weight.abs().max() > 0.07  # normal, not uniform
        assert not linear.bias.any()
    plain = TokenWiseInteraction(256, TokenWiseSettings(init="torch"))
    assert plain.text_weight[0].weight.abs().max() <= 1 / 16  # uniform up to 1 / sqrt(D)
    assert plain.text_weight[0].bias.any()
