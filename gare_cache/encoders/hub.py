"""Files of published models: from the machine's own copies, or downloaded where a network is."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gare_cache.errors import EnvironmentFailure

LOCAL_DIR = "local-dir:"
HF_HUB = "hf-hub:"
_PATIENCE_SECONDS = 5.0
_REMEMBERED_SECONDS = 60.0
_SILENCE_SECONDS = 30.0  # of a server in the middle of a download
_WITHOUT_NETWORK = (
    "without a network give a checkpoint file (encoder.pretrained: /path/model.pt), a folder "
    "(encoder.model: local-dir:FOLDER) or the built-in one (encoder.model: demo)"
)
_asked: dict[str, tuple[float, bool]] = {}  # by endpoint: when it was asked, whether it answered


@contextmanager
def hub_files(what: str, *, download: bool = True) -> Iterator[None]:
    """Run a block that takes files from the hub, without a network from copies alone.

    The hub's client repeats every request for most of a minute where there is no network. One
    request of at most five seconds decides instead, and its retries are left out.

    Args:
        what: what the block loads, for the message.
        download: whether missing files may be downloaded.

    Raises:
        EnvironmentFailure: the block raised anything: a file is neither here nor to be had.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    reachable = download and not before and _is_reachable(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = not reachable
    unlimited = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE_SECONDS)  # open_clip's own downloads have no limit
    try:
        yield
    except (EnvironmentFailure, AttributeError, NameError):
        raise
    except Exception as err:  # network, permission, missing repository: the hub's own errors
        logging.getLogger(__name__).debug("while loading %s", what, exc_info=err)
        reason = first_line(err) if reachable else f"no copy on this machine, and {_why(before)}"
        raise EnvironmentFailure(
            f"{what} cannot be downloaded ({reason}); check the name and the network; "
            f"{_WITHOUT_NETWORK}"
        ) from err
    finally:
        socket.setdefaulttimeout(unlimited)
        constants.HF_HUB_OFFLINE = before


def tag_weights(open_clip: Any, model: str, tag: str, *, download: bool) -> Path:
    """Return the checkpoint file of an open_clip tag, downloaded if need be.

    Raises:
        EnvironmentFailure: it is neither on this machine nor to be had.
    """
    cfg = open_clip.get_pretrained_cfg(model, tag)
    with hub_files(f"the weights {tag!r} of {model!r}", download=download):
        if not cfg.get("hf_hub") and not download:
            copy = Path("~/.cache/clip").expanduser() / Path(cfg["url"]).name
            if not copy.is_file():
                raise FileNotFoundError(copy)
        return Path(open_clip.download_pretrained(cfg))


def first_line(err: Exception) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return (str(err).strip() or type(err).__name__).splitlines()[0][:200]


def _why(switched_off: bool) -> str:
    return "HF_HUB_OFFLINE is set" if switched_off else "no network"


def _is_reachable(endpoint: str) -> bool:
    """Ask the hub for its front page; a name server that does not answer has no time-out."""
    asked_at, answered = _asked.get(endpoint, (-_REMEMBERED_SECONDS, False))
    if time.monotonic() - asked_at < _REMEMBERED_SECONDS:
        return answered
    answers: list[Any] = []

    def ask() -> None:
        import huggingface_hub.utils

        try:
            session = huggingface_hub.utils.get_session()  # type: ignore[attr-defined]
            answers.append(session.head(endpoint, timeout=_PATIENCE_SECONDS))
        except Exception as err:  # every kind of failure says the same: no network
            logging.getLogger(__name__).debug("%s does not answer", endpoint, exc_info=err)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PATIENCE_SECONDS)
    _asked[endpoint] = (time.monotonic(), bool(answers))
    return bool(answers)
