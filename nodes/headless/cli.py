"""The command line: `graft run`, `inspect`, `convert`, `shapes`, `bench`, `runs`, `store`.

Imports stay inside the commands, so that --help is instant and `inspect` reads a header without loading torch.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...training import __version__
from ...training.errors import InputError, NotPassedError, StoppedTraining
from .cli_data import add_data
from .interrupt import Interrupted, StopRequest
from .terminal import Reporter, ReporterHandler

if TYPE_CHECKING:
    from .execute import NodeResult

NO_SUCCESS, BAD_INPUT, SIGNAL_OFFSET, SIGINT_NUMBER = 1, 2, 128, 2
EXIT_CODES = (
    "Exit codes: 0 it is done; 1 it came to its end and did not pass: `data check` found problems, a result is below a bar that a Report node sets, "
    "or a training could not go on; 2 something that was given cannot be used; 130 Ctrl-C, 143 SIGTERM."
)

Command = Callable[[argparse.Namespace, Reporter], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code, as EXIT_CODES tells them; what is wrong is told in plain words."""
    given = sys.argv[1:] if arguments is None else arguments
    parsed = parser().parse_args(given or ["--help"])
    stop = StopRequest()
    reporter = Reporter(sys.stderr, stop.check)
    handler = ReporterHandler(reporter)
    logger = logging.getLogger(__name__.rpartition(".nodes.")[0])
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with stop.listening():
            parsed.command(parsed, reporter)
            sys.stdout.flush()
    except BrokenPipeError:  # whoever reads the output has enough of it, as `head` does; nothing is left to be said at the end either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_SUCCESS
    except (InputError, StoppedTraining) as error:
        reporter.line(f"error: {error}")
        return BAD_INPUT if isinstance(error, InputError) and not isinstance(error, NotPassedError) else NO_SUCCESS
    except KeyboardInterrupt as interrupt:
        reporter.line(f"Stopped. {parsed.when_stopped}".strip())
        return SIGNAL_OFFSET + (interrupt.signal_number if isinstance(interrupt, Interrupted) else SIGINT_NUMBER)
    finally:
        reporter.clear()
        logger.removeHandler(handler)
    return 0


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(
        prog="graft",
        description="Train ControlNets and LoRAs from a ComfyUI workflow, with or without ComfyUI.",
        epilog=f"First step: `graft run workflows/nano_canny_controlnet.json`, which draws its own pictures and needs no download. {EXIT_CODES}",
    )
    top.add_argument("--version", action="version", version=f"graft {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    _add_inspect(commands)
    _add_convert(commands)
    _add_shapes(commands)
    add_data(commands, _add)
    _add_bench(commands)
    _add_runs(commands)
    _add_store(commands)
    return top


def _add(commands: argparse._SubParsersAction, name: str, command: Command, text: str, epilog: str = "") -> argparse.ArgumentParser:
    added = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=epilog)
    added.set_defaults(command=command, when_stopped="")
    return added


# ---------------------------------------------------------------- run


def _add_run(commands: argparse._SubParsersAction) -> None:
    epilog = (
        "Training results are kept under the hash of all their inputs, so a second run finds them. Folders: pictures come from `input` "
        "(or GRAFT_INPUT), models from `models/<kind>` (or GRAFT_MODELS), runs are kept in out/.graft_runs (or GRAFT_RUNS); "
        f"GRAFT_DEVICE chooses the device. {EXIT_CODES}"
    )
    added = _add(commands, "run", _run, "run a workflow saved or exported by ComfyUI", epilog)
    added.set_defaults(when_stopped="What was trained is kept: the same command goes on from there.")
    added.add_argument("workflow", type=Path, help="workflow JSON, in UI or API format")
    added.add_argument(
        "--set", action="append", default=[], metavar="NODE.INPUT=VALUE", dest="settings",
        help="another value for an input; NODE is an id, or a title that only one node has (a wrong one lists them); may be given several times",
    )  # fmt: skip
    added.add_argument("--output", type=Path, metavar="DIR", help="where results go (default: out/<workflow name>)")
    added.add_argument(
        "--server", metavar="URL", help="send it to a running ComfyUI (http://127.0.0.1:8188) and follow it; --output downloads its pictures"
    )


