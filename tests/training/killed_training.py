"""A process that trains the tiny model and, in the middle of a step, says so and waits to be killed: <folder> <steps> <deadly step>."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parent))

import torch
from conftest import CPU, RECIPE, make_tiny_base, make_tiny_data, make_tiny_settings
from graft.training.store import RunStore
from graft.training.train_to import train_to

torch.set_num_threads(1)
folder, steps, deadly_step = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
seen = SimpleNamespace(done=0, checks=0)


def advance(done: int, **values: float) -> None:
    seen.done, seen.checks = done, 0


def check_interrupt() -> None:
    seen.checks += 1
    if seen.done == deadly_step - 1 and seen.checks == 2:  # the step's first batch is done, its second is not
        sys.stdout.write("now\n")
        sys.stdout.flush()
        time.sleep(60)


train_to(
    make_tiny_base(), RECIPE, make_tiny_data(folder / "data"),
    make_tiny_settings(accumulation=2, checkpoint_every=2, ema_decay=0.9),
    steps=steps, store=RunStore(folder / "runs"), device=CPU,
    progress=SimpleNamespace(start=lambda total, unit: None, advance=advance, finish=lambda: None, check_interrupt=check_interrupt),
)  # fmt: skip
