from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gare_cache.encoders.encoder import load_encoder
from gare_cache.encoders.images import resized_by_float, to_images
from gare_cache.encoders.loading import ModelSource
from gare_cache.encoders.open_clip_import import import_open_clip
from gare_cache.encoders.preprocessing import Preprocessing, preprocessing_of
from gare_cache.errors import ConfigError

SHAPES = [(40, 60), (60, 41), (32, 32), (31, 7), (200, 333), (1, 1), (17, 90)]
CONFIGS: dict[str, dict[str, Any]] = {
    "clip": {"size": 32},
    "bilinear": {"size": 32, "interpolation": "bilinear"},
    "squash": {"size": (32, 32), "resize_mode": "squash", "interpolation": "bilinear"},
    "squash, not square": {"size": (24, 32), "resize_mode": "squash"},
    "not square": {"size": (24, 32), "interpolation": "bilinear"},
    "longest": {"size": 32, "resize_mode": "longest", "fill_color": 127},
    "longest, not square": {"size": (24, 33), "resize_mode": "longest"},
    "constants": {"size": 32, "mean": (0.5, 0.4, 0.3), "std": (0.25, 0.3, 0.35)},
}


def config(**values: Any) -> Any:
    return import_open_clip().transform.PreprocessCfg(**values)


def picture(height: int, width: int, *, smooth: bool) -> np.ndarray:
    """Return (1, height, width, 3): noise, or noise as smooth as a photograph."""
    generator = np.random.default_rng(height * 1000 + width)
    if not smooth:
        return generator.integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    coarse = generator.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    return np.array([Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)])


def preprocess(frames: np.ndarray, preprocessing: Preprocessing) -> torch.Tensor:
    return to_images(torch.from_numpy(preprocessing.shrink(frames)), preprocessing)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_exact_is_the_transform_of_open_clip_to_the_bit(name: str, shape: tuple[int, int]) -> None:
    open_clip = import_open_clip()
    wanted = config(**CONFIGS[name])
    transform = open_clip.transform.image_transform_v2(wanted, is_train=False)
    frames = picture(*shape, smooth=False)
    found = preprocess(frames, preprocessing_of(wanted, "exact"))
    expected = transform(Image.fromarray(frames[0]))[None]
    assert found.shape == expected.shape
    assert torch.equal(found, expected)


def test_every_grey_level_is_normalised_to_the_bit() -> None:
    wanted = config(size=16)
    grey = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    transform = import_open_clip().transform.image_transform_v2(wanted, is_train=False)
    found = preprocess(grey, preprocessing_of(wanted, "exact"))
    assert torch.equal(found[0], transform(Image.fromarray(grey[0])))


def differences(frames: np.ndarray, wanted: Any) -> torch.Tensor:
    """Return in grey levels how far device is from exact."""
    exact, device = (preprocessing_of(wanted, kind) for kind in ("exact", "device"))
    assert device.shrink(frames) is frames
    std = torch.tensor(wanted.std)[:, None, None]
    return (preprocess(frames, exact) - preprocess(frames, device)).abs() * std * 255


@pytest.mark.parametrize("name", [name for name in CONFIGS if "squash" not in name])
@pytest.mark.parametrize("shape", SHAPES)
def test_device_is_within_two_grey_levels_of_exact(name: str, shape: tuple[int, int]) -> None:
    assert differences(picture(*shape, smooth=False), config(**CONFIGS[name])).max() <= 2.01


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("shape", [(480, 640), (320, 240), (90, 400)])
def test_device_is_within_two_grey_levels_of_exact_on_pictures(
    name: str, shape: tuple[int, int]
) -> None:
    """With squash on pictures alone: which pass comes first matters to noise of full contrast."""
    assert differences(picture(*shape, smooth=True), config(**CONFIGS[name])).max() <= 2.01


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("target", [(24, 32), (80, 120), (32, 48)])
def test_resizing_by_float_is_within_two_grey_levels_of_uint8(
    mode: str, target: tuple[int, int]
) -> None:
    images = torch.from_numpy(picture(40, 60, smooth=False)).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(images, target, mode=mode, antialias=True)
    found = resized_by_float(images, height=target[0], width=target[1], mode=mode)
    assert (found - expected.float()).abs().max() <= 2
    assert torch.equal(found, found.byte().float())


def test_the_kind_is_part_of_the_identity_and_changes_pixels(tiny_encoder_dir: Path) -> None:
    source = ModelSource(f"local-dir:{tiny_encoder_dir}")
    exact, device = (load_encoder(source, preprocess=kind) for kind in ("exact", "device"))
    assert exact.identity["preprocess"]["kind"] == "exact"
    assert device.identity["preprocess"]["kind"] == "device"
    assert exact.encoder_id != device.encoder_id
    frames = picture(90, 130, smooth=False)
    assert not torch.equal(exact.preprocess(frames), device.preprocess(frames))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown preprocessing 'exakt'; did you mean 'exact'"):
        preprocessing_of(config(), "exakt")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["exact", "device"])
def test_on_a_gpu_the_images_are_those_of_the_cpu(kind: str) -> None:
    preprocessing = preprocessing_of(config(size=32), kind)
    pixels = torch.from_numpy(preprocessing.shrink(picture(90, 130, smooth=True)))
    on_cpu = to_images(pixels, preprocessing)
    on_gpu = to_images(pixels.cuda(), preprocessing).cpu()
    std = torch.tensor(preprocessing.std)[:, None, None]
    assert ((on_cpu - on_gpu).abs() * std * 255).max() <= (0 if kind == "exact" else 1.01)
