import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gare_cache.config import load_params, parse_params
from gare_cache.errors import ConfigError
from gare_cache.heads import settings as head_settings
from gare_cache.heads.aggregators import AGGREGATORS
from gare_cache.heads.interactions import INTERACTIONS
from gare_cache.heads.pooling import POOLINGS
from gare_cache.heads.settings import HeadSettings, TransformerSettings
from gare_cache.losses import settings as loss_settings
from gare_cache.losses.contrastive import CONTRASTIVE
from gare_cache.losses.objective import REGULARISERS
from gare_cache.losses.settings import LossSettings
from gare_cache.settings import NamedSettings
from gare_cache.studies.setting_keys import flat, setting_names

REPOSITORY = Path(__file__).parents[1]
MINIMAL: dict[str, Any] = {
    "dataset": {"name": "d", "annotations": "a.csv", "video_roots": ["v"]},
    "encoder": {"model": "m"},
}

TOKEN_WISE = {"interaction": {"name": "token_wise"}, "pooling": None, "gap": None}
WORDS = {"extract": {"word_tokens": True}}


def parse(**sections: Any) -> Any:
    return parse_params({**MINIMAL, **sections}, where="params.yaml")


def test_the_repositorys_params_are_valid_and_name_every_key() -> None:
    values = flat(yaml.safe_load((REPOSITORY / "params.yaml").read_text()))
    read = flat(load_params(REPOSITORY / "params.yaml").model_dump())
    assert _not_null(read) == _not_null(values)
    sections = {key.rpartition(".")[0] for key in setting_names()}
    keys = {key for key in setting_names() if key not in sections}
    keys = {key for key in keys if ".views." not in key and ".lora." not in key}
    assert keys <= values.keys()


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-05", 0.00001), ("1E-5", 0.00001), ("+.5e1", 5.0), ("3e-4", 0.0003), ("1.5e0", 1.5)],
)
def test_a_number_that_yaml_reads_as_text_is_a_number(text: str, number: float) -> None:
    """YAML 1.1 does so without a point, and DVC and Python write 0.00001 as 1e-05."""
    values = yaml.safe_load(
        f"train: {{learning_rate: '{text}', loss: {{ib: {{weight: '{text}'}}}}}}\n"
        f"head: {{pooling: {{name: text_conditioned, temperature: '{text}'}}}}\n"
        "evaluate: {normalisers: [{name: dsl, temp: 1e-2}]}"
    )
    params = parse(**values)
    assert params.train.learning_rate == number
    assert params.train.loss.ib.weight == number
    assert params.head.pooling.model_dump()["temperature"] == number
    written = {"learning_rate": number, "loss": {"ib": {"weight": number}}}
    assert params.train.model_dump_json() == parse(train=written).train.model_dump_json()


def test_whole_numbers_and_texts_that_look_like_numbers() -> None:
    values = {"train": {"epochs": "1e1"}, "dataset": {**MINIMAL["dataset"], "name": "1e1"}}
    params = parse(**values)
    assert (params.train.epochs, params.dataset.name) == (10, "1e1")
    options = {"aggregator": {"name": "my:Part", "options": {"rate": "1e-3"}}}
    assert parse(head=options).head.aggregator.model_dump()["options"] == {"rate": "1e-3"}


