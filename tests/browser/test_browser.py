"""The panel in Chromium: every state of it by itself, and a whole session in the real ComfyUI, as `make browser` runs them."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
WORKFLOW = ROOT / "workflows" / "nano_canny_controlnet.json"
PICTURES = ROOT / "out" / "browser"
LIMIT_SECONDS = 1200
QUIET = {"Comfy.TutorialCompleted": True, "Comfy.Workflow.ShowMissingModelsWarning": False, "Comfy.Minimap.Visible": False}
SETTINGS = {
    "classic_dark": {"Comfy.VueNodes.Enabled": False, "Comfy.ColorPalette": "dark"},
    "classic_light_chinese": {"Comfy.VueNodes.Enabled": False, "Comfy.ColorPalette": "light", "Comfy.Locale": "zh"},
    "nodes_2_dark": {"Comfy.VueNodes.Enabled": True, "Comfy.ColorPalette": "dark"},
}


CHANGES: dict[str, dict[int, Any]] = {
    "GraftDrawShapes": {1: 40},
    "GraftImageFolder": {2: 8},
    "GraftSettings": {9: 4, 24: 10, 25: 4},  # batch size, steps between held-out losses, pictures for these
    "GraftValidationGrid": {1: 4, 2: 4, 3: 4},
    "GraftReport": {1: 0.0},
}
"""Values of widgets by node and position: a session takes minutes."""


def tool(variable: str, *names: str) -> str:
    """The program or folder that a variable names, or the first of the programs that is installed; skips where there is none."""
    found = os.environ.get(variable) or next((path for name in names if (path := shutil.which(name))), None)
    if not found:
        pytest.skip(f"{variable} is not set: see `make browser`")
    return found


def node(script: str, *arguments: Any) -> str:
    environment = {**os.environ, "PLAYWRIGHT": tool("PLAYWRIGHT"), "CHROMIUM": tool("CHROMIUM", "chromium", "chromium-browser", "google-chrome")}
    PICTURES.mkdir(parents=True, exist_ok=True)
    command = [tool("NODE", "node"), str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=LIMIT_SECONDS, env=environment, cwd=ROOT)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Any]:
    """A ComfyUI of its own, so that every session begins without results."""
    comfyui = Path(os.environ.get("COMFYUI_PATH") or "")
    if not (comfyui / "comfy" / "model_management.py").is_file():
        pytest.skip("COMFYUI_PATH does not name a ComfyUI checkout (see `make browser`)")
    specification = importlib.util.spec_from_file_location("graft_browser_server", ROOT / "tests" / "integration" / "server.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    running = module.Server(comfyui.resolve(), tmp_path)
    running.start()
    yield running
    running.kill()


@pytest.mark.browser
def test_every_state_is_whole_in_both_themes_and_long_curves_draw_fast():
    lines = [json.loads(line) for line in node("states.mjs", PICTURES).splitlines()]
    assert [line["theme"] for line in lines] == ["dark", "light"]


@pytest.mark.browser
@pytest.mark.parametrize("name", SETTINGS)
def test_a_session_in_the_real_frontend(server: Any, name: str, tmp_path: Path):
    prefix = f"{Path(os.environ['COMFYUI_PATH']).name}_{name}"
    node("panel.mjs", server.url, small_workflow(tmp_path), PICTURES, prefix, json.dumps({**QUIET, **SETTINGS[name]}))


def small_workflow(folder: Path) -> Path:
    """The shipped workflow with fewer pictures."""
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    for entry in workflow["nodes"]:
        changes = CHANGES.get(entry["type"], {})
        for position, value in changes.items():
            entry["widgets_values"][position] = value
    path = folder / "workflow.json"
    path.write_text(json.dumps(workflow), encoding="utf-8")
    return path
