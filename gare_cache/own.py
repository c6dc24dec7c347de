"""Custom parts, named by import path (``mypkg.mod:MyHead``): import, call and digest of code."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from gare_cache.code_identity import PACKAGE, import_closure
from gare_cache.errors import ConfigError, GareCacheError
from gare_cache.files import canonical_digest, file_digest

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclass(frozen=True)
class _Code:
    """Code of a custom module.

    Attributes:
        folder: folder of the top-level module; None for a module without files.
        names: the top-level module and the modules of the folder that it imports.
        sources: digest of each file, by path below the folder.
        of_project: whether the folder is the project's.
    """

    folder: Path | None
    names: Sequence[str]
    sources: Mapping[str, str]
    of_project: bool


_imported: dict[str, _Code] = {}  # by top-level name, in the state of the import
_project: list[Path] = []  # at most one
_trusted: set[str] = set()  # import paths that the user's own settings name
_TRUST_ALL = "*"


def is_own(name: str) -> bool:
    """Return whether a name denotes an import path, that is, contains a colon."""
    return ":" in name


def split_own(path: str) -> tuple[str, str]:
    """Split ``mypkg.mod:MyHead`` into module and attribute.

    Raises:
        ConfigError: the path has another form.
    """
    if not _PATH.fullmatch(path):
        raise ConfigError(
            f"{path!r} is not an import path; write module:name, such "
            "as my_head:MyHead for class MyHead in my_head.py, or mypkg.mod:MyHead"
        )
    module, _, attribute = path.partition(":")
    return module, attribute


def use_project(folder: Path, names: Iterable[str] = (), *, trust: bool = False) -> None:
    """Make the modules of a project's folder importable, after all installed ones.

    The folder is searched only if custom parts are named, so that a stray file in it never stands
    for an installed package. The previous project's folder is removed from ``sys.path``, so that a
    process sees the modules of one project at a time.

    Args:
        folder: of the project.
        names: import paths that the user's own settings name.
        trust: import what any run, checkpoint or study names, too.
    """
    while _project:
        earlier = str(_project.pop())
        if earlier in sys.path:
            sys.path.remove(earlier)
    _trusted.clear()
    _trusted.update([*names, *([_TRUST_ALL] if trust else [])])
    _project.append(folder.absolute())
    if _trusted:
        sys.path.append(str(_project[0]))


def require_trusted(settings: Any, *, where: object) -> None:
    """Check that the user's own settings name the custom parts that a file of anybody names.

    Args:
        settings: from the file.
        where: the file, for the message.

    Raises:
        ConfigError: it names another one; nothing is imported.
    """
    strange = sorted(set(own_names(settings)) - _trusted)
    if strange and _TRUST_ALL not in _trusted:
        raise ConfigError(
            f"{where} names {strange[0]!r}, which params.yaml does not: its code would run. If you "
            "trust the file, give --trust, or trust=True in Python"
        )


def import_own(path: str, *, what: str) -> Callable[..., Any]:
    """Import a user's class or function, defined in the package that the path names.

    A module of the project's folder that has changed since it was imported, or that belongs to
    another project, is imported again.

    Args:
        path: ``module:name``.
        what: kind of part, for the messages, such as ``"aggregator"``.

    Raises:
        ConfigError: the path is malformed, the module is missing or fails, or the name is missing,
            not callable or defined elsewhere.
    """
    module_name, attribute = split_own(path)
    module = _import(module_name, f"{what} {path!r}")
    if not hasattr(module, attribute):
        names = [name for name in vars(module) if not name.startswith("_")]
        near = difflib.get_close_matches(attribute, names, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else "check the name after the colon"
        raise ConfigError(f"{what} {path!r}: {_where(module)} defines no {attribute!r}; {hint}")
    part = getattr(module, attribute)
    if not callable(part):
        raise ConfigError(
            f"{what} {path!r} is {_kind(part)} and cannot be called; name a class or a function"
        )
    home = getattr(part, "__module__", None) or type(part).__module__
    if _top(home) != _top(module_name):
        raise ConfigError(
            f"{what} {path!r} is defined in {home}, not in {module_name}; name it where it is "
            "defined"
        )
    return part  # type: ignore[no-any-return]


def require_signature(
    function: Callable[..., Any],
    path: str,
    *,
    what: str,
    arguments: Sequence[str] = (),
    keywords: Sequence[str] = (),
    options: Mapping[str, Any],
) -> None:
    """Check that a user's class or function accepts the arguments that it will get.

    Args:
        function: the imported class or function.
        path: its import path.
        what: kind of part, for the messages.
        arguments: names of the positional arguments.
        keywords: names of the keyword arguments.
        options: further keyword arguments, from the settings.

    Raises:
        ConfigError: an option is unknown or is passed by gare-cache, or a parameter without
            default gets no value.
    """
    given = [name for name in options if name in (*arguments, *keywords)]
    if given:
        raise ConfigError(
            f"options of {what} {path!r} hold {given[0]!r}, which gare-cache passes itself; "
            "take it out"
        )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # implemented in C without a readable signature
    try:
        signature.bind(*arguments, **dict.fromkeys(keywords), **options)
    except TypeError as err:
        call = ", ".join(
            [*arguments, *(f"{k}=..." for k in keywords), *(f"{k}=..." for k in options)]
        )
        raise ConfigError(
            f"{what} {path!r} has the signature {signature} and is called as ({call}): {err}; "
            "change its parameters or its options"
        ) from err


def own_names(settings: Any) -> Iterator[str]:
    """Yield the import paths in settings: values of a key ``name`` or ``x.name`` with a colon."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            is_name = isinstance(key, str) and key.rpartition(".")[2] == "name"
            if is_name and isinstance(value, str) and is_own(value):
                yield value
            else:
                yield from own_names(value)
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from own_names(value)