def _not_null(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"trian": {}}, "unknown setting of params 'trian'; did you mean 'train'"),
        ({"train": {"epoch": 3}}, "unknown setting of train 'epoch'; did you mean 'epochs'"),
        (
            {"train": {"loss": {"ib": {"wieght": 1}}}},
            "unknown setting of train.loss.ib 'wieght'; did you mean 'weight'",
        ),
        ({"head": {"gap": {"head": 2}}}, "unknown setting of head.gap 'head'; did you mean"),
        ({"train": {"epochs": 0}}, "train.epochs is 0: input should be greater than or equal to 1"),
        ({"train": {"learning_rate": "fast"}}, "train.learning_rate is 'fast': input should be"),
        ({"train": {"learning_rate": "1e999"}}, "train.learning_rate is '1e999': input should be"),
        ({"train": {"learning_rate": "1_0e-3"}}, "train.learning_rate is '1_0e-3': input should"),
        ({"train": {"learning_rate": " 1e-3"}}, "train.learning_rate is ' 1e-3': input should"),
        ({"train": {"learning_rate": "inf"}}, "train.learning_rate is 'inf': input should"),
        ({"train": {"learning_rate": True}}, "train.learning_rate is True: input should"),
        ({"train": {"learning_rate": "-1e-3"}}, "train.learning_rate is -0.001: input should be"),
        ({"train": {"learning_rate": "0.001"}}, "train.learning_rate is '0.001': input should be"),
        ({"train": {"epochs": "1.5"}}, "train.epochs is '1.5': input should be"),
        ({"train": {"views": "1"}}, "train.views is '1': input should be"),
        ({"extract": {"sampler": "uniform"}}, "extract.sampler is 'uniform': input should be"),
        ({"dataset": {"name": "d"}}, "dataset.annotations is missing"),
        ({"dataset": {**MINIMAL["dataset"], "name": "../x"}}, "dataset.name is '../x'"),
        (
            {"head": {"aggregator": {"name": "lsmt"}}},
            "unknown head.aggregator.name 'lsmt'; did you mean 'lstm'",
        ),
        (
            {"head": {"aggregator": {"name": "lstm", "layers": 2}}},
            "head.aggregator.layers is 2, but aggregator 'lstm' has no such setting; set "
            "head.aggregator.layers: null",
        ),
        (
            {"head": {"aggregator": {"name": "lstm", "options": {}}}},
            "head.aggregator.options is {}.*set head.aggregator.options: null",
        ),
        ({"head": {"interaction": {"name": "wti"}}}, "unknown head.interaction.name 'wti'; known"),
        (
            {"head": {"interaction": {"name": "pooled", "options": {"a": 1}}}},
            "set head.interaction.options: null",
        ),
        (
            {"head": {"pooling": {"name": "cross_attention", "temperature": 3.0}}},
            "set head.pooling.temperature: null",
        ),
        ({"head": {"pooling": {"heads": 2}}}, "set head.pooling.heads: null"),
        ({"head": {"pooling": {"name": "max"}}}, "unknown head.pooling.name 'max'; known: cross"),
        ({"head": {"pooling": {"name": "a:B"}}}, "unknown head.pooling.name 'a:B'; known: cross_"),
        ({"head": {"aggregator": "lstm"}}, "head.aggregator is 'lstm'; it must be a mapping with"),
        ({"head": {"pooling": {"name": "mean", "dropout": 0.1}}}, "set head.pooling.dropout: null"),
        ({"head": {"pooling": None}}, "head.pooling is null, but the interaction 'pooled' needs"),
        ({"head": TOKEN_WISE | {"pooling": {}}, **WORDS}, "set head.pooling: null"),
        ({"head": TOKEN_WISE | {"gap": {}}, **WORDS}, "set head.gap: null"),
        (
            {"head": TOKEN_WISE | {"reference_padding": True}, **WORDS},
            "set head.reference_padding: false",
        ),
        ({"head": TOKEN_WISE}, "extract.word_tokens is false.*set extract.word_tokens: true"),
        ({"head": {"gap": {"context": "words"}}}, "set extract.word_tokens: true"),
        ({"head": {"gap": {"query": "text", "eta": -1}}}, "set head.gap.eta: 1, or"),
        ({"head": {"gap": {"eta": 2}}}, "head.gap.eta is 2: input should be 1 or -1"),
        ({"head": {"gap": None, "reference_padding": True}}, "set head.reference_padding: false"),
        ({"head": {"gap": None}}, "head.gap is null, so there is no increment .*ib.weight"),
        (
            {"train": {"loss": {"contrastive": {"name": "nlc"}}}},
            "unknown train.loss.contrastive.name 'nlc'; did you mean 'ncl'.*import path, such as",
        ),
        (
            {"train": {"loss": {"contrastive": {"iterations": 4}}}},
            "train.loss.contrastive.iterations is 4, but contrastive 'info_nce' has no such sett",
        ),
        (
            {"train": {"loss": {"contrastive": {"name": "ncl", "options": {}}}}},
            r"contrastive.options is \{\}, but .*; set train.loss.contrastive.options: null",
        ),
        (
            {"train": {"loss": {"trust_region": {"learned": True}}}},
            "train.loss.trust_region.learned is true at weight 0, where nothing is learned",
        ),
    ],
)
def test_faults_name_the_place_and_what_is_allowed(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(**sections)


def test_a_head_without_gap_needs_all_regularisers_off() -> None:
    off = {name: {"weight": 0} for name in ("ib", "eps", "dir")}
    assert parse(head={"gap": None}, train={"loss": off}).head.gap is None
    for name in ("orthogonality", "trust_region"):
        with pytest.raises(ConfigError, match=rf"no increment .*train.loss.{name}.weight to 0"):
            parse(head={"gap": None}, train={"loss": {**off, name: {"weight": 1}}})


def test_terms_that_compare_equal_increments_are_refused() -> None:
    gap = {"query": "text", "context": "words"}
    off: dict[str, Any] = {name: {"weight": 0} for name in ("eps", "dir")}
    message = r"nothing to compare; set train.loss.eps.weight, train.loss.dir.weight to 0, or"
    with pytest.raises(ConfigError, match=message):
        parse(head={"gap": gap}, **WORDS)
    for name, values in (("orthogonality", {"weight": 1}), ("ib", {"anchor": "text"})):
        with pytest.raises(ConfigError, match=rf"nothing to compare; set train.loss.{name}.weight"):
            parse(head={"gap": gap}, train={"loss": {**off, name: values}}, **WORDS)
    assert parse(head={"gap": gap}, train={"loss": off}, **WORDS)
    assert parse(head={"gap": gap | {"side": "video"}}, **WORDS)
    for other in ({"query": "gap"}, {"context": "frames"}):
        assert parse(head={"gap": gap | other}, **WORDS)


def test_heads_that_compare_words() -> None:
    off = {"loss": {name: {"weight": 0} for name in ("ib", "eps", "dir")}}
    assert parse(head=TOKEN_WISE, train=off, **WORDS).head.needs_word_tokens
    context = {"gap": {"context": "words"}}
    assert parse(head=context, **WORDS).head.needs_word_tokens
    # Imported features say themselves whether they hold words.
    assert parse(head=context, encoder=None).head.needs_word_tokens
    assert not parse().head.needs_word_tokens


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (head_settings.AGGREGATORS, AGGREGATORS),
        (head_settings.INTERACTIONS, INTERACTIONS),
        (head_settings.POOLINGS, POOLINGS),
        (loss_settings.CONTRASTIVE, CONTRASTIVE),
    ],
)
def test_every_part_has_settings_of_its_name(
    settings: dict[str, type[NamedSettings]], parts: dict[str, Any]
) -> None:
    assert settings.keys() == parts.keys()
    for name, settings_class in settings.items():
        assert settings_class.model_validate({}).name == name


