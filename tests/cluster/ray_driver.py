"""An extraction by Ray actors whose units are small and take a while; run as a program."""

import os
import signal
import sys
import time
from pathlib import Path

from gare_cache.cache import schema
from gare_cache.cluster.ray_pool import Cluster
from gare_cache.errors import GareCacheError
from gare_cache.extraction import cluster
from gare_cache.extraction.unit_worker import UnitDone, UnitJob, UnitWorker
from gare_cache.stages.extract import extract
from tests.tiny import workspace

UNIT_SECONDS = 0.8  # so that units are left for the last of ten kills


def smallest_units() -> None:
    """Units of one video and one caption: 14 and 28 of them in the tiny project."""
    schema._MOST_ROWS.update(video=1, text=1)
    schema._MOST_ROWS_OF_WORDS = 1


class SlowWorker(UnitWorker):
    """A worker of small units; a file in the project tells which video it dies of, if any."""

    def open(self) -> str | GareCacheError:
        smallest_units()
        now, days = time.time, self._number  # the clocks of nodes disagree
        time.time = lambda: now() - 86400 * days
        return super().open()

    def do(self, job: UnitJob) -> UnitDone | GareCacheError:
        deadly = self._settings.workspace.project / "deadly"
        if deadly.exists() and any(
            source.get("path", "").endswith(deadly.read_text()) for source in job.sources
        ):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(UNIT_SECONDS)
        return super().do(job)


def main(project: str, address: str, actors: str) -> None:
    smallest_units()
    cluster.UnitWorker = SlowWorker  # type: ignore[misc]
    if "PRETENDED_RAY_VERSION" in os.environ:
        import ray

        ray.__version__ = os.environ["PRETENDED_RAY_VERSION"]
    asked = Cluster(address or None, int(actors), None)
    try:
        extract(workspace(Path(project)), threads=1, workers=1, cluster=asked)
    except GareCacheError as err:
        sys.exit(f"error: {err}")


if __name__ == "__main__":
    main(*sys.argv[1:])
