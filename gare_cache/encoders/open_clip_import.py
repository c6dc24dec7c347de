"""Import open_clip and torchvision, even a torchvision built for another torch."""

from __future__ import annotations

import importlib
import logging
import sys
from types import ModuleType

import torch

from gare_cache.errors import EnvironmentFailure

logger = logging.getLogger(__name__)

_MISSING_OPERATOR = "operator torchvision::nms does not exist"
# Declared without an implementation: open_clip calls neither; torchvision registers their shapes.
_OPERATORS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[
    torch.library.Library
] = []  # keeps the operators alive: they vanish with their Library


def import_open_clip() -> ModuleType:
    """Import ``open_clip`` and return it.

    open_clip imports torchvision. A torchvision built for CUDA beside a CPU torch cannot load its
    operators and raises ``RuntimeError: operator torchvision::nms does not exist`` half way
    through its import. On exactly that error the two operators are declared, the half-imported
    modules dropped and the import repeated; open_clip only needs torchvision's Python transforms.

    Raises:
        EnvironmentFailure: open_clip or torchvision cannot be imported for any other reason.
    """
    return _import("open_clip")


def import_torchvision_transforms() -> ModuleType:
    """Import ``torchvision.transforms.v2`` and return it, as ``import_open_clip`` does.

    Raises:
        EnvironmentFailure: torchvision cannot be imported for any other reason.
    """
    return _import("torchvision.transforms.v2")


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except RuntimeError as err:
        if _MISSING_OPERATOR not in str(err):
            raise EnvironmentFailure(f"{name} cannot be imported: {err}") from err
    except ImportError as err:
        raise EnvironmentFailure(
            f"{name} cannot be imported ({err}); install open_clip_torch and torchvision"
        ) from err
    logger.info(
        "torchvision was built for another torch (%s): declaring its operators", _MISSING_OPERATOR
    )
    _declare_operators()
    _drop_modules()
    return importlib.import_module(name)


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name, schema in _OPERATORS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)  # type: ignore[no-untyped-call]
    _libraries.append(library)


def _drop_modules() -> None:
    for name in [n for n in sys.modules if n.split(".")[0] in ("torchvision", "open_clip")]:
        del sys.modules[name]