def test_every_regulariser_has_settings() -> None:
    assert LossSettings().regularisers.keys() == REGULARISERS.keys()


@pytest.mark.parametrize("module", ["gare_cache.config", "gare_cache.studies.setting_keys"])
def test_settings_are_free_of_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_a_null_setting_has_its_default() -> None:
    null: dict[str, Any] = {"name": "transformer", "layers": None, "heads": None, "options": None}
    assert parse(head={"aggregator": null}).head.aggregator == TransformerSettings()
    assert parse(head={"aggregator": {"name": None}}).head == HeadSettings()


def test_parts_of_every_name_are_written_and_read_again() -> None:
    for name in AGGREGATORS:
        head = parse(head={"aggregator": {"name": name}}).head
        assert HeadSettings.model_validate(head.model_dump()) == head
        assert HeadSettings.model_validate_json(head.model_dump_json()) == head


def test_one_mistake_is_one_message() -> None:
    with pytest.raises(ConfigError) as err:
        parse(head={"aggregator": {"name": "transformer", "layers": 0, "heads": 0}})
    assert str(err.value) == "params.yaml: " + "; ".join(
        f"head.aggregator.{key} is 0: input should be greater than or equal to 1"
        for key in ("layers", "heads")
    )


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match=r"frozen"):
        parse().train.epochs = 7


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"params.yaml does not exist; give the settings with"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "a.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match=r"is not valid YAML"):
        load_params(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("just text")
    with pytest.raises(ConfigError, match=r"holds no settings"):
        load_params(tmp_path / "b.yaml")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"aggregator": {"name": "my.py:"}}, r"'my.py:' is not an import path; write module:name"),
        ({"interaction": {"name": "a:B:c"}}, r"'a:B:c' is not an import path"),
        (
            {"aggregator": {"name": "a:B", "layers": 2}},
            r"head.aggregator.layers is 2, but aggregator 'a:B' has no such setting",
        ),
        ({"interaction": {"name": 3}}, r"head.interaction.name is 3: input should be a valid str"),
        ({"interaction": {"option": {}}}, r"unknown setting of head.interaction 'option'; did you"),
    ],
)
def test_faulty_names_of_parts(head: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(head=head)


def test_names_with_a_colon_are_import_paths() -> None:
    head = {
        "aggregator": {"name": "my_parts:MyAggregator", "options": {"width": 3}},
        "interaction": {"name": "my_pkg.heads:MyHead"},
        "pooling": None,
        "gap": None,
    }
    found = parse(head=head).head
    assert found.aggregator.options == {"width": 3}
    assert found.interaction.name == "my_pkg.heads:MyHead"
