"""A real ComfyUI for the tests: the checkout that COMFYUI_PATH names, run by the Python that COMFYUI_PYTHON names."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "inside_comfyui.py"
LIMIT_SECONDS = 900 * float(os.environ.get("GRAFT_TEST_PATIENCE") or 1)
"""GRAFT_TEST_PATIENCE: how much longer than usual a test may wait, for machines that are busy with other work."""


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
def comfyui() -> Path:
    """The checkout."""
    found = _comfyui()
    assert found is not None
    return found


@pytest.fixture(scope="session")
def new_server() -> Any:
    """The class of server.py, which lies beside the tests and in no package: Server(checkout, folder)."""
    specification = importlib.util.spec_from_file_location("graft_test_server", SCRIPT.with_name("server.py"))
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.Server


@pytest.fixture(scope="session")
def comfyui_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ComfyUI's Python with some arguments; environment variables by name."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [os.environ.get("COMFYUI_PYTHON") or sys.executable, *arguments]
        environment = {**os.environ, **variables}
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=LIMIT_SECONDS, env=environment)

    return run


@pytest.fixture(scope="session")
def run_inside(comfyui: Path, comfyui_python: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Runs a script of this folder in ComfyUI's Python and gives what it has measured."""

    def run(script: str, *arguments: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("comfyui")
        finished = comfyui_python(str(SCRIPT.with_name(script)), str(comfyui), str(folder), *arguments)
        results = folder / "results.json"
        assert results.is_file(), f"{' '.join(finished.args)}\n{finished.stderr[-4000:]}"
        return json.loads(results.read_text(encoding="utf-8"))

    return run


@pytest.fixture(scope="session")
def measured(run_inside: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """All figures of inside_comfyui.py, from one process that has ComfyUI as a library; a measurement that failed is a text."""
    return run_inside(SCRIPT.name)
