"""A real ComfyUI for the tests: the checkout that COMFYUI_PATH names, run by the Python that COMFYUI_PYTHON names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "inside_comfyui.py"
LIMIT_SECONDS = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is an integration test, left out where there is no ComfyUI."""
    missing = pytest.mark.skip(reason="COMFYUI_PATH does not name a ComfyUI checkout (see `make integration`)")
    for item in items:
        if item.path.parent == SCRIPT.parent:
            item.add_marker(pytest.mark.integration)
            if not _comfyui():
                item.add_marker(missing)


def _comfyui() -> Path | None:
    path = Path(os.environ.get("COMFYUI_PATH") or "")
    return path.resolve() if (path / "comfy" / "model_management.py").is_file() else None


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All figures of inside_comfyui.py, from one process that has ComfyUI as a library; a measurement that failed is a text."""
    folder = tmp_path_factory.mktemp("comfyui")
    command = [os.environ.get("COMFYUI_PYTHON") or sys.executable, str(SCRIPT), str(_comfyui()), str(folder)]
    finished = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=LIMIT_SECONDS)
    results = folder / "results.json"
    assert results.is_file(), f"{' '.join(command)}\n{finished.stderr[-4000:]}"
    return json.loads(results.read_text(encoding="utf-8"))
