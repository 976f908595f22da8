"""The last lines of `graft run`: what was made, where it lies, and what to do with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...training.errors import InputError
from ...training.files.header import read_header
from ...training.files.identify import FileReport, identify

if TYPE_CHECKING:
    from .execute import NodeResult

PICTURES = frozenset({".png", ".jpg", ".webp"})
COMFYUI_FOLDERS = {"controlnet": "controlnet", "lora": "loras", "transformer": "diffusion_models"}
DIFFUSERS_CONFIG = "config.json"

Snapshot = Mapping[Path, tuple[int, int]]
"""Files by path: size and time of the last change."""


def snapshot(folder: Path) -> Snapshot:
    """What lies in a folder now, to be compared with later."""
    paths = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


def summary(results: Sequence[NodeResult], output: Path, before: Snapshot) -> str:
    """What the output nodes said, the files that are new since `before`, and what to do next."""
    now = snapshot(output)
    made = sorted(path for path, state in now.items() if before.get(path) != state)
    said = [str(text) for result in results for text in result.ui.get("text", ())]
    listed = [f"  {path.relative_to(output).as_posix()}{_remark(path)}" for path in made]
    beginning = f"Made in {output}:" if made else f"Nothing new was made in {output}."
    return "\n".join([*said, beginning, *listed, *_next_steps(made)])


def _remark(path: Path) -> str:
    """What a file is for, where its name does not tell."""
    if path.suffix != ".safetensors":
        return ""
    if path.with_name(DIFFUSERS_CONFIG).exists():
        return "  (for diffusers, not for ComfyUI)"
    report = _report(path)
    if report is None or report.kind == "unknown":
        return ""
    return f"  ({report.architecture} {report.kind}, {report.layout} layout)"


def _report(path: Path) -> FileReport | None:
    try:
        return identify(read_header(path))
    except InputError:  # a node may write files of its own kind
        return None


def _next_steps(made: Sequence[Path]) -> Iterator[str]:
    pictures = [path for path in made if path.suffix in PICTURES]
    if pictures:
        yield f"Next: look at {pictures[0]}."
    for path in made:
        report = _report(path) if path.suffix == ".safetensors" and not path.with_name(DIFFUSERS_CONFIG).exists() else None
        if report and report.kind in COMFYUI_FOLDERS:
            yield f"Next: copy {path} to ComfyUI/models/{COMFYUI_FOLDERS[report.kind]} to use it there."
    if any(path.suffix == ".safetensors" for path in made):
        yield (
            "To train further, raise the steps of a Train Steps node (--set NODE.steps=N): only the rest is trained, beyond the horizon of its "
            "settings at their last learning rate."
        )
    yield from (f"Figures are in {path}:{_figures(path)}" for path in made if path.name == "report.json")


def _figures(path: Path) -> str:
    """The numbers at the top of a report, in its own words, each on a line."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return " not readable"
    numbers = {name: value for name, value in content.items() if isinstance(value, (int, float))} if isinstance(content, dict) else {}
    return "".join(f"\n  {name:<32}{f'{value:.4g}' if isinstance(value, float) else value}" for name, value in numbers.items())
