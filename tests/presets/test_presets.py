from pathlib import Path
from typing import Any

import pytest
import yaml

from gare_cache.annotations.readers import READERS
from gare_cache.annotations.settings import DatasetSettings
from gare_cache.config import Params, parse_params
from gare_cache.encoders.loading import ModelSource, _quick_gelu
from gare_cache.encoders.open_clip_import import import_open_clip
from gare_cache.errors import ConfigError
from gare_cache.heads.settings import (
    GapSettings,
    PooledSettings,
    TextConditionedSettings,
    TransformerSettings,
)
from gare_cache.losses.settings import LossSettings
from gare_cache.presets import ENCODERS, PRESETS, STUDIES, project_files
from gare_cache.presets.data_sets import DATA_SETS
from gare_cache.studies.expansion import expand
from gare_cache.studies.study import read_study

REPOSITORY = Path(__file__).parents[2]


def params_of(preset: str, **options: Any) -> Params:
    values = yaml.safe_load(project_files(preset, **options)["params.yaml"])
    return parse_params(values, where=preset)


def test_the_pipeline_is_the_repositorys_without_its_code() -> None:
    own = yaml.safe_load(project_files("generic")["dvc.yaml"])
    repository = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())
    for stage in repository["stages"].values():
        stage["deps"] = [path for path in stage["deps"] if not path.startswith("gare_cache/")]
    assert own == repository


def test_the_demo_is_the_repositorys() -> None:
    own = yaml.safe_load(project_files("demo")["params.yaml"])
    assert own == yaml.safe_load((REPOSITORY / "params.yaml").read_text())


@pytest.mark.parametrize("preset", PRESETS)
def test_every_section_that_the_pipeline_names_is_there(preset: str) -> None:
    files = project_files(preset)
    values = yaml.safe_load(files["params.yaml"])
    for stage in yaml.safe_load(files["dvc.yaml"])["stages"].values():
        for key in stage["params"]:
            assert key.split(".")[0] in values
    assert all(f"/{name}/" in files[".gitignore"] for name in ("cache", "outputs", ".gare"))
    assert "dvc repro" in files["README.md"]


def test_msrvtt_1ka_is_what_gare_published() -> None:
    params = params_of("msrvtt-1ka")
    assert params.dataset == DatasetSettings(
        name="msrvtt-1ka",
        reader="msrvtt",
        annotations="data/msrvtt/annotations",
        video_roots=["data/msrvtt/videos"],
        protocol="1k-a-9k",
    )
    assert (params.extract.sampler, params.train.num_frames) == ("fps_then_uniform", 12)
    head = params.head
    assert head.projection == "none"
    assert head.aggregator == TransformerSettings(layers=4, heads=None, init="encoder")
    assert head.interaction == PooledSettings()
    assert head.pooling == TextConditionedSettings(temperature=3.0)
    assert head.gap == GapSettings(heads=1, dropout=0.3, init="normal")
    assert (head.gap.side, head.gap.context, head.gap.query) == ("text", "frames", "gap")
    assert (head.gap.eta, head.gap.layers) == (1, 1)
    train = params.train
    assert (train.optimizer, train.epochs, train.batch_size) == ("bert_adam", 5, 128)
    assert (train.learning_rate, train.logit_scale_learning_rate) == (1e-4, 1e-7)
    assert (train.weight_decay, train.weight_decay_on) == (0.2, "all_but_bias")
    assert (train.warmup, train.max_grad_norm) == (0.1, 1.0)
    assert train.loss == LossSettings()
    assert train.loss.contrastive.name == "info_nce"
    assert (train.loss.ib.weight, train.loss.ib.reduction) == (1e-4, "sum")
    assert (train.loss.orthogonality.weight, train.loss.trust_region.weight) == (0.0, 0.0)
    assert train.loss.eps.model_dump() == {"weight": 0.01, "bound": 0.5, "form": "clamp"}
    assert train.loss.dir.model_dump() == {"weight": 0.01, "alpha": 2.0}


@pytest.mark.parametrize("model", ENCODERS)
def test_encoders_get_the_activation_of_their_weights(model: str) -> None:
    encoder = params_of("msrvtt-1ka", encoder=model).encoder
    assert encoder is not None
    assert (encoder.model, encoder.pretrained) == (model, "openai")
    open_clip = import_open_clip()
    source = ModelSource(encoder.model, encoder.pretrained, encoder.quick_gelu)
    config = open_clip.get_model_config(model)
    assert not config.get("quick_gelu", False)  # the name alone would give the other one
    assert _quick_gelu(open_clip, source, config) is True


def test_presets_differ_in_the_data_set_alone() -> None:
    generic, msrvtt = (params_of(preset).model_dump() for preset in ("generic", "msrvtt-1ka"))
    assert {key for key in generic if generic[key] != msrvtt[key]} == {"dataset"}


@pytest.mark.parametrize(
    ("preset", "frames", "words", "batch", "grouped"),
    [
        ("msrvtt-1ka", 12, None, 128, False),
        ("didemo", 64, 64, 64, False),
        ("activitynet", 64, 64, 64, False),
        ("msvd", 12, 32, 128, True),
        ("lsmdc", 12, 32, 128, False),
        ("tgif", 12, 32, 128, True),
        ("youcook2", 12, 32, 128, False),
        ("vatex", 12, 32, 128, True),
    ],
)
def test_data_sets_have_their_published_values_on_one_base(
    preset: str, frames: int, words: int | None, batch: int, grouped: bool
) -> None:
    params = params_of(preset)
    dataset = params.dataset
    assert dataset.protocol in READERS[dataset.reader].protocols
    assert (params.train.num_frames, params.train.batch_size) == (frames, batch)
    assert params.extract.max_frames_cached >= frames
    assert params.encoder is not None
    assert params.encoder.context_length == words
    assert (params.evaluate.v2t_convention == "best_caption_group") == grouped
    values, base = params.model_dump(), params_of("msrvtt-1ka").model_dump()
    values["encoder"]["context_length"] = base["encoder"]["context_length"]
    for key in ("num_frames", "batch_size"):
        values["train"][key] = base["train"][key]
    values["evaluate"]["v2t_convention"] = base["evaluate"]["v2t_convention"]
    assert {key for key in base if values[key] != base[key]} <= {"dataset"}


def test_every_data_set_with_lists_of_its_own_has_a_preset() -> None:
    assert {found.reader for found in DATA_SETS.values()} == set(READERS) - {
        "generic",
        "folder",
        "moments",
    }


def test_faults() -> None:
    with pytest.raises(ConfigError, match=r"unknown preset 'msrvtt'; did you mean 'msrvtt-1ka'"):
        project_files("msrvtt")
    with pytest.raises(ConfigError, match=r"unknown encoder of a preset 'B/32'; known: ViT-B-16,"):
        project_files("generic", encoder="B/32")
    assert project_files("demo", encoder="demo") == project_files("demo")
    with pytest.raises(ConfigError, match=r"preset 'demo' comes with its own; leave it out"):
        project_files("demo", encoder="ViT-B-16")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_expands_on_every_preset(name: str, preset: str) -> None:
    study = read_study(REPOSITORY / "studies" / f"{name}.yaml")
    variants = expand(study, yaml.safe_load(project_files(preset)["params.yaml"]))
    assert len(variants) >= 3
    assert study.title
    assert study.question.endswith("?")
    assert len(study.seeds) >= 3


def test_all_studies_of_the_folder_are_presets() -> None:
    folder = REPOSITORY / "gare_cache/presets/studies"
    assert sorted(path.stem for path in folder.iterdir()) == sorted(STUDIES)
