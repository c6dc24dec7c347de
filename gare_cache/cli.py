"""The app ``gare-cache``: common options, errors -> exit codes, and the table of commands.

Everything heavy is imported inside a command, so that ``--help`` answers at once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Annotated, Any

import typer

from gare_cache import __version__
from gare_cache.commands import caches, compare, inspect, pipeline, search, start, study
from gare_cache.commands.help_pages import Command, Group
from gare_cache.errors import DISK_CAUSES, GareCacheError
from gare_cache.process_memory import keep_freed_memory

INTERRUPTED = 130
ENVIRONMENT = 1
MISTAKE = 2

# Panel of the help -> its commands, in the order of use.
PANELS: dict[str, dict[str, Callable[..., None]]] = {
    "Start": {"init": start.init, "demo": start.demo},
    "Pipeline": {
        "prepare": pipeline.prepare,
        "extract": pipeline.extract,
        "import-features": pipeline.import_features,
        "train": pipeline.train,
        "finetune": pipeline.finetune,
        "evaluate": pipeline.evaluate,
        "report": pipeline.report,
    },
    "Search": {"index": search.index, "search": search.search, "serve": search.serve},
    "Inspect": {
        "check-head": inspect.check_head,
        "canary": inspect.canary,
        "diagnose": inspect.diagnose,
    },
    "Compare": {"compare": compare.compare, "ablate": study.ablate, "score": compare.score},
    "Cache": {
        "info": caches.info,
        "verify": caches.verify,
        "export-features": caches.export_features,
    },
}
CACHE_PANELS: dict[str, dict[str, Callable[..., None]]] = {
    "Cache": {
        "list": caches.list_caches,
        "gc": caches.collect_garbage,
        "pack": caches.pack,
        "unpack": caches.unpack,
        "merge": caches.merge,
    }
}


class _ErrorReportingGroup(Group):
    """Turn a known error into one line on stderr and its exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("interrupted; finished work is kept: run the same command again", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except (GareCacheError, OSError, MemoryError, UnicodeEncodeError) as err:
            if ctx.params["debug"]:
                raise
            message, code = _message_and_code(err)
            typer.echo(f"error: {' '.join(message.split())}", err=True)
            raise typer.Exit(code) from None


def _message_and_code(err: Exception) -> tuple[str, int]:
    if isinstance(err, GareCacheError):
        return str(err), err.exit_code
    if isinstance(err, MemoryError):
        cause = f" ({err})" if str(err) else ""
        return f"the machine's memory is used up{cause}; close other programs", ENVIRONMENT
    if isinstance(err, UnicodeEncodeError):
        around = err.object[max(0, err.start - 200) : err.end + 50]
        name = around.encode(errors="backslashreplace").decode()
        return f"a name is not UTF-8: {name}; rename the file or folder", MISTAKE
    if isinstance(err, FileNotFoundError) and err.filename is not None:
        return (
            f"{os.fspath(err.filename)!s} does not exist, or was removed while the command ran; "
            "restore it from a copy, or run the command that makes it again"
        ), ENVIRONMENT
    if isinstance(err, OSError) and err.errno in DISK_CAUSES:
        wrong, advice = DISK_CAUSES[err.errno]
        return f"{err}: {wrong}; {advice}, and run the same command again", ENVIRONMENT
    return str(err), ENVIRONMENT


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"gare-cache {__version__}")
        raise typer.Exit()


def root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and the libraries' messages.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            callback=_print_version,
            is_eager=True,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    """Encode a text-video benchmark once; train and compare heads from the cache.

    The pipeline is prepare -> extract -> train -> evaluate -> report, one command each. All of them
    read their settings from params.yaml, which gare-cache init writes. With DVC, `dvc repro` runs
    whatever is out of date.

    Exit codes:
      0    done
      1    the machine failed (disk, device, network)
      2    a mistake in settings, data or the command line
      3    a leak was found, or a run was not reproduced
      130  interrupted

    Example:
        gare-cache init mine --preset generic
    """
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING, format="%(name)s: %(message)s"
    )


def _register(to: typer.Typer, panels: dict[str, dict[str, Callable[..., None]]]) -> None:
    for panel, commands in panels.items():
        for name, function in commands.items():
            to.command(name, cls=Command, rich_help_panel=panel)(function)


app = typer.Typer(
    cls=_ErrorReportingGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
)
app.callback()(root)
_register(app, PANELS)
cache_app = typer.Typer(cls=Group, no_args_is_help=True)
cache_app.callback()(caches.cache)
_register(cache_app, CACHE_PANELS)
app.add_typer(cache_app, name="cache", rich_help_panel="Cache")


# How often a thread of torch looks for work before it sleeps; GNU OpenMP's own choice where threads
# outnumber the processors. Its choice otherwise, 300,000, takes them from decoding processes.
_SPINS = "1000"


def main() -> None:
    """Run the command line."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)  # read once, when torch is imported
    keep_freed_memory()
    app(prog_name="gare-cache")


if __name__ == "__main__":
    main()
