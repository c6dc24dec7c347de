"""Every setting that claims an effect is changed once, and something else comes out."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from gare_cache.files import read_json
from gare_cache.stages.evaluate import evaluate
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.stages.report import report
from gare_cache.stages.train import train
from tests.tiny import change_params, make_project, workspace, write_video

# Dotted key -> another value; the rest of the settings stay as in ``make_project``.
CHANGES: dict[str, dict[str, Any]] = {
    "extract": {
        "encoder.precision": "bf16",
        "encoder.context_length": 6,
        "encoder.preprocess": "device",
        "extract.sampler": "fps_then_uniform",
        "extract.max_frames_cached": 5,
        "extract.patch_tokens": True,
        "extract.word_tokens": True,
        "extract.views": {"count": 1},
        "extract.batch_frames": 5,
        "extract.batch_captions": 3,
    },
    "train": {
        "head.projection": "linear",
        "head.aggregator.name": "mean",
        "head.aggregator.layers": 2,
        "head.aggregator.heads": 2,
        "head.aggregator.init": "random",
        "head.interaction.name": "token_wise",
        "head.interaction.init": "torch",
        "head.pooling.name": "mean",
        "head.pooling.frame_norm": True,
        "head.pooling.temperature": 1.0,
        "head.pooling.heads": 2,
        "head.pooling.dropout": 0.0,
        "head.gap.side": "video",
        "head.gap.context": "words",
        "head.gap.query": "text",
        "head.gap.eta": -1,
        "head.gap.layers": 2,
        "head.gap.heads": 2,
        "head.gap.dropout": 0.0,
        "head.gap.init": "identity",
        "head.reference_padding": True,
        "train.seed": 1,
        "train.num_frames": 3,
        "train.epochs": 2,
        "train.batch_size": 5,
        "train.optimizer": "adamw",
        "train.learning_rate": 0.002,
        "train.logit_scale_learning_rate": 0.01,
        "train.weight_decay": 0.0,
        "train.weight_decay_on": "all_but_bias",
        "train.warmup": 0.5,
        "train.max_grad_norm": 0.01,
        "train.loss.contrastive.name": "ncl",
        "train.loss.contrastive.iterations": 0,
        "train.loss.contrastive.detach_biases": True,
        "train.loss.false_negatives": "mask",
        "train.loss.ib.weight": 0.01,
        "train.loss.ib.reduction": "mean",
        "train.loss.ib.anchor": "text",
        "train.loss.ib.prior_sigma": 10.0,
        "train.loss.ib.normalise": True,
        "train.loss.eps.weight": 0.0,
        "train.loss.eps.bound": 0.000001,
        "train.loss.eps.form": "smooth",
        "train.loss.dir.weight": 0.0,
        "train.loss.dir.alpha": 1.0,
        "train.loss.orthogonality.weight": 0.1,
        "train.loss.trust_region.weight": 0.1,
        "train.loss.trust_region.radius": 0.5,
        "train.loss.trust_region.learned": True,
    },
    "evaluate": {
        "evaluate.split": "val",
        "evaluate.captions": "first",
        "evaluate.v2t_convention": "best_caption_group",
        "evaluate.missing": "count_as_miss",
        "evaluate.frame_norm": True,
        "evaluate.resamples": 2,
    },
    "normalisers": {
        "evaluate.normalisers": [{"name": "nnn", "alpha": 0.5}],
        "evaluate.bank.size": 5,
        "evaluate.bank.seed": 1,
    },
    "report": {"report.examples": 1},
}
# Dotted key -> what it needs to have an effect, set before and after its change.
NEEDS: dict[str, dict[str, Any]] = {
    "train.loss.contrastive.iterations": {"train.loss.contrastive.name": "ncl"},
    "train.loss.contrastive.detach_biases": {"train.loss.contrastive.name": "ncl"},
    "train.loss.trust_region.radius": {"train.loss.trust_region.weight": 0.1},
    "train.loss.trust_region.learned": {"train.loss.trust_region.weight": 0.1},
    "head.interaction.name": {"extract.word_tokens": True},
    "head.pooling.frame_norm": {"head.pooling.name": "mean"},
    "head.interaction.init": {
        "extract.word_tokens": True,
        "head.interaction.name": "token_wise",
        "head.pooling": None,
        "head.gap": None,
        "train.loss.ib.weight": 0.0,
        "train.loss.eps.weight": 0.0,
        "train.loss.dir.weight": 0.0,
    },
    "head.gap.context": {"extract.word_tokens": True},
    "head.pooling.heads": {"head.pooling.name": "cross_attention"},
    "head.pooling.dropout": {"head.pooling.name": "cross_attention"},
}
# What the settings of the normalisers are changed from.
NORMALISED = {"evaluate.normalisers": [{"name": "nnn"}], "evaluate.bank.size": 4}
# What else a change needs in order to be allowed.
ALONG: dict[str, dict[str, Any]] = {
    "head.aggregator.name": {"head.aggregator.layers": None},
    "head.interaction.name": {
        "head.pooling": None,
        "head.gap": None,
        "train.loss.ib.weight": 0.0,
        "train.loss.eps.weight": 0.0,
        "train.loss.dir.weight": 0.0,
    },
}
# Checked elsewhere: what is read, where from, and how failures are met.
ELSEWHERE = {
    "dataset.name",
    "dataset.reader",
    "dataset.annotations",
    "dataset.video_roots",
    "dataset.protocol",
    "dataset.captions",
    "dataset.val_fraction",
    "dataset.test_fraction",
    "encoder.model",
    "encoder.pretrained",
    "encoder.quick_gelu",
    "encoder.trust_checkpoint",
    "head.aggregator.options",  # of parts of one's own: test_own_parts.py
    "head.interaction.options",
    "train.loss.contrastive.options",
    "extract.deadline_seconds",
    "extract.max_frame_pixels",  # and worker_memory_gib: extraction/test_limits.py
    "extract.worker_memory_gib",
    "extract.max_failed_percent",
    "train.threads",
    "train.frame_choice",  # test_views_and_frames.py
    "train.views",
    *(
        f"finetune.{name}"  # tests/finetuning, stages/test_finetune.py
        for name in (
            *("encoder", "last_blocks", "lora", "from_run", "frames", "epochs", "batch_size"),
            *("learning_rate", "encoder_lr_scale", "precision", "chunk", "checkpointing"),
            *("augment.smallest_crop", "augment.flip", "augment.operations", "augment.magnitude"),
        )
    ),
    "train.precision",  # training/test_speed.py
    "train.compile",
    "train.logger",  # training/test_loggers.py
    "train.reference_gather",  # needs several processes: training/test_distributed.py
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path) -> Path:
    folder = make_project(tmp_path_factory.mktemp("settings") / "project", tiny_encoder_dir)
    change_params(folder, train__loss__ib__weight=0.001)
    # Videos of fewer frames than the others, so that padding plays a part.
    for name in ("train/train1", "train/train5", "val/val1"):
        write_video(folder / "videos" / f"{name}.mp4", seed=70, num_frames=2)
    # A query without features.
    (folder / "videos/test/test2.mp4").unlink()
    space = workspace(folder)
    for stage in (prepare, extract, train, evaluate, report):
        stage(space)
    return folder


@pytest.mark.parametrize("key", CHANGES["extract"])
def test_extraction(finished: Path, key: str) -> None:
    assert _features(finished, {key: CHANGES["extract"][key]}) != _features(finished, {})


@pytest.mark.parametrize("key", CHANGES["train"])
def test_training(finished: Path, key: str) -> None:
    needed = NEEDS.get(key, {})
    change = {key: CHANGES["train"][key], **ALONG.get(key, {})}
    before, after = (_weights(finished, changes) for changes in (needed, {**needed, **change}))
    same = before.keys() == after.keys() and all(
        before[name].shape == after[name].shape and torch.equal(before[name], after[name])
        for name in before
    )
    assert not same


def test_evaluation_and_report(finished: Path) -> None:
    _weights(finished, {})
    analysis = workspace(finished).evaluation / "analysis.json"
    before = evaluate(workspace(finished))["methods"], read_json(analysis)["modality_gap"]
    for key, value in CHANGES["evaluate"].items():
        after = evaluate(_changed(finished, {key: value}))["methods"]
        assert (after, read_json(analysis)["modality_gap"]) != before, key
    evaluate(workspace(finished))
    report(workspace(finished))
    page = workspace(finished).report / "report.md"
    one = page.read_text()
    report(_changed(finished, CHANGES["report"]))
    assert page.read_text() != one


def test_normalisers(finished: Path) -> None:
    _weights(finished, {})
    before = evaluate(_changed(finished, NORMALISED))
    assert before["methods"] == evaluate(workspace(finished))["methods"]
    for key, value in CHANGES["normalisers"].items():
        after = evaluate(_changed(finished, {**NORMALISED, key: value}))
        assert after["normalisers"]["rows"][1] != before["normalisers"]["rows"][1], key


def test_every_key_is_on_a_list() -> None:
    params = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    listed = ELSEWHERE.union(*(set(changes) for changes in CHANGES.values()))
    assert set(_keys(params)) == listed


def _keys(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _changed(project: Path, changes: dict[str, Any]) -> Any:
    original = (project / "params.yaml").read_text()
    try:
        change_params(project, **{key.replace(".", "__"): v for key, v in changes.items()})
        return workspace(project)
    finally:
        (project / "params.yaml").write_text(original)


def _features(project: Path, changes: dict[str, Any]) -> tuple[str, str]:
    extract(_changed(project, changes))
    features = json.loads((project / "outputs/features.json").read_text())
    return features["folder"], features["content_digest"]


def _weights(project: Path, changes: dict[str, Any]) -> dict[str, torch.Tensor]:
    _features(project, {key: v for key, v in changes.items() if key.startswith("extract.")})
    train(_changed(project, changes))
    return load_file(project / "outputs/run/head.safetensors")
