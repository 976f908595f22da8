"""What a real ComfyUI declares about the core nodes that our workflows use, small enough to be stored beside the tests.

    COMFYUI_PYTHON=... python tests/integration/definitions.py CHECKOUT [NODE ...]

starts the server of a checkout and writes tests/nodes/core_definitions/<its version>.json: for every core node in workflows/*.json (and the
named ones) its inputs without tooltips, and its outputs. Lists of files depend on the machine and are stored empty.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STORED = ROOT / "tests" / "nodes" / "core_definitions"
NOTES = frozenset({"Note", "MarkdownNote"})
"""Nodes of the browser page alone; the server does not know them."""
KEPT_OPTIONS = ("default", "min", "max", "step", "multiline", "forceInput", "control_after_generate", "image_upload")
FILE_LISTS = {"DualCLIPLoader": ("clip_name1", "clip_name2"), "VAELoader": ("vae_name",), "LoadImage": ("image",)}
"""Choices that are the files of the machine."""


def core_kinds(workflows: Iterable[Path]) -> list[str]:
    """The types of core nodes in workflows of the UI format."""
    types = {node["type"] for path in workflows for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]}
    return sorted(kind for kind in types - NOTES if not kind.startswith("Graft"))


def compact(kind: str, described: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a node's /object_info that decides whether a workflow is valid."""
    inputs = {group: entries for group, entries in described["input"].items() if group in ("required", "optional")}
    return {
        "input": {group: {name: _input(kind, name, entry) for name, entry in entries.items()} for group, entries in inputs.items()},
        "output": described["output"],
        "output_name": described["output_name"],
        "output_node": described["output_node"],
    }


def _input(kind: str, name: str, entry: list[Any]) -> list[Any]:
    declared, options = entry[0], entry[1] if len(entry) > 1 else {}
    choices = options.get("options", []) if declared == "COMBO" else declared
    kept = {option: options[option] for option in KEPT_OPTIONS if option in options}
    return [[] if name in FILE_LISTS.get(kind, ()) else choices, kept]


def stored_version(server: Any) -> str:
    return server.get("/system_stats")["system"]["comfyui_version"]


def read_definitions(server: Any, kinds: Iterable[str]) -> dict[str, Any]:
    return {kind: compact(kind, server.get(f"/object_info/{kind}")[kind]) for kind in kinds}


def _server_class() -> Any:
    specification = importlib.util.spec_from_file_location("graft_server", Path(__file__).with_name("server.py"))
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.Server


def main(checkout: str, *more: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = _server_class()(Path(checkout).resolve(), Path(folder))
        server.start()
        try:
            kinds = sorted({*core_kinds((ROOT / "workflows").glob("*.json")), *more})
            found = {"comfyui": stored_version(server), "nodes": read_definitions(server, kinds)}
        finally:
            server.kill()
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    (STORED / f"{found['comfyui']}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
