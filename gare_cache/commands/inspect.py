"""Commands that examine a head: check-head, canary, diagnose."""

from __future__ import annotations

from typing import Annotated

import typer

from gare_cache.commands.options import DEFAULT_PARAMS, Device, Outputs, ParamsFile, Trust


def check_head(
    name: Annotated[str, typer.Argument(help="Import path, such as my_head:MyHead.")],
    role: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="ROLE",
            help="What it is: head (an interaction of text and video) or aggregator.",
        ),
    ] = "head",
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Option of the head or aggregator; may be repeated."
        ),
    ] = None,
    dim: Annotated[
        int, typer.Option(min=1, metavar="N", help="Width of the random features.")
    ] = 64,
    frames: Annotated[
        int, typer.Option(min=1, metavar="N", help="Largest number of frames in a video.")
    ] = 8,
    aggregator: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Aggregator in front of the head: a name or import path."
        ),
    ] = "mean",
    galleries: Annotated[
        int, typer.Option(min=1, metavar="N", help="Random galleries in the leak test.")
    ] = 50,
    seed: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Random seed of the weights, features and draws."),
    ] = 0,
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Check a head or aggregator of your own before training.

    Random features test shapes, gradients, padding, order, batching, dropout, saving, learning and
    leaks: one row each, with what to do where one fails. The exit code is 2 for a failure and 3 for
    a leak. No data is needed: of --params only the folder matters, from which modules are imported.
    See docs/extending.md.

    Example:
        gare-cache check-head my_head:MyHead --dim 512
    """
    from gare_cache.stages.check_head import check_head, parse_options

    lines = check_head(
        name,
        folder=params.parent,
        role=role,
        options=parse_options(option or []),
        dim=dim,
        frames=frames,
        aggregator=aggregator,
        galleries=galleries,
        seed=seed,
    )
    for line in lines:
        typer.echo(line)


def canary(
    head: Annotated[
        str,
        typer.Option(
            metavar="WHICH",
            help="Head to test: trained, or params for the untrained head that training starts "
            "from.",
        ),
    ] = "trained",
    galleries: Annotated[
        int, typer.Option(min=1, metavar="N", help="Random galleries in each test.")
    ] = 200,
    seed: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Random seed of the features, permutations and tie breaking."
        ),
    ] = 0,
    params: ParamsFile = DEFAULT_PARAMS,
    outputs: Outputs = None,
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Test for leaks: recall on random data must be chance.

    The data are random features and cached features with permuted video ids. Every row is an exact
    test of R@1 through the functions that evaluate uses, and fails at p of 0.001 or less. A failure
    means that the head or the scoring knows which caption belongs to which video, or miscounts
    ranks; the exit code is then 3. Writes canary.json. See docs/canary.md.

    Example:
        gare-cache canary --head params
    """
    from gare_cache.project.paths import open_workspace
    from gare_cache.stages.canary import canary

    workspace = open_workspace(params, outputs, borrow=True, trust=trust)
    for line in canary(workspace, head=head, galleries=galleries, seed=seed, device=device):
        typer.echo(line)
    typer.echo(f"{workspace.outputs / 'canary.json'}")


def diagnose(
    params: ParamsFile = DEFAULT_PARAMS,
    outputs: Outputs = None,
    split: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Split to diagnose: train, val or test. Use of test is recorded in the ledger.",
        ),
    ] = "val",
    seed: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Random seed of the batch for the gradients."),
    ] = 0,
    radius: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Length of the ideal step, in units of the increment.",
            show_default="the trust region's radius, or else the longest increment in the batch",
        ),
    ] = None,
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Explain what the increment of GARE's head does.

    Shows gradients, tension, lengths, angles and variance of the increment, the R@1 that is left
    with one increment per video and with none, and whether the increment points down the loss.
    Writes diagnosis.html, .md and .json to the folder diagnosis. See docs/diagnostics.md.

    Example:
        gare-cache diagnose --split val
    """
    from gare_cache.diagnosis.readings import answers
    from gare_cache.project.paths import open_workspace
    from gare_cache.stages.diagnose import diagnose

    workspace = open_workspace(params, outputs, borrow=True, trust=trust)
    diagnosis = diagnose(workspace, split=split, seed=seed, radius=radius, device=device)
    for question, answer in answers(diagnosis):
        typer.echo(f"{question} {answer}")
    typer.echo(f"{workspace.outputs / 'diagnosis' / 'diagnosis.html'}")
