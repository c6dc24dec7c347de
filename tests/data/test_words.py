import torch

from gare_cache.data.words import WordTokens

# Captions of 2, 1 and 3 tokens; token k of the whole list is (k, k).
TOKENS = WordTokens(
    torch.arange(6.0)[:, None].expand(6, 2).half(),
    torch.tensor([2, 1, 3]),
)


def test_padded_to_the_longest_of_the_batch() -> None:
    tokens, mask = TOKENS.padded(torch.tensor([1, 0]))
    assert tokens.dtype == torch.float32
    assert tokens[..., 0].tolist() == [[2.0, 0.0], [0.0, 1.0]]
    assert mask.tolist() == [[True, False], [True, True]]


def test_of_keeps_the_order_asked() -> None:
    some = TOKENS.of(torch.tensor([2, 0]))
    assert some.lengths.tolist() == [3, 2]
    assert some.tokens[:, 0].tolist() == [3.0, 4.0, 5.0, 0.0, 1.0]
    whole = TOKENS.padded(torch.tensor([0]))
    again = some.padded(torch.tensor([1]))
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
