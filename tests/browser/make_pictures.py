"""Makes the workflows' thumbnails and the README's pictures from real runs in the real frontend, as `make pictures` does.

Without options every workflow of Nano FLUX is run as it is shipped; python make_pictures.py --help lists them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import cv2

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
WORKFLOWS, PICTURES = ROOT / "workflows", ROOT / "docs" / "pictures"
PANEL = "nano_canny_controlnet"
SETS = 4
"""Of pictures in the panel, beside the one before the first step."""
QUALITY = 85
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    asked = _asked()
    with tempfile.TemporaryDirectory() as folder:
        server, made = _server(Path(folder) / "comfyui"), Path(folder) / "pictures"
        made.mkdir()
        if asked.store:
            _take_over(asked.store, server)
        try:
            server.start()
            jobs = Path(folder) / "jobs.json"
            jobs.write_text(json.dumps({"panel": _panel(asked.panel_steps), "thumbnails": _thumbnails(asked)}), encoding="utf-8")
            environment = {**os.environ, "CHROMIUM": os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)))}
            subprocess.run(["node", HERE / "pictures.mjs", server.url, jobs, made], check=True, env=environment)
        finally:
            server.kill()
            _put_in_place(made)
            _keep_comparison(server.output)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, help="a folder of runs, such as that of `make demo`, with trainings that were done before")
    parser.add_argument("--run", nargs="*", help="the workflows to run (default: all of Nano FLUX); the others are shown as they are loaded")
    parser.add_argument("--only", nargs="*", help="the workflows to make thumbnails of (default: all)")
    parser.add_argument("--panel-steps", type=int, help=f"steps of the training in the panel's picture (default: as {PANEL} is shipped; 0: none)")
    return parser.parse_args()


def _take_over(store: Path, server: Any) -> None:
    """Runs and encoded data of another store."""
    target = server.output / "graft"
    shutil.copytree(store, target / "runs", ignore=shutil.ignore_patterns("cache", ".in_use"))
    shutil.copytree(store / "cache", target / "cache")


def _panel(steps: int | None) -> dict[str, Any] | None:
    """The shipped workflow with pictures on the way."""
    if steps == 0:
        return None
    workflow = _read(WORKFLOWS / f"{PANEL}.json")
    (node,) = (node for node in workflow["nodes"] if node["type"] == "GraftTrainSteps")
    shipped, _, *rest = [*node["widgets_values"], 0]
    wanted = steps or shipped
    node["widgets_values"] = [wanted, max(1, wanted // SETS), *rest[:-1]]
    return workflow


def _thumbnails(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Every shipped workflow, and whether it is run before it is shown: one of Nano FLUX needs no files that are not here."""
    found = {path.stem: _read(path) for path in sorted(WORKFLOWS.glob("*.json"))}
    nano = {name for name, workflow in found.items() if any(node["type"] == "GraftNanoFlux" for node in workflow["nodes"])}
    run = nano if asked.run is None else set(asked.run)
    return [{"name": name, "workflow": workflow, "run": name in run} for name, workflow in found.items() if not asked.only or name in asked.only]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _put_in_place(made: Path) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    for picture in made.glob("*.jpg"):
        is_thumbnail = (WORKFLOWS / picture.with_suffix(".json").name).is_file()
        shutil.copy(picture, (WORKFLOWS if is_thumbnail else PICTURES) / picture.name)


def _keep_comparison(output: Path) -> None:
    """What the validation grid of the shipped nano workflow has drawn, if it was run."""
    drawn = sorted(output.glob("comparison_*.png"))
    if drawn:
        cv2.imwrite(str(PICTURES / "comparison.jpg"), cv2.imread(str(drawn[-1])), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])


def _server(folder: Path) -> Any:
    """server.py, which lies beside the integration tests and in no package."""
    folder.mkdir()
    specification = importlib.util.spec_from_file_location("graft_pictures_server", ROOT / "tests" / "integration" / "server.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.Server(Path(os.environ["COMFYUI_PATH"]).resolve(), folder)


if __name__ == "__main__":
    main()
