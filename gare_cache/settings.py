"""Base and ranges of all typed settings; each room owns its own (``heads/settings.py`` ...)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
)

from gare_cache.errors import unknown_name
from gare_cache.own import is_own, split_own

Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Options = dict[str, Any]


class Settings(BaseModel):
    """Base of all settings: immutable, no unknown keys, no silent conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def check_named_settings(
    place: str, settings: Settings, known: Mapping[str, Sequence[str]]
) -> None:
    """Check the settings of a part that is chosen by name.

    Args:
        place: dotted key of the part, for the messages: ``"head.aggregator"``.
        settings: ``name`` and what stands beside it.
        known: built-in names -> the settings that each has. A name with a colon is the import path
            of a class of the user's own, which takes ``options``.

    Raises:
        ConfigError: the name is a malformed import path.
        ValueError: the name is unknown, or a setting belongs to another name.
    """
    values = settings.model_dump(exclude_none=True)
    name = values.pop("name")
    if is_own(name):
        split_own(name)
    elif name not in known:
        message = unknown_name(f"{place}.name", name, known)
        raise ValueError(f"{message} (one of your own has an import path, such as my_file:MyClass)")
    for setting, value in values.items():
        if setting not in known.get(name, ("options",)):
            raise ValueError(
                f"{place}.{setting} is {value!r}, but {place.split('.')[-1]} {name!r} has no such "
                f"setting; set {place}.{setting}: null"
            )