def own_digests(settings: Any) -> dict[str, str]:
    """Return a digest of the code behind each import path in settings.

    It covers the module's whole top-level package and all modules of the project's folder that it
    imports, directly or indirectly; for an installed package, that package alone.

    Raises:
        ConfigError: as ``import_own``.
    """
    digests = {}
    for path in sorted(set(own_names(settings))):
        module_name, _ = split_own(path)
        _import(module_name, repr(path))
        digests[path] = canonical_digest(_imported[_top(module_name)].sources)
    return digests


def require_unchanged(settings: Any, recorded: Mapping[str, str], *, where: object) -> None:
    """Check that the code of a head's custom parts has not changed since its training.

    Args:
        settings: settings of the head.
        recorded: result of ``own_digests`` from the head's record.
        where: the head's file, for the message.

    Raises:
        ConfigError: the code behind an import path differs from the record or is not recorded.
    """
    for path, digest in own_digests(settings).items():
        if recorded.get(path) != digest:
            raise ConfigError(
                f"the code of {path!r} has changed since {where} was trained with it, so its "
                "weights mean something else; run `gare-cache train` again, or restore the code"
            )


def call_own(function: Callable[..., Any], what: str, /, *arguments: Any, **keywords: Any) -> Any:
    """Call a user's code.

    Args:
        function: the user's class or function.
        what: kind of part and import path, for the message.
        arguments: positional arguments.
        keywords: keyword arguments.

    Raises:
        ConfigError: it raises an error other than this package's; the message has the place.
    """
    try:
        return function(*arguments, **keywords)
    except GareCacheError:
        raise
    except Exception as err:
        raise ConfigError(f"{what} fails {describe(err)} (--debug shows the traceback)") from err


def describe(err: Exception) -> str:
    """Describe in a line where and how a user's code failed: ``at FILE:LINE with TYPE: MESSAGE``.

    The place is the last one outside installed packages if there is one; it is left out if the
    call itself failed. A SyntaxError contains its place.
    """
    what = f"with {type(err).__name__}: {' '.join(str(err).split())}"
    here = f"{Path(__file__).parent}{os.sep}"
    frames = [
        frame
        for frame in traceback.extract_tb(err.__traceback__)
        if not frame.filename.startswith((here, "<"))
    ]
    if isinstance(err, SyntaxError) or not frames:
        return what
    outside = [frame for frame in frames if "site-packages" not in frame.filename]
    last = (outside or frames)[-1]
    return f"at {last.filename}:{last.lineno} {what}"


def _import(module_name: str, what: str) -> ModuleType:
    top = _top(module_name)
    _forget_if_stale(top)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as err:
        raise ConfigError(f"{what}: {_not_found(module_name, err)}") from err
    except Exception as err:
        raise ConfigError(f"{what}: importing {module_name} fails {describe(err)}") from err
    if top not in _imported:
        _imported[top] = _code(top)
    return module


def _not_found(module_name: str, err: ModuleNotFoundError) -> str:
    missing = err.name or module_name
    if missing != module_name and not module_name.startswith(f"{missing}."):
        return (
            f"importing {module_name} fails, because it imports {missing!r}, which does not exist"
        )
    folder = _project[0] if _project else Path.cwd()
    here = [
        path.stem
        for path in folder.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    ]
    near = difflib.get_close_matches(module_name, here, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else "put it there, or install it"
    return (
        f"there is no module {missing!r} in {folder} (the folder of params.yaml) "
        f"and none among the installed packages ({sys.prefix}); {hint}"
    )


def _forget_if_stale(top: str) -> None:
    known = _imported.get(top)
    if known is None or not known.of_project:
        return
    if known.folder in _project and _code(top).sources == known.sources:
        return
    for name in [name for name in sys.modules if _top(name) in known.names]:
        del sys.modules[name]
    for name in known.names:
        _imported.pop(name, None)


def _code(top: str) -> _Code:
    folder = _folder(sys.modules[top])
    if folder is None:
        return _Code(None, [top], {}, of_project=False)
    of_project = folder in _project
    locate = partial(_package_files, folder)
    files = import_closure([top], locate) if of_project else locate(top)
    sources = {path.relative_to(folder).as_posix(): file_digest(path) for path in files.values()}
    tops = [top, *{_top(module) for module in files if _top(module) != top}]
    return _Code(folder, tops, sources, of_project)


def _folder(module: ModuleType) -> Path | None:
    if hasattr(module, "__path__"):
        return Path(next(iter(module.__path__))).parent
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file).parent


def _package_files(folder: Path, name: str) -> dict[str, Path]:
    """Return the files of all modules of a name's top-level package, or of its only module."""
    top = _top(name)
    if top == PACKAGE:
        return {}
    if (folder / top).is_dir():
        files = sorted((folder / top).rglob("*.py"))
    else:
        files = [path for path in (folder / f"{top}.py",) if path.is_file()]
    return {".".join(path.relative_to(folder).with_suffix("").parts): path for path in files}


def _top(module_name: str) -> str:
    return module_name.partition(".")[0]


def _where(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or f"module {module.__name__}"


def _kind(value: Any) -> str:
    return f"{value!r}, of type {type(value).__name__},"
