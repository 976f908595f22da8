"""How a LoRA file is recognised: whose names, for which model, of which ranks."""

from __future__ import annotations

import re

from .kinds import Found, Shapes

# {ending of the tensor whose shape tells the rank: (the axis that is the rank, the method)}
_RANK_ENDINGS: dict[str, tuple[int, str]] = {
    ".lora_down.weight": (0, "LoRA"), ".lora_A.weight": (0, "LoRA"), ".lora_A.default.weight": (0, "LoRA"),
    ".lora.down.weight": (0, "LoRA"), "_lora.down.weight": (0, "LoRA"), "_lora1.down.weight": (0, "LoRA"),
    "_lora2.down.weight": (0, "LoRA"), ".hada_w1_b": (0, "LoHa"), ".lokr_w1_b": (0, "LoKr"), ".lokr_w2_b": (0, "LoKr"),
}  # fmt: skip
_LAYOUTS: tuple[tuple[str, str], ...] = (
    ("lycoris_", "LyCORIS"), ("lora_transformer_", "OneTrainer"), ("lora_unet_", "Kohya"), ("lora_te", "Kohya"),
    ("base_model.model.", "PEFT"), ("transformer.", "PEFT / diffusers"), ("unet.", "PEFT / diffusers"),
    ("text_encoder", "PEFT / diffusers"),
    ("diffusion_model.", "generic"), ("model.diffusion_model.", "generic"), ("controlnet.", "Graft's ControlNet LoRA"),
)  # fmt: skip
_FLUX_MARKS = ("double_blocks", "single_blocks", "single_transformer_blocks")
_FLUX_ONLY_DOUBLE = re.compile(r"(?<!single_)transformer_blocks[._]\d+[._](attn[._](add_|to_add)|ff_context|norm1_context)")
_TEXT_KEY = re.compile(r"attn2[._](processor[._])?to_k")


def lora(shapes: Shapes) -> Found | None:
    """Recognises LoRA, LoHa and LoKr files; DoRA is told by its extra tensors."""
    ranks = {name: shape[axis] for name, shape in shapes.items() for axis, _ in _endings(name) if len(shape) > axis}
    if not ranks:
        return None
    methods = sorted({method for name in ranks for _, method in _endings(name)})
    dora = any(name.endswith("dora_scale") or ".lora_magnitude_vector" in name for name in shapes)
    variant = " and ".join(methods) + (" with DoRA scales" if dora else "")
    return Found("lora", _architecture(shapes), _layout(ranks), variant, _sizes(shapes, ranks))


def _endings(name: str) -> list[tuple[int, str]]:
    return [value for ending, value in _RANK_ENDINGS.items() if name.endswith(ending)][:1]


def _layout(names: dict[str, int]) -> str:
    if any(".processor." in name and re.search(r"_lora[12]?\.down", name) and "_blocks." in name for name in names):
        return "XLabs"
    found = {layout for name in names for prefix, layout in _LAYOUTS[:_first_layout(name)] if name.startswith(prefix)}
    return " and ".join(sorted(found)) or "bare names"


def _first_layout(name: str) -> int:
    """How many of the layouts to look at, so that only the first that fits counts."""
    return next((index + 1 for index, (prefix, _) in enumerate(_LAYOUTS) if name.startswith(prefix)), 0)


def _architecture(shapes: Shapes) -> str:
    if any(mark in name for name in shapes for mark in _FLUX_MARKS) or any(_FLUX_ONLY_DOUBLE.search(name) for name in shapes):
        return "flux"
    if any(name.startswith("lora_te2_") for name in shapes):
        return "sdxl"
    widths = (shape[1] for name, shape in shapes.items() if _TEXT_KEY.search(name) and _endings(name) and len(shape) > 1)
    return {768: "sd15", 1024: "sd2", 2048: "sdxl"}.get(next(widths, 0), "unknown")


def _sizes(shapes: Shapes, ranks: dict[str, int]) -> dict[str, int]:
    lowest, highest = min(ranks.values()), max(ranks.values())
    rank = {"rank": lowest} if lowest == highest else {"lowest_rank": lowest, "highest_rank": highest}
    return {**rank, "layers": len(ranks), "alphas": sum(name.endswith(".alpha") for name in shapes)}