def _run(arguments: argparse.Namespace, reporter: Reporter) -> None:
    if arguments.server is not None:
        return _run_on_server(arguments, reporter)
    from ...training.files.write import require_writable_folder
    from ..host import use_host
    from .host import HeadlessHost
    from .run import run_workflow
    from .summary import snapshot, summary

    output = require_writable_folder(arguments.output or Path("out", arguments.workflow.stem), "--output")
    before = snapshot(output)
    host = HeadlessHost(output, reporter, arguments.workflow.stem)
    host.device()  # a device that is not there is told before anything is drawn or encoded
    results: list[NodeResult] | None = None
    try:
        with use_host(host):
            results = run_workflow(arguments.workflow, arguments.settings, reporter)
    finally:
        reporter.clear()
        if results is not None or snapshot(output) != before:  # what was made is named too when a later node failed
            print(summary(results or [], output, before))


def _run_on_server(arguments: argparse.Namespace, reporter: Reporter) -> None:
    from ..server.run import run_on_server

    print(run_on_server(arguments.server, arguments.workflow, arguments.settings, arguments.output, reporter))


# ---------------------------------------------------------------- files


def _add_inspect(commands: argparse._SubParsersAction) -> None:
    added = _add(commands, "inspect", _inspect, "say what a safetensors file is, from its header alone")
    added.add_argument("file", type=Path, metavar="FILE", help="the safetensors file")
    added.add_argument("--values", action="store_true", help="read all numbers too: zeros, subnormals, saturated, not finite")
    added.add_argument("--json", action="store_true", help="print JSON")


def _inspect(arguments: argparse.Namespace, reporter: Reporter) -> None:
    from ...training.files.inspect import inspect_as_dict, inspect_file

    made = inspect_as_dict if arguments.json else inspect_file
    report = made(arguments.file, arguments.values, reporter.progress())
    reporter.clear()
    print(json.dumps(report, indent=2) if arguments.json else report)


def _add_convert(commands: argparse._SubParsersAction) -> None:
    added = _add(commands, "convert", _convert, "rewrite a safetensors file in BF16, tensor by tensor")
    added.add_argument("source", type=Path, metavar="SOURCE", help="the file to read; left as it is unless TARGET is the same")
    added.add_argument("target", type=Path, metavar="TARGET", help="the file to write")
    added.add_argument("--overwrite", action="store_true", help="replace TARGET if it exists")


def _convert(arguments: argparse.Namespace, reporter: Reporter) -> None:
    from ...training.files.convert import convert_to_bf16

    report = convert_to_bf16(arguments.source, arguments.target, reporter.progress(), overwrite=arguments.overwrite)
    reporter.clear()
    print(f"{report.explanation()}\nWritten: {arguments.target}")


# ---------------------------------------------------------------- data, benchmark, runs


def _add_shapes(commands: argparse._SubParsersAction) -> None:
    added = _add(commands, "shapes", _shapes, "write a folder of generated training pictures with captions")
    added.add_argument("folder", type=Path)
    added.add_argument("--count", type=int, required=True, metavar="N", help="how many pictures")
    added.add_argument("--seed", type=int, required=True, metavar="S", help="the same seed draws the same pictures")
    added.add_argument("--size", type=int, default=128, metavar="PX", help="side of a picture (default: 128)")
    styles = "plain, framed, half framed, royal or half royal (half: every second picture); default: plain"
    added.add_argument("--style", default="plain", metavar="NAME", help=styles)


def _shapes(arguments: argparse.Namespace, reporter: Reporter) -> None:
    from ...training.data.shapes import shapes_folder

    if arguments.seed < 0:
        raise InputError("--seed", expected="0 or more", found=arguments.seed, remedy="Choose another seed.")
    shapes_folder(
        arguments.folder, count=arguments.count, seed=arguments.seed, size_px=arguments.size, progress=reporter.progress(), style=arguments.style
    )  # fmt: skip
    reporter.clear()
    print(f"{arguments.count} pictures with captions are in {arguments.folder}")


