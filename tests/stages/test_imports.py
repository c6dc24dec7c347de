"""Stages that only read settings, annotations or a cache's records start without torch."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("stage", "heavy"),
    [
        ("prepare", {"torch", "zarr", "h5py", "open_clip", "matplotlib"}),
        ("init", {"torch", "zarr", "h5py", "open_clip", "matplotlib"}),
        ("info", {"torch", "h5py", "open_clip", "matplotlib"}),
        ("compare", {"torch", "zarr", "h5py", "open_clip", "matplotlib"}),
    ],
)
def test_what_a_stage_does_not_import(stage: str, heavy: set[str]) -> None:
    program = f"import sys, gare_cache.stages.{stage}; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not heavy & set(finished.stdout.split())
