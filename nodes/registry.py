"""Graft's node classes by id: what ComfyUI and the headless runner read. Ids are frozen (docs/NODES.md)."""

from __future__ import annotations

NODE_CLASS_MAPPINGS: dict[str, type] = {}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
