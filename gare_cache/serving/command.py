"""What ``gare-cache serve`` does: the port first, then the runs, then the server."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from gare_cache.errors import ConfigError, counted
from gare_cache.project.paths import Workspace, open_workspace
from gare_cache.search.choice import StoreChoice

try:
    from gare_cache.serving.access import check_access
    from gare_cache.serving.app import Serving, make_app
    from gare_cache.serving.runs import ZERO_SHOT, open_runs
    from gare_cache.serving.server import listen, run, url_of
except ModuleNotFoundError as err:
    if err.name not in ("starlette", "uvicorn"):
        raise
    raise ConfigError(
        f"gare-cache serve needs {err.name}; install it: pip install 'gare-cache[serve]'"
    ) from err


def serve_project(
    params: Path,
    outputs: Path | None,
    *,
    compare: str | None,
    zero_shot: bool,
    device: str,
    host: str,
    port: int,
    token: str | None,
    fold_above: float,
    rate: float,
    store: StoreChoice,
    on_ready: Callable[[str, str], None],
) -> None:
    """Serve the search of a project until Ctrl-C.

    Queries are computed on half of the processors: the others answer clients and decode pictures,
    and threads that wait for a busy processor are slower than fewer threads.

    Args:
        params: settings of the project.
        outputs: of the run; None is ``outputs/`` beside them.
        compare: outputs of a second run, or ``zero-shot``; None is none.
        zero_shot: whether CLIP alone ranks, even if a head is trained.
        device: where queries are encoded and scored.
        host: address to serve.
        port: 0 takes any free one.
        token: that clients must give; None on loopback.
        fold_above: cosine above which two results are shown as one.
        rate: searches a second of one client; 0 is no limit.
        store: what finds the shortlist.
        on_ready: called with the address of the page and a line that says what is served.

    Raises:
        ConfigError: the port is in use, ``host`` needs a token, or as ``open_runs``.
        CacheError: nothing was extracted.
    """
    check_access(host, token)
    workspace = open_workspace(params, outputs, borrow=True)
    compared: Workspace | Literal["zero-shot"] | None = None
    if compare == ZERO_SHOT:
        compared = ZERO_SHOT
    elif compare is not None:
        compared = open_workspace(params, Path(compare), borrow=True)
    opened = listen(host, port)
    torch.set_num_threads(max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // 2)))
    try:
        runs = open_runs(workspace, compared, zero_shot=zero_shot, device=device, store=store)
        for served in runs:
            served.warm_up()
        project = workspace.params.dataset.name
        serving = Serving(token=token, rate=rate, fold_above=fold_above)
        app = make_app(project, runs, serving)
        videos = counted(len(runs[0].opened.catalogue.entries), "video")
        names = " and ".join(served.name for served in runs)
        on_ready(url_of(opened, host, token), f"serving {videos} of {project}, ranked by {names}")
        run(app, opened)
    finally:
        opened.close()
