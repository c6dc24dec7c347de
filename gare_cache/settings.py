"""The form of all settings: typed, frozen, with the only default and the only range check of each.

Every room owns the classes of its own settings (``heads/settings.py``, ``losses/settings.py`` ...);
``config.py`` composes them to params.yaml.
"""

from __future__ import annotations

import functools
import json
import math
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from gare_cache.errors import ConfigError, unknown_name
from gare_cache.own import is_own, split_own

Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Options = dict[str, Any]
Side = Literal["text", "video"]  # of a pair

_S = TypeVar("_S", bound="Settings")
_EXPONENT_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][+-]?[0-9]+")


class Settings(BaseModel):
    """Base of all settings: immutable, no unknown keys, no silent conversion.

    One conversion is made: YAML 1.1 reads ``1e-05``, which programs write for 0.00001, as text. A
    text that is a number with an exponent is that number where a number is wanted, and only there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _read_numbers(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        kinds = {name: _kinds(field.annotation) for name, field in cls.model_fields.items()}
        return {
            name: _number(value, kinds[name]) if isinstance(value, str) and name in kinds else value
            for name, value in values.items()
        }


class NamedSettings(Settings):
    """Settings of a part that is chosen by name; each name has a class of its own.

    A subclass narrows ``name`` to its own, ``name: Literal["lstm"] = "lstm"``, and adds its
    settings.
    """

    name: str


class CustomSettings(NamedSettings):
    """Settings of a part of the user's own: its import path, and what it is built with."""

    options: Options = {}

    @model_validator(mode="after")
    def _options_can_be_kept(self) -> CustomSettings:
        try:
            json.dumps(self.options, allow_nan=False)
        except (TypeError, ValueError) as err:
            raise ValueError(
                f"the options of {self.name!r} are {self.options!r}, which no run record can keep "
                f"({err}); give numbers, texts, lists and mappings of these"
            ) from err
        return self


@dataclass(frozen=True, eq=False)
class ByName:
    """Annotation of a field that holds the settings of a part chosen by name.

    ``Annotated[NamedSettings, ByName("head.aggregator", AGGREGATORS, default="transformer")]``
    takes ``{"name": "lstm"}``, or an instance of one of the classes. A setting that is null has its
    default, so that a file can list the settings of all names.

    Attributes:
        place: dotted key of the field, for messages.
        known: name -> class of its settings.
        default: the name where none is given.
        custom: whether an import path of the user's own may stand for a name.
    """

    place: str
    known: Mapping[str, type[NamedSettings]]
    default: str
    custom: bool = True

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Build the schema: a union whose member the name alone decides, so one fault a mistake."""
        members: list[Any] = [Annotated[c, Tag(_tag(c.__name__))] for c in self.classes]
        union: Any = functools.reduce(operator.or_, members)
        tagged: Any = Annotated[union, Discriminator(self._member)]
        return core_schema.no_info_before_validator_function(
            self._prepare, handler.generate_schema(tagged)
        )

    @property
    def classes(self) -> Sequence[type[NamedSettings]]:
        """All classes whose instances the field may hold."""
        return [*self.known.values(), *([CustomSettings] if self.custom else [])]

    def _member(self, values: Any) -> str:
        if isinstance(values, NamedSettings):
            return _tag(type(values).__name__)
        return _tag(self.known.get(values["name"], CustomSettings).__name__)

    def _prepare(self, values: Any) -> Any:
        """Leave out what is null, and refuse an unknown name or a setting of another name."""
        if isinstance(values, NamedSettings):
            return values
        if not isinstance(values, Mapping):
            raise ValueError(
                f"{self.place} is {values!r}; it must be a mapping with a name, such as "
                f"{self.place}: {{name: {self.default}}}"
            )
        given = {key: value for key, value in values.items() if value is not None}
        name = given.setdefault("name", self.default)
        self._check_name(name)
        settings = self.known.get(name, CustomSettings).model_fields
        for key, value in given.items():
            if key not in settings:
                raise ValueError(self._misplaced(name, str(key), value))
        return given

    def _check_name(self, name: Any) -> None:
        if not isinstance(name, str):
            raise ValueError(f"{self.place}.name is {name!r}: input should be a valid string")
        if self.custom and is_own(name):
            split_own(name)
        elif name not in self.known:
            hint = " (one of your own has an import path, such as my_file:MyClass)"
            message = unknown_name(f"{self.place}.name", name, self.known)
            raise ValueError(f"{message}{hint if self.custom else ''}")

    def _misplaced(self, name: str, key: str, value: Any) -> str:
        part = self.place.rpartition(".")[2]
        known = {setting for member in self.classes for setting in member.model_fields}
        into_options = (
            f"what a part of your own needs goes into its options, such as options: "
            f"{{{key}: {value!r}}}"
        )
        if key not in known:
            message = unknown_name(f"setting of {self.place}", key, known)
            return f"{message}; {into_options}" if is_own(name) else message
        message = (
            f"{self.place}.{key} is {value!r}, but {part} {name!r} has no such setting; set "
            f"{self.place}.{key}: null"
        )
        return f"{message} ({into_options})" if is_own(name) else message


def arguments(settings: Settings, *, without: Iterable[str] = ()) -> dict[str, Any]:
    """Return the settings by name, as keyword arguments of what they are settings of."""
    left_out = {"name", *without}
    names = [name for name in type(settings).model_fields if name not in left_out]
    return {name: getattr(settings, name) for name in names}


def parse_settings(
    cls: type[_S], values: Mapping[str, Any], *, where: str = "", section: str = ""
) -> _S:
    """Check settings given as plain values.

    Args:
        cls: the class of the settings.
        values: by name.
        where: what holds them, to begin the message with: ``"params.yaml"``.
        section: dotted key under which they stand, for the places in the message: ``"head"``.

    Raises:
        ConfigError: a setting is unknown, missing, of a wrong type or out of range; every fault is
            named with its place.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as err:
        faults = "; ".join(_fault(cls, section, fault) for fault in err.errors())
        raise ConfigError(f"{where}: {faults}" if where else faults) from err


