from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from gare_cache import own
from tests.tiny import make_project, make_tiny_encoder

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_configure(config: pytest.Config) -> None:
    """Set how many examples Hypothesis tries: the same ones in every run."""
    options: dict[str, Any] = {
        "deadline": None,
        "derandomize": True,
        # Each example writes its file anew, so all may use the folder of one test.
        "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    }
    settings.register_profile("short", max_examples=60, **options)
    settings.register_profile("long", max_examples=3000, **options)
    settings.load_profile("long" if config.getoption("--slow") else "short")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)  # the tensors of the tests are too small to share


@pytest.fixture(autouse=True)
def _keep_tests_imported() -> Iterator[None]:
    """Forget that a test took a module of the tests for a user's own part of a project.

    Otherwise the next project would import all of ``tests`` anew, and functions that worker
    processes are given would no longer be those that their module holds.
    """
    yield
    own._imported.pop("tests", None)


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """Reference values of the GARE computation, beside the repository."""
    if not (SHARED / "fixtures").is_dir():
        pytest.skip("../shared/fixtures is not on this machine")
    return SHARED / "fixtures"


@pytest.fixture(scope="session")
def shared_data_dir() -> Path:
    """Real videos, annotations and features, beside the repository."""
    if not (SHARED / "data").is_dir():
        pytest.skip("../shared/data is not on this machine")
    return SHARED / "data"


@pytest.fixture(scope="session")
def tiny_encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with random weights, 32 x 32 px, width 64, loadable as local-dir."""
    return make_tiny_encoder(tmp_path_factory.mktemp("encoder"), seed=0)


@pytest.fixture
def project(tmp_path: Path, tiny_encoder_dir: Path) -> Path:
    """A project folder with 14 real videos, annotations and params.yaml."""
    return make_project(tmp_path / "project", tiny_encoder_dir)
