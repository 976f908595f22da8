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
WORKFLOW, CHAIN = (ROOT / "workflows" / f"{name}.json" for name in ("nano_canny_controlnet", "continue_training"))
PICTURES = ROOT / "out" / "browser"
LIMIT_SECONDS = 1200
QUIET = {
    "Comfy.TutorialCompleted": True, "Comfy.Workflow.ShowMissingModelsWarning": False, "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False, "Comfy.Locale": "en", "LiteGraph.Canvas.MaximumFps": 8,
}  # fmt: skip
"""ComfyUI draws its canvas without end, which takes the whole of a processor where there is no graphics card."""
SETTINGS = {
    "classic_dark": {"Comfy.VueNodes.Enabled": False, "Comfy.ColorPalette": "dark"},
    "classic_light_chinese": {"Comfy.VueNodes.Enabled": False, "Comfy.ColorPalette": "light", "Comfy.Locale": "zh"},
    "nodes_2_dark": {"Comfy.VueNodes.Enabled": True, "Comfy.ColorPalette": "dark"},
}


NODES_2_SINCE = (0, 4)
"""Versions of ComfyUI whose own frontend has Nodes 2.0 as more than an experiment."""
STEPS, FEW_STEPS = 2000, 3
"""More than any machine has done before it is stopped; and what is soon done."""
CHANGES: dict[str, dict[int, Any]] = {
    "GraftDrawShapes": {1: 24},
    "GraftImageFolder": {2: 4},
    "GraftSettings": {9: 2, 24: 10, 25: 4},  # batch size, steps between held-out losses, pictures for these
    "GraftValidationGrid": {1: 2, 2: 2, 3: 2},
    "GraftReport": {1: 0.0},
    "EmptySD3LatentImage": {2: 1},
    "KSampler": {2: 2},
}
"""Values of widgets by node and position: a session takes minutes."""
SEED_POSITION = 14
"""In Training Settings: every session trains anew."""


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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A ComfyUI with folders of its own."""
    comfyui = Path(os.environ.get("COMFYUI_PATH") or "")
    if not (comfyui / "comfy" / "model_management.py").is_file():
        pytest.skip("COMFYUI_PATH does not name a ComfyUI checkout (see `make browser`)")
    specification = importlib.util.spec_from_file_location("graft_browser_server", ROOT / "tests" / "integration" / "server.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    running = module.Server(comfyui.resolve(), tmp_path_factory.mktemp("comfyui"))
    running.start(*(["--front-end-root", os.environ["FRONTEND"]] if os.environ.get("FRONTEND") else []))
    yield running
    running.kill()


def named(name: str) -> str:
    """Pictures are named after the version and what was chosen; another frontend than the version's own has its folder's name."""
    return "_".join(part for part in (Path(os.environ["COMFYUI_PATH"]).name, Path(os.environ.get("FRONTEND") or "").name, name) if part)


@pytest.mark.browser
def test_every_state_is_whole_in_both_themes_and_long_curves_draw_fast_and_stay_small():
    lines = [json.loads(line) for line in node("states.mjs", PICTURES).splitlines()]
    assert [line["theme"] for line in lines] == ["dark", "light", "hours"]


@pytest.mark.browser
@pytest.mark.parametrize("name", SETTINGS)
def test_a_session_in_the_real_frontend(server: Any, name: str, tmp_path: Path):
    skip_unless_offered(server, name)
    workflow = small_workflow(WORKFLOW, tmp_path, STEPS, seed=1 + list(SETTINGS).index(name))
    node("panel.mjs", server.url, workflow, PICTURES, named(name), json.dumps({**QUIET, **SETTINGS[name]}))


@pytest.mark.browser
@pytest.mark.parametrize("name", ["classic_dark", "nodes_2_dark"])
def test_each_of_several_train_steps_has_its_own_panel_in_a_subgraph_too(server: Any, name: str, tmp_path: Path):
    skip_unless_offered(server, name)
    workflow = small_workflow(CHAIN, tmp_path, FEW_STEPS, seed=11 + list(SETTINGS).index(name))
    node("places.mjs", server.url, workflow, PICTURES, named(f"{name}_7_subgraph"), json.dumps({**QUIET, **SETTINGS[name]}))


@pytest.mark.browser
def test_stored_trainings_in_the_sidebar(server: Any):
    """After the sessions, whose runs the server still uses; a copy of one under another name is used by nobody."""
    if len(server.runs) < 2:
        pytest.skip("no session has trained anything here")
    unused = server.runs[0].with_name(server.runs[0].name[::-1])
    shutil.copytree(server.runs[0], unused)
    node("runs.mjs", server.url, PICTURES, named("runs"), json.dumps({**QUIET, **SETTINGS["classic_dark"]}), unused.name)


def skip_unless_offered(server: Any, name: str) -> None:
    version = tuple(int(part) for part in server.get("/system_stats")["system"]["comfyui_version"].split(".")[:2])
    if SETTINGS[name]["Comfy.VueNodes.Enabled"] and version < NODES_2_SINCE and not os.environ.get("FRONTEND"):
        pytest.skip("the frontend of this version has the classic canvas only")


def small_workflow(shipped: Path, folder: Path, steps: int, seed: int) -> Path:
    """The shipped workflow with fewer pictures, and so many steps in each Train Steps."""
    workflow = json.loads(shipped.read_text(encoding="utf-8"))
    chosen = {"GraftSettings": {SEED_POSITION: seed}, "GraftTrainSteps": {0: steps}}
    for entry in workflow["nodes"]:
        for position, value in {**CHANGES.get(entry["type"], {}), **chosen.get(entry["type"], {})}.items():
            entry["widgets_values"][position] = value
    path = folder / "workflow.json"
    path.write_text(json.dumps(workflow), encoding="utf-8")
    return path
