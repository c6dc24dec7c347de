import csv
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from starlette.testclient import TestClient

from gare_cache.serving.app import Serving, make_app
from gare_cache.serving.runs import open_runs
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.stages.train import train
from tests.tiny import change_params, make_project, workspace

INJECTED = '<img src=x onerror="document.title=\'broken in\'"> "quoted" & <script>alert(1)</script>'
INJECTED_NAME = "=<img src=x onerror=alert(1)>"
ADDRESS = "http://127.0.0.1:8765"


def write_moving_video(path: Path, *, seconds: float = 4.0, fps: int = 10) -> None:
    """A file that browsers play: H.264, a block that moves."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(int(seconds * fps)):
            frame = np.full((64, 96, 3), 40, np.uint8)
            frame[20:40, 2 * number : 2 * number + 16] = (220, 40, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="session")
def served_project(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path) -> Path:
    """14 videos: one that browsers play, one twice, one broken, one with hostile words."""
    folder = make_project(tmp_path_factory.mktemp("serving") / "project", tiny_encoder_dir)
    change_params(folder, extract__max_failed_percent=50.0, train__epochs=1)
    videos = folder / "videos"
    write_moving_video(videos / "test/test0.mp4")
    shutil.copy(videos / "train/train0.mp4", videos / "train/train1.mp4")
    (videos / "val/val2.mp4").write_bytes(b"no video")
    (videos / "test/test1.mp4").rename(videos / f"test/{INJECTED_NAME}.mp4")
    rows = list(csv.reader((folder / "captions.csv").open(newline="")))
    rows = [[INJECTED_NAME, INJECTED, row[2]] if row[0] == "test1" else row for row in rows]
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    for stage in (prepare, extract, train):
        stage(workspace(folder))
    return folder


@pytest.fixture
def own_project(served_project: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(served_project, tmp_path / "project")


@contextmanager
def client_of(project: Path, *, compare: bool = False, **serving: Any) -> Iterator[TestClient]:
    space = workspace(project)
    runs = open_runs(space, "zero-shot" if compare else None, device="cpu")
    app = make_app("tiny", runs, Serving(**{"rate": 0.0, **serving}))
    with TestClient(app, base_url=ADDRESS, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def client(served_project: Path) -> Iterator[TestClient]:
    with client_of(served_project, compare=True) as opened:
        yield opened
