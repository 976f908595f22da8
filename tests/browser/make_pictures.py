"""Makes the workflows' thumbnails and the README's pictures from a real run in the real frontend, as `make pictures` does.

python make_pictures.py [STEPS]: the nano workflow is trained as it is shipped, or for so many steps.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
WORKFLOWS, PICTURES = ROOT / "workflows", ROOT / "docs" / "pictures"
TRAINED = "nano_canny_controlnet.json"
SETS = 4
"""Of pictures in the panel, beside the one before the first step."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server, made = _server(Path(folder) / "comfyui"), Path(folder) / "pictures"
        made.mkdir()
        try:
            server.start()
            trained = _trained(Path(folder), int(sys.argv[1]) if len(sys.argv) > 1 else None)
            environment = {**os.environ, "CHROMIUM": os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)))}
            subprocess.run(["node", HERE / "pictures.mjs", server.url, WORKFLOWS, made, trained], check=True, env=environment)
        finally:
            server.kill()
        _put_in_place(made)


def _trained(folder: Path, steps: int | None) -> Path:
    """The shipped workflow with pictures on the way."""
    workflow = json.loads((WORKFLOWS / TRAINED).read_text(encoding="utf-8"))
    (node,) = (node for node in workflow["nodes"] if node["type"] == "GraftTrainSteps")
    values = node["widgets_values"]
    values[0] = steps or values[0]
    node["widgets_values"] = [values[0], max(1, values[0] // SETS), *values[2:]]
    path = folder / TRAINED
    path.write_text(json.dumps(workflow), encoding="utf-8")
    return path


def _put_in_place(made: Path) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    for picture in made.glob("*.jpg"):
        is_thumbnail = (WORKFLOWS / picture.with_suffix(".json").name).is_file()
        shutil.copy(picture, (WORKFLOWS if is_thumbnail else PICTURES) / picture.name)


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