def nested_settings(annotation: Any, metadata: Sequence[Any] = ()) -> Iterator[type[Settings]]:
    """Yield the classes of settings that may stand in a field.

    Args:
        annotation: of the field.
        metadata: of the field, what pydantic keeps of an ``Annotated`` there.
    """
    by_name = [item for item in metadata if isinstance(item, ByName)]
    if by_name:
        yield from by_name[0].classes
    elif get_origin(annotation) is Annotated:
        inner, *rest = get_args(annotation)
        yield from nested_settings(inner, rest)
    elif get_origin(annotation) in (Union, UnionType):
        for option in get_args(annotation):
            yield from nested_settings(option)
    elif isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation


def _kinds(annotation: Any) -> set[Any]:
    """Return the types that a field takes, without what they are annotated with."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return set().union(*map(_kinds, get_args(annotation)))
    return {annotation}


def _number(text: str, kinds: set[Any]) -> Any:
    """Return the number that a text is, or the text if it is none or no number is wanted."""
    if str in kinds or not kinds & {int, float} or not _EXPONENT_NUMBER.fullmatch(text):
        return text
    number = float(text)
    if not math.isfinite(number):
        return text
    return number if float in kinds or not number.is_integer() else int(number)


def _tag(name: str) -> str:
    """Return the tag of a union's member; no key looks like it, so that places can leave it out."""
    return f"<{name}>"


def _fault(cls: type[Settings], section: str, fault: Any) -> str:
    keys = [str(key) for key in fault["loc"]]
    keys = [key for key in keys if not (key.startswith("<") and key.endswith(">"))]
    place = ".".join([*([section] if section else []), *keys])
    if fault["type"] == "extra_forbidden":
        *parents, name = keys
        above = place.rpartition(".")[0] or "params"
        return unknown_name(f"setting of {above}", name, _known_keys(cls, parents))
    message = re.sub(r"^Value error, ", "", fault["msg"])
    if fault["type"] == "value_error":
        return message
    if fault["type"] == "missing":
        return f"{place} is missing"
    return f"{place} is {fault['input']!r}: {message[0].lower()}{message[1:]}"


def _known_keys(cls: type[Settings], parents: Sequence[str]) -> Iterator[str]:
    model = cls
    for name in parents:
        field = model.model_fields[name]
        model = next(nested_settings(field.annotation, field.metadata))
    return iter(model.model_fields)
