import json
import math

import pytest
import torch

from gare_cache.errors import ConfigError
from gare_cache.heads.retrieval import build_head, initialise_from_encoder
from gare_cache.heads.settings import HeadSettings, LstmSettings
from tests.plain_head import plain_head

TOKEN_WISE = {"interaction": {"name": "token_wise"}}
BASE = {"dim": 16, "max_frames": 6, "aggregator": {"name": "mean"}}
GAP = {**BASE, "gap": {"heads": 2}}
MEAN = {"pooling": {"name": "mean"}}
HEADS = {
    "zero_shot": {**BASE, **MEAN},
    "text_conditioned": BASE,
    "gap": GAP,
    "gap_reference_padding": {**GAP, "reference_padding": True},
    "gap_on_mean": {**GAP, "pooling": {"name": "mean"}},
    "linear": {**GAP, "projection": "linear"},
    "lstm": {**GAP, "aggregator": {"name": "lstm"}},
    "transformer": {**GAP, "aggregator": {"name": "transformer", "layers": 2}},
}
X_POOL = {**BASE, "pooling": {"name": "cross_attention"}}
# Gap modules that feel the reference code's padding rule, each in another way.
PADDED = [
    {"query": "text"},
    {"context": "words"},
    {"context": "words", "query": "text", "side": "video"},
]


def _build(settings, seed=0):
    torch.manual_seed(seed)
    return plain_head(**settings).double()


@pytest.fixture(params=HEADS.values(), ids=HEADS.keys())
def settings(request):
    return request.param


@pytest.mark.parametrize(
    "case", ["similarity_7x5", "similarity_10x10", "similarity_9x9_heads4", "similarity_4x4"]
)
def test_dense_matches_the_reference(case, reference, reference_head):
    values = reference(case)
    scores = reference_head(values)(values["text"], values["frames"], values["mask"].bool())
    assert (scores.similarity - values["eval.similarity"]).abs().max() < 1e-5
    assert (scores.delta - values["eval.delta"]).abs().max() < 1e-5


def test_zero_shot_is_the_cosine_with_the_mean_frame(inputs):
    text, frames, mask = inputs()
    scores = _build(HEADS["zero_shot"])(text, frames, mask)
    assert scores.delta is None
    for i in range(5):
        for j in range(4):
            expected = torch.cosine_similarity(text[i], frames[j][mask[j]].mean(0), dim=0)
            torch.testing.assert_close(scores.similarity[i, j], expected)


@pytest.mark.parametrize("settings", [h for h in HEADS.values() if "gap" in h], ids=str)
def test_reference_padding_counts_padding(settings, inputs):
    text, frames, mask = inputs()
    head = _build({**settings, "max_frames": 8, "reference_padding": True}).eval()
    padded = torch.cat([frames, torch.full_like(frames[:, :2], 3.0)], dim=1)
    padded_mask = torch.nn.functional.pad(mask, (0, 2))
    for score in (lambda *a: head(*a).similarity, head.similarity):
        assert not torch.allclose(score(text, padded, padded_mask), score(text, frames, mask))


def test_without_positions_the_order_of_frames_does_not_matter(inputs):
    text, frames, mask = inputs()
    head = _build(GAP).eval()
    flipped = head(text, frames.flip(1), mask.flip(1)).similarity
    torch.testing.assert_close(flipped, head(text, frames, mask).similarity)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (BASE, {**BASE, "aggregator": {"name": "lstm"}}),
        (BASE, {**BASE, "aggregator": {"name": "transformer"}}),
        (BASE, {**BASE, "pooling": {"name": "mean"}}),
        (BASE, {**BASE, "pooling": {"temperature": 1.0}}),
        (BASE, {**BASE, "pooling": {"name": "cross_attention"}}),
        (BASE, {**BASE, **TOKEN_WISE}),
        (BASE, {**BASE, "gap": {}}),
        (GAP, {**GAP, "gap": {"heads": 4}}),
        (GAP, {**GAP, "gap": {"heads": 2, "init": "identity"}}),
        (GAP, {**GAP, "gap": {"heads": 2, "side": "video"}}),
        (GAP, {**GAP, "gap": {"heads": 2, "context": "words"}}),
        (GAP, {**GAP, "gap": {"heads": 2, "query": "text"}}),
        (GAP, {**GAP, "gap": {"heads": 2, "eta": -1}}),
        (GAP, {**GAP, "gap": {"heads": 2, "layers": 2}}),
        (X_POOL, {**X_POOL, "pooling": {"name": "cross_attention", "heads": 2}}),
        (GAP, {**GAP, "reference_padding": True}),
        *(
            ({**head, **MEAN}, {**head, **MEAN, "reference_padding": True})
            for head in (
                {**BASE, "aggregator": {"name": "transformer"}},
                {**BASE, "gap": {"context": "words", "query": "text", "side": "video"}},
            )
        ),
        *(
            ({**BASE, "gap": gap}, {**BASE, "gap": gap, "reference_padding": True})
            for gap in PADDED
        ),
    ],
    ids=str,
)
def test_every_setting_changes_the_scores(before, after, inputs, random_words):
    text, frames, mask = inputs()
    features = (text, frames * mask[..., None], mask, random_words())
    heads = [_build(settings).eval() for settings in (before, after)]
    for head in heads:
        for name, parameter in head.named_parameters():
            if name.endswith("bias"):  # zero at the start, where padding meets no key and no value
                parameter.data += 0.1
    results = [head(*features).similarity for head in heads]
    assert (results[0] - results[1]).abs().max() > 1e-5


