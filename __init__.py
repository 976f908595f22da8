"""Graft: train ControlNets and LoRAs inside a ComfyUI graph.

ComfyUI imports this folder under a name of its own and reads the mappings below. Nothing heavy is imported before one of them is asked for,
so that test collection, the command line and the engine alone never load the nodes.
"""

from __future__ import annotations

from .training import __version__ as __version__

WEB_DIRECTORY = "./web"
__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]


def __getattr__(name: str):
    if name in ("NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"):
        from .nodes import comfy_live, registry

        comfy_live.open_routes()
        return getattr(registry, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
