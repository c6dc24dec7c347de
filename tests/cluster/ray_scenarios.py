"""What befalls an extraction by Ray actors; run as a program in a network namespace of its own.

Nothing here is reachable from the machine, and what is killed is told by the namespace.
"""

import fcntl
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_DEADLINE_SECONDS = 240.0


def undisturbed(project: Path) -> None:
    assert _driver(project, "", 2).wait() == 0


def a_worker_is_killed(project: Path) -> None:
    driver = _driver(project, "", 2)
    _await(lambda: _num_lines(project) > 0, driver)
    os.kill(random.choice(_actors()), signal.SIGKILL)
    assert driver.wait() == 0


def workers_and_nodes_are_killed(project: Path, kills: int = 10) -> None:
    cluster, second = _two_nodes()
    chosen = random.Random(0)
    driver = _driver(project, cluster.address, 2)
    for number in range(kills):
        # The unit of a worker that was killed comes first; so no unit is hit twice in a row.
        done = _num_lines(project)
        _await(lambda done=done: _num_lines(project) >= done + 2 and _actors(), driver)  # type: ignore[misc]
        time.sleep(chosen.random())
        _await(_actors, driver)
        if number % 3 == 1:
            os.kill(second.all_processes["raylet"][0].process.pid, signal.SIGKILL)
            cluster.remove_node(second, allow_graceful=False)
            second = _node(cluster)
        else:
            os.kill(chosen.choice(_actors()), signal.SIGKILL)
    assert driver.wait() == 0


def the_driver_is_killed(project: Path) -> None:
    cluster, _ = _two_nodes()
    for _ in range(2):
        driver = _driver(project, cluster.address, 2)
        done = _num_lines(project)
        _await(lambda done=done: _num_lines(project) > done, driver)  # type: ignore[misc]
        driver.kill()
    assert _driver(project, cluster.address, 2).wait() == 0


def two_drivers(project: Path) -> None:
    cluster, _ = _two_nodes()
    first = _driver(project, cluster.address, 1)
    _await(lambda: _num_lines(project) > 0, first)
    assert _driver(project, cluster.address, 1).wait() == 1
    assert first.wait() == 0


def a_study(project: Path) -> None:
    cluster, _ = _two_nodes()
    command = [sys.executable, "-m", "gare_cache.cli", "ablate", str(project / "studies/a.yaml")]
    options = ["--engine", "ray", "--ray-address", cluster.address, "--actors", "2"]
    driver = subprocess.Popen([*command, *options])
    runs = project / ".gare" / "runs"
    _await(lambda: any(runs.glob("*/run.json")) and _actors(b"ray::RunWorker"), driver)
    os.kill(random.choice(_actors(b"ray::RunWorker")), signal.SIGKILL)
    assert driver.wait() == 0


def a_node_without_videos(project: Path) -> None:
    _refused_beside_a_node_with_empty(project / "videos", project)


def a_node_with_a_cache_of_its_own(project: Path) -> None:
    (project / "cache").mkdir()
    _refused_beside_a_node_with_empty(project / "cache", project)


def a_cluster_of_another_version(project: Path) -> None:
    cluster, _ = _two_nodes()
    os.environ["PRETENDED_RAY_VERSION"] = "2.0.0"
    assert _driver(project, cluster.address, 1).wait() == 1


def _refused_beside_a_node_with_empty(folder: Path, project: Path) -> None:
    """Start a node that sees an empty file system in place of a folder, and alone can work."""
    from ray.cluster_utils import Cluster

    head = _NODE | {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--num-cpus=1", "--block"]
    ray += [f"--address={cluster.address}", "--node-ip-address=127.0.0.1"]
    hiding = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"']
    with subprocess.Popen([*hiding, str(folder), *ray]) as node:
        try:
            cluster.wait_for_nodes()
            while len(cluster.global_state.node_table()) < 2:
                time.sleep(0.1)
            assert _driver(project, cluster.address, 1).wait() == 1
        finally:
            node.terminate()


def _two_nodes() -> tuple[Any, Any]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=_NODE | {"include_dashboard": False})
    return cluster, _node(cluster)


_NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}


def _node(cluster: Any) -> Any:
    return cluster.add_node(**_NODE)


def _driver(project: Path, address: str, actors: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.cluster.ray_driver"]
    return subprocess.Popen([*command, str(project), address, str(actors)])


def _num_lines(project: Path) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in project.glob("cache/*/journal/*"))


def _actors(title: bytes = b"ray::SlowWorker") -> list[int]:
    """Return the processes of actors in this network namespace."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found_title = (folder / "cmdline").read_bytes()
            here = os.readlink(folder / "ns" / "net") == os.readlink("/proc/self/ns/net")
        except OSError:  # it has ended, or is another user's
            continue
        if found_title.startswith(title) and here:
            found.append(int(folder.name))
    return found


def _await(happened: Callable[[], Any], driver: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _DEADLINE_SECONDS
    while not happened():
        assert driver.poll() is None, "the driver has ended"
        assert time.monotonic() < end
        time.sleep(0.05)


def _bring_up_loopback() -> None:
    set_flags, up_and_running = 0x8914, 0x1 | 0x40  # SIOCSIFFLAGS; IFF_UP | IFF_RUNNING
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sh", b"lo", up_and_running))


if __name__ == "__main__":
    _bring_up_loopback()
    globals()[sys.argv[1]](Path(sys.argv[2]))
