"""The panel's own tests run in node; and what a pack's page files must be: found by ComfyUI, asking for nothing on the network."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WEB = ROOT / "web"
SCRIPTS = sorted(path for path in WEB.rglob("*.js"))
OLDEST_NODE = 18


def test_the_panel_in_node():
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the panel's JavaScript was not tested")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.lstrip("v").split(".")[0]) < OLDEST_NODE:
        pytest.skip(f"node {version} has no test runner: the panel's JavaScript was not tested")
    tests = [str(path) for path in sorted(Path(__file__).parent.glob("*.test.mjs"))]
    done = subprocess.run([node, "--test", *tests], capture_output=True, text=True, encoding="utf-8", timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(WEB).as_posix())
def test_a_script_is_read_by_any_browser_as_it_is(path: Path):
    """Relative imports of files that are there, and ComfyUI's own two; nothing from elsewhere."""
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"^import .*?[\"'](.+?)[\"'];$", text, re.MULTILINE):
        assert name in ("../../scripts/api.js", "../../scripts/app.js") or (path.parent / name).is_file(), name
    assert "eval(" not in text and not re.search(r"https?://(?!www\.w3\.org/)", text)


def test_comfyui_finds_the_panel():
    import graft

    assert (ROOT / graft.WEB_DIRECTORY / "graft.js").is_file() and len(SCRIPTS) > 8
