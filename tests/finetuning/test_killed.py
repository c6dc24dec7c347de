"""One of two processes of a finetuning is killed: the other ends, and the state is kept."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from tests.tiny import change_params, workspace
from tests.training.two_processes import process_of_rank, torchrun, wait_until

EPOCHS = 6


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other_and_the_same_command_goes_on(
    project: Path, killed: int
) -> None:
    change_params(
        project,
        finetune__encoder="full",
        finetune__epochs=EPOCHS,
        finetune__encoder_lr_scale=0.1,
        train__optimizer="adamw",
    )
    prepare(workspace(project))
    extract(workspace(project))
    command = ("finetune", "--device", "cpu", "--workers", "1", "-o", "outputs/finetune")

    with torchrun(*command, folder=project) as program:
        wait_until(lambda: any(project.glob(".gare/state/*/training.pt")))
        victim, other = (process_of_rank(rank, program.pid) for rank in (killed, 1 - killed))
        os.kill(victim, signal.SIGKILL)
        # Not the minutes of --timeout: torchrun sees it, and leaves the other thirty seconds.
        _, message = program.communicate(timeout=45)
    assert program.returncode != 0
    assert not Path(f"/proc/{other}").exists()
    assert f"Signal 9 (SIGKILL) received by PID {victim}" in message
    assert re.search(rf"rank +: {killed} ", message)
    assert not (project / "outputs/finetune/run/record.json").exists()

    with torchrun(*command, folder=project) as program:
        _, said = program.communicate(timeout=300)
    assert program.returncode == 0, said
    assert "resumed behind epoch " in said
    run = project / "outputs/finetune/run"
    lines = (run / "train_log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
    assert json.loads((run / "cost.json").read_text())["seconds"] is None
