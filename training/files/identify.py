"""What a safetensors file is, from the names, shapes and dtypes in its header: a 24 GB file is known as fast as a small one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .header import Header
from .kinds import CONTROLNETS, OTHERS, PART_PREFIXES, TRANSFORMERS, Found, Shapes, is_part
from .kinds_lora import lora
from .quantisation import Quantisation, find_quantisation

# What programs put before a model's own names.
PREFIXES = ("", "model.diffusion_model.", "diffusion_model.", "transformer.", "model.", "module.", "vae.", "first_stage_model.",
            "text_encoders.t5xxl.transformer.", "text_encoders.clip_l.transformer.", "text_encoder.")  # fmt: skip
_FIRST_NAMES = 8


@dataclass(frozen=True)
class DtypeCount:
    """How much of a file is in one dtype."""

    tensors: int
    elements: int
    size_bytes: int


@dataclass(frozen=True)
class FileReport:
    """What one file is."""

    path: Path
    size_bytes: int
    kind: str
    """'transformer', 'unet', 'controlnet', 'lora', 'autoencoder', 'text encoder' or 'unknown'."""
    architecture: str
    """'flux', 'sd15', 'sdxl', 'sd2', 'taesd', 't5', 'clip', ... or 'unknown'."""
    layout: str
    """Whose names it uses: 'BFL', 'diffusers', 'XLabs', 'InstantX', 'Mistoline', 'LDM', 'Kohya', 'PEFT', ..."""
    variant: str
    """Which of several editions: 'dev' or 'schnell', 'Union', ..."""
    prefix: str
    """What stands before the model's own names in the file."""
    sizes: dict[str, int]
    """Widths, depths, channels, ranks, in plain words."""
    dtypes: dict[str, DtypeCount]
    quantisation: Quantisation
    """Of the named model only, as are the parameters."""
    parameters: int
    """Without scales and markers."""
    other_parts: dict[str, int]
    """{prefix: tensors} of other models in the same file."""
    first_names: tuple[str, ...]
    notes: tuple[str, ...]
    metadata: dict[str, str]

    @property
    def fp8(self) -> str:
        """The 8-bit form: 'none', 'plain e4m3fn', 'plain e5m2', 'scaled', 'comfy', ..."""
        return self.quantisation.kind

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        return {
            "path": str(self.path), "size_bytes": self.size_bytes, "kind": self.kind, "architecture": self.architecture,
            "layout": self.layout, "variant": self.variant, "prefix": self.prefix, "sizes": dict(self.sizes),
            "dtypes": {name: vars(count) for name, count in self.dtypes.items()}, "fp8": self.fp8,
            "unreadable": self.quantisation.unreadable, "scales": len(self.quantisation.scales), "parameters": self.parameters,
            "other_parts": dict(self.other_parts), "first_names": list(self.first_names), "notes": list(self.notes),
            "metadata": dict(self.metadata),
        }  # fmt: skip


def identify(header: Header) -> FileReport:
    """Names a file from its header alone; 'unknown' if no rule fits."""
    found, prefix = _first_match(header.shapes)
    own = own_names(header.tensors, prefix).values()
    packing = find_quantisation(header, own)
    return FileReport(
        path=header.path, size_bytes=header.size_bytes, kind=found.kind, architecture=found.architecture, layout=found.layout,
        variant=found.variant, prefix=prefix, sizes=found.sizes, dtypes=_count_dtypes(header), quantisation=packing,
        parameters=sum(header.tensors[name].elements for name in own if name not in packing.helpers),
        other_parts=_other_parts(header.tensors, prefix),
        first_names=tuple(sorted(header.tensors)[:_FIRST_NAMES]), notes=_notes(found, prefix), metadata=header.metadata,
    )  # fmt: skip


def own_names(names: Iterable[str], prefix: str) -> dict[str, str]:
    """{the model's own name: name in the file}, without other parts of the file."""
    return {name[len(prefix) :]: name for name in names if name.startswith(prefix) and not _is_other_part(name, prefix)}


def _first_match(shapes: Shapes) -> tuple[Found, str]:
    by_prefix = {prefix: _without(shapes, prefix) for prefix in PREFIXES}
    groups: tuple[tuple[Callable[[Shapes], Found | None], ...], ...] = ((lora,), CONTROLNETS, TRANSFORMERS, OTHERS)
    for group in groups:
        for prefix, inside in by_prefix.items():
            found = next((found for rule in group if inside and (found := rule(inside))), None)
            if found:
                return found, prefix
    return Found("unknown", "unknown", "unknown"), ""


def _without(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    return {name[len(prefix) :]: shape for name, shape in shapes.items() if name.startswith(prefix)}


def _is_other_part(name: str, prefix: str) -> bool:
    return is_part(name) and not (prefix and name.startswith(prefix))


def _other_parts(names: Mapping[str, Any], prefix: str) -> dict[str, int]:
    if is_part(prefix):
        return {}
    counts = {part: sum(name.startswith(part) for name in names) for part in PART_PREFIXES}
    return {part: count for part, count in counts.items() if count}


def _count_dtypes(header: Header) -> dict[str, DtypeCount]:
    result: dict[str, DtypeCount] = {}
    for info in header.tensors.values():
        before = result.get(info.dtype, DtypeCount(0, 0, 0))
        result[info.dtype] = DtypeCount(before.tensors + 1, before.elements + info.elements, before.size_bytes + info.size_bytes)
    return dict(sorted(result.items()))


def _notes(found: Found, prefix: str) -> tuple[str, ...]:
    if found.kind == "controlnet" and prefix:
        return (*found.notes, f"its names begin with '{prefix}': ComfyUI loads ControlNets only without a prefix")
    return found.notes
