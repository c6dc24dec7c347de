import subprocess
import sys

import pytest

# Makes 64 MiB and frees them ten times; prints what was set, and the pages that the system cleared.
PROGRAM = """
import resource, sys
from gare_cache.process_memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
bytearray(b"1") * 2**26
before = faults()
for _ in range(10):
    bytearray(b"1") * 2**26
print(kept, faults() - before)
"""


def run(argument: str, environment: dict[str, str] | None = None) -> tuple[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, argument],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    kept, faults = done.stdout.split()
    return kept, int(faults)


def test_memory_that_is_freed_is_used_again_without_the_system() -> None:
    if sys.platform != "linux":
        pytest.skip("the allocator of Linux")
    pages = 10 * 2**26 // 4096
    assert run("leave")[1] > 0.9 * pages
    kept, faults = run("keep")
    if kept == "False":
        pytest.skip("this C library is not glibc")
    assert faults < 0.1 * pages


@pytest.mark.parametrize("variable", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_the_environment_sets_is_left_alone(variable: str) -> None:
    assert run("keep", {variable: "1"})[0] == "False"
