import pytest

from gare_cache.cache import schema


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of 4 videos and 8 captions."""
    monkeypatch.setattr(schema, "_MOST_ROWS", {"video": 4, "text": 8})
