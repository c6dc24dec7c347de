"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
        metavar="KEY=VALUE",
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

DEFAULT_PARAMS = Path("params.yaml")