def test_dropout_changes_a_training_step_and_not_the_evaluation(inputs):
    text, frames, mask = inputs()
    heads = [_build({**GAP, "gap": {"heads": 2, "dropout": p}}) for p in (0.0, 0.5)]
    torch.testing.assert_close(*[h.similarity(text, frames, mask) for h in heads])
    assert not torch.allclose(*[h.train()(text, frames, mask).similarity for h in heads])


def test_linear_projection_starts_at_zero_shot_and_learns(inputs):
    text, frames, mask = inputs()
    plain, linear = (
        _build(HEADS["zero_shot"]),
        _build({**HEADS["zero_shot"], "projection": "linear"}),
    )
    start = linear(text, frames, mask).similarity
    torch.testing.assert_close(start, plain(text, frames, mask).similarity)
    start.diagonal().sum().backward()
    for name, parameter in linear.named_parameters():
        if name != "logit_scale":
            assert parameter.grad.abs().sum() > 0
            parameter.data += 0.1 * parameter.grad
    assert not torch.allclose(linear(text, frames, mask).similarity, start)


def test_scale_is_limited_to_100_and_can_come_down():
    head = plain_head(**BASE, logit_scale_init=math.log(20.0))
    head.limit_scale()
    assert head.scale.item() == pytest.approx(20.0)
    high = plain_head(**BASE, logit_scale_init=5.0)
    high.limit_scale()
    assert high.scale.item() == pytest.approx(100.0)
    high.scale.backward()
    assert high.logit_scale.grad > 0


def test_half_precision_features_are_computed_in_the_heads_dtype(inputs):
    text, frames, mask = inputs(dtype=torch.float32)
    head = plain_head(**GAP).eval()
    text, frames = text.half(), frames.half()
    expected = head.similarity(text.float(), frames.float(), mask)
    assert torch.equal(head.similarity(text, frames, mask), expected)
    assert head(text, frames, mask).similarity.dtype == torch.float32


def test_autocast_stays_finite_without_real_frames(settings, inputs):
    text, frames, mask = inputs(dtype=torch.float32)
    mask[0] = False
    head = plain_head(**settings)
    frames.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        scores = head(text, frames, mask).similarity
    scores.float().sum().backward()
    assert scores.isfinite().all()
    gradients = [frames.grad] + [p.grad for p in head.parameters()]
    assert all(g.isfinite().all() for g in gradients if g is not None)


def _encoder_state(dim=16, context=8, layers=4):
    donor = plain_head(
        dim=dim, max_frames=context, aggregator={"name": "transformer", "layers": layers}
    )
    weights = donor.aggregator.state_dict()
    positions = weights.pop("positional_embedding")
    state = {f"text.transformer.{name}": value for name, value in weights.items()}
    return {"logit_scale": torch.tensor(3.5), "text.positional_embedding": positions, **state}


def test_transformer_starts_from_the_encoder():
    state = _encoder_state()
    head = plain_head(dim=16, max_frames=6, aggregator={"name": "transformer", "layers": 2})
    initialise_from_encoder(head, state)
    assert head.logit_scale.item() == 3.5
    own = head.aggregator.state_dict()
    assert torch.equal(own["positional_embedding"], state["text.positional_embedding"][:6])
    for name, value in own.items():
        if name != "positional_embedding":
            assert torch.equal(value, state[f"text.transformer.{name}"])


