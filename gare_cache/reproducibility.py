"""Seeds, threads and device of a run, and the provenance that is recorded with results."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import random
from typing import TYPE_CHECKING, Any

import numpy as np

from gare_cache.errors import ConfigError, EnvironmentFailure

if TYPE_CHECKING:
    import torch

_RECORDED_PACKAGES = ("gare-cache", "torch", "open_clip_torch", "numpy", "zarr", "av", "decord")


def make_deterministic(*, seed: int, threads: int) -> None:
    """Seed all generators and request deterministic kernels from torch.

    Equal seed, machine, versions and thread count give equal bytes.

    Args:
        seed: seed for Python, numpy and torch.
        threads: torch's intra-operator threads; 0 keeps torch's default.
    """
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    set_threads(threads)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - a custom head may draw from the global generator
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)


def set_threads(threads: int) -> None:
    """Set torch's intra-operator threads; 0 keeps torch's default."""
    import torch

    if threads > 0:
        torch.set_num_threads(threads)


def resolve_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` into a device, whose float32 is float32.

    Of themselves, cuDNN's convolutions would take TensorFloat-32, 10 bits of mantissa.

    Raises:
        ConfigError: the name has another form.
        EnvironmentFailure: the CUDA device does not exist.
    """
    import torch

    torch.backends.cudnn.allow_tf32 = False
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name != "cpu" and not (name == "cuda" or (name.startswith("cuda:") and name[5:].isdigit())):
        raise ConfigError(f"unknown device {name!r}; give auto, cpu, cuda or cuda:N")
    if name.startswith("cuda"):
        index = int(name[5:] or 0)
        if not torch.cuda.is_available() or index >= torch.cuda.device_count():
            raise EnvironmentFailure(
                f"device {name!r} is not on this machine "
                f"({torch.cuda.device_count()} CUDA devices seen); use --device cpu"
            )
    return torch.device(name)


def provenance() -> dict[str, Any]:
    """Return package versions, Python, platform, processor and threads of this process."""
    import torch

    versions: dict[str, str | None] = {}
    for package in _RECORDED_PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor_name(),
        "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch_threads": torch.get_num_threads(),
    }


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
