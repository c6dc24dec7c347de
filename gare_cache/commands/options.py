"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from gare_cache.cluster.ray_pool import Cluster

ParamsFile = Annotated[
    Path,
    typer.Option("--params", "-p", metavar="FILE", help="Settings file in the project's folder."),
]
Outputs = Annotated[
    Path | None,
    typer.Option(
        "--outputs",
        "-o",
        metavar="FOLDER",
        help="Output folder.",
        show_default="outputs in the project",
    ),
]
Device = Annotated[
    str, typer.Option(metavar="NAME", help="Torch device: auto, cpu, cuda or cuda:N.")
]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Also write the unrounded figures here."),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VAL",
        help="Change a setting for this command, such as train.epochs=5; may be repeated.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Random seed.", show_default="train.seed"),
]
Timeout = Annotated[
    float,
    typer.Option(min=1.0, metavar="S", help="How long one of several processes waits for another."),
]
Workers = Annotated[
    int,
    typer.Option(min=0, metavar="N", help="Decoding processes (0: one per processor, at most 16)."),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Import custom parts that the file names and params.yaml does not: their code runs.",
    ),
]
Engine = Annotated[
    Literal["local", "ray"],
    typer.Option(metavar="NAME", help="local: this machine; ray: the actors of a Ray cluster."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="ADDR",
        help="HOST:PORT of the Ray cluster's head, or auto: the one this machine is in.",
        show_default="a Ray of this machine alone",
    ),
]
Actors = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Number of Ray actors.",
        show_default="one per GPU; without any, one per node",
    ),
]
GpusPerActor = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="GPUs of each Ray actor; 0.5 shares one.",
        show_default="1 if there are GPUs",
    ),
]

DEFAULT_PARAMS = Path("params.yaml")


def cluster_of(
    engine: str, address: str | None, actors: int | None, gpus_per_actor: float | None
) -> Cluster | None:
    """Return the cluster that the options name; None for the local engine.

    Raises:
        ConfigError: options of Ray are given without it, or a number of GPUs is negative.
    """
    from gare_cache.cluster.ray_pool import Cluster
    from gare_cache.errors import ConfigError

    if gpus_per_actor is not None and gpus_per_actor < 0:
        raise ConfigError(f"--gpus-per-actor is {gpus_per_actor:g}; give 0 or more")
    if engine == "ray":
        return Cluster(address, actors or 0, gpus_per_actor)
    if (address, actors, gpus_per_actor) != (None, None, None):
        raise ConfigError("--ray-address, --actors and --gpus-per-actor need --engine ray")
    return None