def _add_bench(commands: argparse._SubParsersAction) -> None:
    added = _add(commands, "bench", _bench, "measure a training step against the same step written with diffusers")
    added.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as JSON")
    added.add_argument("--size", default="auto", metavar="NAME", help="mini, mini-512px, flux-512px, flux-1024px (default: by device)")
    added.add_argument("--repeats", type=int, default=20, metavar="N", help="measured steps of each (default: 20)")
    added.add_argument("--checkpointing", action="store_true", help="both recompute blocks in the backward pass")
    added.add_argument(
        "--only", choices=("base8", "panel", "sweep"),
        help="instead: base8, a base in 8 bits beside BF16; panel, what the live panel costs; sweep, four LoRAs together beside four alone",
    )  # fmt: skip
    added.add_argument("--steps", type=int, default=60, metavar="N", help="base8: steps of each of the trainings that are compared (default: 60)")


def _bench(arguments: argparse.Namespace, reporter: Reporter) -> None:
    if arguments.only == "base8":
        return _bench_base8(arguments, reporter)
    if arguments.only == "panel":
        return _bench_panel(arguments, reporter)
    if arguments.only == "sweep":
        return _bench_sweep(arguments, reporter)
    from ...training.bench import describe, run_bench

    figures = run_bench(arguments.json, arguments.size, arguments.repeats, reporter.progress(), arguments.checkpointing)
    reporter.clear()
    print(describe(figures))


def _bench_base8(arguments: argparse.Namespace, reporter: Reporter) -> None:
    from ...training.bench_base8 import describe, run_base8

    figures = run_base8(arguments.json, arguments.steps, progress=reporter.progress())
    reporter.clear()
    print(describe(figures))


def _bench_panel(arguments: argparse.Namespace, reporter: Reporter) -> None:
    from ..live.bench_panel import describe, run_bench_panel

    figures = run_bench_panel(arguments.json, progress=reporter.progress())
    reporter.clear()
    print(describe(figures))


def _bench_sweep(arguments: argparse.Namespace, reporter: Reporter) -> None:
    from ...training.bench_sweep import describe, run_sweep_bench

    figures = run_sweep_bench(arguments.json, arguments.size, arguments.repeats, reporter.progress(), arguments.checkpointing)
    reporter.clear()
    print(describe(figures))


def _add_runs(commands: argparse._SubParsersAction) -> None:
    _add(commands, "runs", _runs, "list the training runs that are kept")


def _runs(arguments: argparse.Namespace, reporter: Reporter) -> None:
    from .host import HeadlessHost
    from .stored_runs import describe_runs, printable_blocks

    print(describe_runs(HeadlessHost().runs_folder(), printable_blocks(sys.stdout)))


def _add_store(commands: argparse._SubParsersAction) -> None:
    epilog = (
        "A run that a living process trains, has trained or has given on to other nodes is never removed, nor one from which a kept run began. "
        "Encoded data go first, since they are made again when they are needed, and a run only where runs alone take more. The limit is kept by "
        "itself after each training, in ComfyUI and here: 200 GB for both together, or what GRAFT_STORE_LIMIT says (500GB, none)."
    )
    added = _add(commands, "store", _store, "list the room that kept runs and encoded data take, and remove some of it", epilog)
    added.add_argument("--folder", type=Path, metavar="DIR", help="the folder of runs (ComfyUI's: output/graft/runs; default: this command's own)")
    added.add_argument(
        "--prune", metavar="SIZE", help="remove encoded data, then runs, those used longest ago first, until the rest takes at most so much (50GB, 0)"
    )


def _store(arguments: argparse.Namespace, reporter: Reporter) -> None:
    from ...training.byte_sizes import parsed_size
    from .host import HeadlessHost
    from .stored_runs import describe_store

    host = HeadlessHost()
    if arguments.folder is not None and not arguments.folder.is_dir():
        raise InputError("--folder", expected="a folder of runs", found=arguments.folder, remedy="In ComfyUI it is output/graft/runs.")
    folder = arguments.folder or host.runs_folder()
    within, beside = folder / host.cache_folder().name, folder.parent / host.cache_folder().name
    cache = beside if arguments.folder is not None and not within.is_dir() else within  # ComfyUI's lies beside the runs
    print(describe_store(folder, cache, None if arguments.prune is None else parsed_size(arguments.prune, "--prune")))
