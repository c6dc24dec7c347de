"""More than one frame vector: views, tokens, and frames chosen in training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gare_cache.cache.loading import load_cache
from gare_cache.cache.reader import open_cache
from gare_cache.cache.verify import verify_cache
from gare_cache.encoders.encoder import load_encoder
from gare_cache.encoders.loading import ModelSource
from gare_cache.encoders.settings import ViewSettings
from gare_cache.errors import ConfigError
from gare_cache.extraction.estimate import dry_run
from gare_cache.stages.canary import canary
from gare_cache.stages.evaluate import evaluate
from gare_cache.stages.extract import extract
from gare_cache.stages.info import describe
from gare_cache.stages.prepare import prepare
from gare_cache.stages.report import report
from gare_cache.stages.train import train
from gare_cache.stages.verify import reextract
from gare_cache.video.decoding import decode_clip
from tests.tiny import change_params, make_tiny_encoder, params, workspace, write_video

VIEWS: dict[str, Any] = {"count": 2, "operations": 0}


@pytest.fixture
def rich(project: Path) -> Path:
    """A project whose cache holds everything that can be kept."""
    write_video(project / "videos/train/train1.mp4", seed=70, num_frames=2)
    change_params(
        project, extract__views=VIEWS, extract__patch_tokens=True, extract__word_tokens=True
    )
    prepare(workspace(project))
    extract(workspace(project))
    return project


def folder(project: Path) -> Path:
    (found,) = (project / "cache").iterdir()
    return found


def test_tokens_are_the_models_own_and_hold_the_pooled_features(rich: Path) -> None:
    cache = load_cache(folder(rich))
    encoder = load_encoder(ModelSource(params(rich).encoder.model))
    clip = decode_clip(rich / "videos/val/val0.mp4", sampler="segment_centre", max_frames=4)
    tokens = encoder.encode_frame_tokens(encoder.preprocess(clip.frames)).numpy()
    assert cache.patches("val0").shape == (4, 4, 64)
    np.testing.assert_allclose(cache.patches("val0"), tokens[:, 1:], atol=2e-3, rtol=2e-3)
    np.testing.assert_allclose(cache.video("val0"), tokens[:, 0], atol=2e-3, rtol=2e-3)
    split = cache.split("test")
    for id_, caption, feature in zip(split.caption_ids, split.captions, split.text, strict=True):
        ids = encoder.tokenize([caption])
        length = int(ids.argmax()) + 1
        words = cache.words(id_)
        assert words.shape == (length, 64)
        expected = encoder.encode_words(ids)[0, :length].numpy()
        np.testing.assert_allclose(words, expected, atol=2e-3, rtol=2e-3)
        np.testing.assert_array_equal(words[-1], feature)


def test_views_are_other_features_of_the_same_frames(rich: Path) -> None:
    cache = load_cache(folder(rich))
    for video, length in (("train0", 4), ("train1", 2)):
        views = cache.views(video)
        assert views.shape == (2, length, 64)
        assert np.isfinite(views).all()
        assert not np.array_equal(views[0], views[1])
        assert not np.array_equal(views[0], cache.video(video))


def test_everything_is_verified_counted_and_encoded_again_alike(rich: Path) -> None:
    found = verify_cache(folder(rich))
    assert found.faults == []
    assert {"video/frames", "video/views", "video/patches", "text/features"} == found.norms.keys()
    lines = list(reextract(workspace(rich), count=3))
    assert lines[-2].startswith("video: 3 of 3 items")
    described = dict(describe(workspace(rich)))
    assert described["array video/views"].endswith("14 x 2 x 4 x 64 <f2")
    assert described["array text/tokens"].endswith("tokens of 28 captions x 64 <f2")


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"smallest_crop": 0.9}, {"flip": False}, {"operations": 1}]
)
def test_every_setting_of_the_views_changes_them(rich: Path, change: dict[str, Any]) -> None:
    first = open_cache(folder(rich))
    change_params(rich, extract__views={**VIEWS, **change})
    extract(workspace(rich))
    (other,) = set((rich / "cache").iterdir()) - {first.folder}
    ids = ["train0", "test1"]
    second = open_cache(other)
    assert not np.array_equal(first.views(ids), second.views(ids))
    np.testing.assert_array_equal(first.videos(ids).frames, second.videos(ids).frames)


@pytest.mark.slow
def test_the_magnitude_of_the_operations_changes_the_views(rich: Path) -> None:
    found = []
    for magnitude in (1, 30):
        before = set((rich / "cache").iterdir())
        change_params(rich, extract__views={"count": 2, "operations": 2, "magnitude": magnitude})
        extract(workspace(rich))
        (made,) = set((rich / "cache").iterdir()) - before
        found.append(open_cache(made).views(["train0", "test1"]))
    assert not np.array_equal(*found)


def test_training_on_views_and_on_jittered_frames_differs_from_training_without(
    rich: Path,
) -> None:
    change_params(rich, train__num_frames=2)
    heads = [weights(rich)]
    for change in ({"train__frame_choice": "jittered"}, {"train__views": True}):
        change_params(rich, **change)
        heads.append(weights(rich))
    for i, one in enumerate(heads):
        for other in heads[i + 1 :]:
            assert not all(torch.equal(one[name], other[name]) for name in one)


def test_frames_chosen_in_training_are_those_of_a_smaller_extraction(project: Path) -> None:
    """On videos of up to 64 s, a frame a second: an ablation of the frames needs no extraction."""
    for number, path in enumerate(sorted((project / "videos").rglob("*.mp4"))):
        write_video(path, seed=number, num_frames=3 + 2 * number, fps=1)
    change_params(project, extract__sampler="fps_then_uniform", train__num_frames=3)
    prepare(workspace(project))
    found = []
    for cached in (64, 3):
        change_params(project, extract__max_frames_cached=cached)
        extract(workspace(project))
        found.append(weights(project))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_every_stage_takes_fewer_frames_than_are_cached(rich: Path) -> None:
    change_params(rich, train__num_frames=2, train__frame_choice="jittered")
    space = workspace(rich)
    for stage in (train, evaluate, report):
        stage(space)
    assert list(canary(space, galleries=2))
    page = (space.report / "report.md").read_text()
    assert "up to 2 of up to 4 cached, segment_centre; trained on jittered" in page


@pytest.mark.slow
def test_a_dry_run_counts_everything_that_is_kept(project: Path) -> None:
    prepare(workspace(project))
    sizes = []
    for change in (
        {"extract__word_tokens": True},
        {"extract__patch_tokens": True},
        {"extract__views": {"count": 3, "operations": 0}},
    ):
        change_params(project, **change)
        (line,) = (line for line in dry_run(workspace(project)) if "to be written" in line)
        sizes.append(float(line.split()[3].replace(",", "")))
    assert sizes[0] < sizes[1] < sizes[2]


def test_views_have_no_other_settings() -> None:
    assert set(ViewSettings.model_fields) == {
        *("count", "seed", "smallest_crop", "flip", "operations", "magnitude")
    }


def test_an_encoder_without_such_tokens_is_refused_by_name(project: Path, tmp_path: Path) -> None:
    vision = {"image_size": 32, "layers": 1, "width": 64, "head_width": 64, "patch_size": 16}
    text = {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 4}
    config = {
        "embed_dim": 64,
        "quick_gelu": True,
        "vision_cfg": {**vision, "pool_type": "avg"},
        "text_cfg": {**text, "pool_type": "last", "no_causal_mask": True},
        "custom_text": True,
    }
    other = make_tiny_encoder(tmp_path / "averages", seed=5, config=config)
    prepare(workspace(project))
    change_params(project, encoder__model=f"local-dir:{other}", extract__patch_tokens=True)
    with pytest.raises(ConfigError, match="averages' offers no patch tokens"):
        extract(workspace(project))
    change_params(project, extract__patch_tokens=False, extract__word_tokens=True)
    with pytest.raises(ConfigError, match="averages' offers no word tokens"):
        extract(workspace(project))
    assert not (project / "cache").exists()


def weights(project: Path) -> dict[str, torch.Tensor]:
    train(workspace(project))
    return load_file(workspace(project).run / "head.safetensors")
