"""The runs that a server searches with, read again when their files change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Literal

from gare_cache.errors import ConfigError, GareCacheError
from gare_cache.manifest.tables import MANIFEST_FILES, read_manifest
from gare_cache.project.paths import Workspace
from gare_cache.project.progress import say
from gare_cache.search.choice import StoreChoice
from gare_cache.search.searcher import Searcher
from gare_cache.serving.catalogue import Catalogue, make_catalogue
from gare_cache.serving.refusals import Refusal
from gare_cache.stages.search import project_searcher

_RETRY_SECONDS = 10
NO_ENCODER = (
    "sentences and images need an encoder, and encoder is not set in params.yaml: set it to the "
    "one that made the features"
)
ZERO_SHOT: Literal["zero-shot"] = "zero-shot"

_Signature = tuple[tuple[int, int] | None, ...]


@dataclass(frozen=True)
class Opened:
    """A run as it was read.

    Attributes:
        searcher: searches its gallery.
        catalogue: names the videos.
        head: what scores the pairs, for people.
        encodes: whether the project names an encoder, for sentences and images.
    """

    searcher: Searcher
    catalogue: Catalogue
    head: str
    encodes: bool


class ServedRun:
    """A run of a project, or CLIP alone."""

    def __init__(
        self,
        name: str,
        workspace: Workspace,
        *,
        zero_shot: bool,
        device: str,
        store: StoreChoice = StoreChoice(),  # noqa: B008
    ) -> None:
        """Open a run.

        Args:
            name: as it is shown.
            workspace: project and outputs.
            zero_shot: whether CLIP alone ranks, even if a head is trained.
            device: where queries are encoded and scored.
            store: what finds the shortlist.

        Raises:
            ConfigError, CacheError, FingerprintMismatch: as ``project_searcher``.
        """
        self.name = name
        self._workspace = workspace
        self._zero_shot = zero_shot
        self._device = device
        self._store = store
        self._head = workspace.run / "head.safetensors"
        self._seen = self._signature()
        self._fault: str | None = None
        self._failed: _Signature | None = None  # signature of what could not be opened
        self._again = 0.0  # when it is tried again
        self.opened = self._open()

    def current(self) -> Opened:
        """Return the run, read anew if its files have changed; not for several threads at once.

        Raises:
            Refusal: they changed to something that cannot be searched.
        """
        signature = self._signature()
        waiting = signature == self._failed and monotonic() < self._again
        if (signature != self._seen or self._fault is not None) and not waiting:
            try:
                self.opened = self._open()
                self._seen, self._fault = signature, None
                say(f"{self.name}: the project has changed and was read again")
            except (GareCacheError, OSError) as err:  # a later search tries again
                self._failed, self._again = signature, monotonic() + _RETRY_SECONDS
                if str(err) != self._fault:
                    say(f"{self.name}: the project has changed and cannot be searched: {err}")
                self._fault = str(err)
        if self._fault is not None:
            raise Refusal(
                503,
                "the project has changed and cannot be searched now; the server's terminal says "
                "why",
                retry_after=_RETRY_SECONDS,
            )
        return self.opened

    def warm_up(self) -> None:
        """Load the encoder, so that the first client need not wait; say so if there is none.

        Raises:
            ConfigError, EncoderError, FingerprintMismatch: it is not there, or another one.
        """
        if not self.opened.encodes:
            say(f"warning: {self.name}: {NO_ENCODER}; until then only videos resemble videos")
            return
        self.opened.searcher.search("a video")

    def _open(self) -> Opened:
        searcher = project_searcher(
            self._workspace, zero_shot=self._zero_shot, device=self._device, store=self._store
        )
        trained = not self._zero_shot and self._head.is_file()
        return Opened(
            searcher,
            make_catalogue(searcher.gallery, read_manifest(self._workspace.manifest)),
            f"trained head, {searcher.head.settings['aggregator']['name']} aggregator"
            if trained
            else "CLIP alone, mean of the frames",
            encodes=self._workspace.params.encoder is not None,
        )

    def _signature(self) -> _Signature:
        """Return time and size of the files that decide what is found."""
        tables = [self._workspace.manifest / name for name in MANIFEST_FILES]
        return tuple(_stamp(path) for path in (self._workspace.features, self._head, *tables))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


def open_runs(
    workspace: Workspace,
    compared: Workspace | Literal["zero-shot"] | None = None,
    *,
    zero_shot: bool = False,
    device: str,
    store: StoreChoice = StoreChoice(),  # noqa: B008
) -> Sequence[ServedRun]:
    """Open what is served: a run, and one that it is compared with.

    Args:
        workspace: the run.
        compared: the other run; ``zero-shot`` is CLIP alone, None is none.
        zero_shot: whether CLIP alone ranks instead of the run's head.
        device: where queries are encoded and scored.
        store: what finds the shortlists of both.

    Raises:
        ConfigError: a run would be compared with itself, or the other one has no trained head.
        CacheError, FingerprintMismatch: as ``project_searcher``.
    """
    name = ZERO_SHOT if zero_shot else workspace.outputs.absolute().name
    alone = zero_shot or not _trained(workspace)
    other: dict[str, Any] = {}
    if compared == ZERO_SHOT:
        if alone:
            raise ConfigError("CLIP alone would be compared with itself; train a head first")
        other = {"name": ZERO_SHOT, "workspace": workspace, "zero_shot": True}
    elif compared is not None:
        if not _trained(compared):
            raise ConfigError(f"{compared.outputs} has no trained head; give a folder of outputs")
        folder = compared.outputs.resolve()
        if folder == workspace.outputs.resolve() and not zero_shot:
            raise ConfigError(f"{compared.outputs} would be compared with itself; give another run")
        second = folder.name if folder.name != name else f"{folder.parent.name}/{folder.name}"
        other = {"name": second, "workspace": compared, "zero_shot": False}
    first = ServedRun(name, workspace, zero_shot=zero_shot, device=device, store=store)
    if compared is None:
        return [first]
    return [first, ServedRun(**other, device=device, store=store)]


def _trained(workspace: Workspace) -> bool:
    return (workspace.run / "head.safetensors").is_file()