@pytest.mark.parametrize(
    "aggregator", [{"name": "transformer", "init": "random"}, {"name": "mean"}]
)
def test_other_aggregators_take_the_logit_scale_only(aggregator):
    head = plain_head(dim=16, max_frames=6, aggregator=aggregator)
    before = {k: v.clone() for k, v in head.aggregator.state_dict().items()}
    initialise_from_encoder(head, _encoder_state())
    assert head.logit_scale.item() == 3.5
    assert all(torch.equal(v, before[k]) for k, v in head.aggregator.state_dict().items())
    initialise_from_encoder(head, {"logit_scale": torch.tensor(2.0)})
    assert head.logit_scale.item() == 2.0


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            _encoder_state(dim=32),
            r"has shape \(8, 32\)|has shape .*32.*set head.aggregator.init: random",
        ),
        (_encoder_state(context=4), r"shape \(4, 16\).*needs \(6, 16\).*init: random"),
        (
            _encoder_state(layers=3),
            r"no 'text.transformer.resblocks.3.*set head.aggregator.init: random",
        ),
        ({"logit_scale": torch.tensor(1.0)}, "no 'text.positional_embedding'.*init: random"),
        ({}, "no 'logit_scale'"),
    ],
    ids=["width", "context", "layers", "no_blocks", "empty"],
)
def test_an_encoder_that_does_not_fit_is_an_error_and_changes_nothing(state, message):
    head = plain_head(dim=16, max_frames=6)
    before = {k: v.clone() for k, v in head.state_dict().items()}
    with pytest.raises(ConfigError, match=message):
        initialise_from_encoder(head, state)
    assert all(torch.equal(v, before[k]) for k, v in head.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 0}, "dim is 0: input should be greater than or equal to 1"),
        ({"max_frames": 1.5}, "max_frames is 1.5"),
        ({"projection": "mlp"}, "head.projection is 'mlp': input should be 'none' or 'linear'"),
        ({"aggregator": {"name": "gru"}}, "unknown head.aggregator.name 'gru'"),
        ({"pooling": {"name": "max"}}, "unknown head.pooling.name 'max'"),
        ({"gap": {"head": 1}}, "unknown setting of head.gap 'head'; did you mean 'heads'"),
        ({"poolings": {}}, "unknown setting of head 'poolings'; did you mean 'pooling'"),
        ({"gap": {"query": "text", "eta": -1}}, "head.gap.query: text there is none; set head.gap"),
        ({"interaction": {"name": "wti"}}, "unknown head.interaction.name 'wti'; known: pooled"),
        ({"interaction": {"name": "pooled", "options": {}}}, "set head.interaction.options: null"),
        ({"aggregator": {"name": "mean", "options": {}}}, "set head.aggregator.options: null"),
        (
            {**TOKEN_WISE, "pooling": {"name": "mean"}},
            "head.pooling belongs to the interaction 'pooled'.*set head.pooling: null",
        ),
        ({**TOKEN_WISE, "gap": {}}, "set head.gap: null"),
        ({**TOKEN_WISE, "reference_padding": True}, "set head.reference_padding: false"),
        (
            {"reference_padding": True, "pooling": {"name": "cross_attention"}},
            "reference_padding changes nothing",
        ),
        (
            {"reference_padding": True, "gap": {"context": "words", "query": "text"}},
            "reference_padding changes nothing",
        ),
        ({"reference_padding": True, **MEAN}, "reference_padding changes nothing"),
        (
            {"reference_padding": True, **MEAN, "aggregator": {"name": "lstm"}},
            "reference_padding changes nothing",
        ),
        ({"logit_scale_init": math.inf}, "logit_scale_init is inf"),
        ({"reference_padding": True}, "reference_padding changes nothing"),
    ],
)
def test_settings_errors(change, message):
    with pytest.raises(ConfigError, match=message):
        plain_head(**{**BASE, **change})


def test_settings_are_typed_or_plain_values_and_rebuild_the_head():
    settings = HeadSettings(aggregator=LstmSettings(), projection="linear")
    typed = build_head(settings, dim=16, max_frames=6)
    plain = build_head(dim=16, max_frames=6, aggregator={"name": "lstm"}, projection="linear")
    again = build_head(**json.loads(json.dumps(typed.settings)))
    assert typed.settings == plain.settings == again.settings
    sizes = {"dim": 16, "max_frames": 6, "logit_scale_init": math.log(100.0)}
    assert typed.settings == {**sizes, **settings.model_dump()}
    with pytest.raises(ConfigError, match=r"given settings and 'gap' beside them"):
        build_head(settings, dim=16, max_frames=6, gap=None)


def test_heads_that_do_not_pool_have_no_vectors(inputs, random_words):
    head = plain_head(**BASE, **TOKEN_WISE).double()
    with pytest.raises(ConfigError, match=r"'token_wise' does not pool a video to one vector"):
        head.vectors(*inputs(), random_words())
    with pytest.raises(ConfigError, match=r"compares the word tokens.*none were given"):
        head.similarity(*inputs())


def test_input_errors(inputs):
    text, frames, mask = inputs(dtype=torch.float32)
    head = plain_head(**BASE)
    with pytest.raises(ConfigError, match=r"text features have shape \(5, 15\).*D = 16"):
        head(text[:, 1:], frames, mask)
    with pytest.raises(ConfigError, match=r"frame features have shape \(4, 16\)"):
        head(text, frames[:, 0], mask)
    with pytest.raises(ConfigError, match=r"mask is torch.float32 of shape \(4, 6\)"):
        head(text, frames, mask.float())
    with pytest.raises(ConfigError, match=r"mask is torch.bool of shape \(4, 5\)"):
        head.similarity(text, frames, mask[:, 1:])
    mask[[1, 3]] = False
    with pytest.raises(ConfigError, match=r"2 of 4 videos have no real frame \(rows 1, 3\)"):
        head.similarity(text, frames, mask)
