"""Graft's node classes by id: what ComfyUI and the headless runner read. Ids are frozen (docs/NODES.md)."""

from __future__ import annotations

from . import (
    build,
    controlnet_lora,
    data,
    export,
    framing,
    hints,
    hold,
    image_batch,
    load,
    lora,
    lora_check,
    masks,
    result,
    settings,
    sources,
    stored,
    sweep,
    train,
)

_MODULES = (
    load, data, image_batch, sources, framing, hints, build, settings, train, result, export, lora, stored, hold, lora_check, controlnet_lora,
    sweep, masks,
)  # fmt: skip

NODE_CLASS_MAPPINGS: dict[str, type] = {id: node for module in _MODULES for id, node in module.NODES.items()}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {id: node.DISPLAY_NAME for id, node in NODE_CLASS_MAPPINGS.items()}
