"""Loading a transformer as BF16, whatever it was saved in, and saying plainly what its saved form has cost.

FP16 is the trap: a transformer saved in FP16 and trained from in that dtype overflows, gradients become NaN, a gradient scaler then skips
every step, and the saved weights equal the initial ones. BF16 has the range of FP32. Matrices saved in 8-bit floats stay in
their 8 bits in memory and give their BF16 numbers when they are read (held.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..progress import NO_PROGRESS, Progress
from .dequantise import Tally, load_bf16, load_held
from .fingerprint import file_fingerprint
from .header import Header, printable, read_header
from .held import Held, Stored, can_be_held, gathered
from .identify import FileReport, identify, own_names
from .kinds import is_part
from .names import bfl_map, diffusers_map, fuse, require_names, with_scale_names
from .quantisation import FLOAT_DTYPES, FP8_NAMES, require_readable
from .values import ValueCounts, describe_counts

CONVERSION_VERSION = 1
"""Part of every loaded transformer's fingerprint: raise it when the same file would give other BF16 numbers."""


@dataclass(frozen=True)
class PrecisionReport:
    """What became of a file's numbers on their way to BF16."""

    path: Path
    tensors: dict[str, int]
    """{stored dtype: tensors turned into BF16}."""
    counts: dict[str, ValueCounts]
    """{stored dtype: classes of the stored values}."""
    packing: str
    """The 8-bit form, as `FileReport.fp8`."""
    scaled: int
    """Weights that were multiplied by their scale."""
    used_up: int
    """Scales, input scales and markers that are gone, because their work is done."""
    other_parts: dict[str, int]
    """{prefix: tensors} of other models in the same file, which were left alone."""

    @property
    def changed(self) -> bool:
        """Whether anything was not BF16 already."""
        return set(self.tensors) != {"BF16"}

    def explanation(self) -> str:
        """Plain words for a log or a terminal."""
        lines = [line for line in (_already(self), _half(self), _eight_bits(self), _wide(self), _other_parts(self)) if line]
        return "\n".join([f"{self.path.name}:", *lines])

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        counts = {dtype: vars(count) for dtype, count in self.counts.items()}
        return {**vars(self), "path": str(self.path), "counts": counts}


@dataclass(frozen=True)
class LoadedTransformer:
    """A transformer out of a file: BF16 tensors in BFL names, some of them perhaps held in 8 bits (held.HeldWeights)."""

    weights: Mapping[str, Tensor]
    report: PrecisionReport
    metadata: dict[str, str]


def load_transformer_weights(path: str | Path, progress: Progress = NO_PROGRESS) -> LoadedTransformer:
    """Loads a FLUX transformer (BFL or diffusers names, any prefix; BF16, FP16, FP32, 8-bit floats) as BF16 in BFL names.

    Matrices of blocks that were saved in 8-bit floats are held as they are.

    Raises:
        InputError: no FLUX transformer, missing or unknown tensors, a packing that cannot be read, or values that are not finite.
    """
    header, found = require_transformer_file(path)
    sources = _sources(header, found)
    tally = Tally()
    weights = _load_all(header, found, sources, tally, progress)
    tally.require_finite(header)
    return LoadedTransformer(weights, precision_report(found, tally), header.metadata)


def require_transformer_file(path: str | Path) -> tuple[Header, FileReport]:
    """A file's header and what it tells, without reading a weight: enough to refuse a wrong file before any work.

    Raises:
        InputError: a damaged file, no FLUX transformer, or a packing that cannot be read.
    """
    header = read_header(path)
    found = identify(header)
    _require_flux(found)
    require_readable(header, found.quantisation)
    return header, found


def loaded_fingerprint(path: str | Path, cache_folder: str | Path, progress: Progress = NO_PROGRESS) -> str:
    """Stands for the BF16 weights that `load_transformer_weights` makes of a file. The file is read once and then remembered.

    Raises:
        InputError: the file is missing or damaged.
    """
    parts = ["transformer as BF16", CONVERSION_VERSION, file_fingerprint(path, cache_folder, progress)]
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()


def precision_report(found: FileReport, tally: Tally) -> PrecisionReport:
    """The report of a file whose own tensors have all gone through `tally`."""
    packing = found.quantisation
    counts = dict(tally.counts)
    return PrecisionReport(
        found.path, dict(tally.tensors), counts, packing.kind, len(packing.scales), len(packing.helpers), found.other_parts
    )


def require_float_tensors(header: Header, names: list[str]) -> None:
    """Raises:
    InputError: a tensor holds no floating-point numbers.
    """
    odd = [f"{printable(name)} ({header.tensors[name].dtype})" for name in names if header.tensors[name].dtype not in FLOAT_DTYPES]
    if odd:
        remedy = "Use another edition of the file."
        raise InputError(str(header.path), expected=f"weights in {', '.join(FLOAT_DTYPES)}", found=", ".join(odd[:20]), remedy=remedy)


def what_it_is(found: FileReport) -> str:
    """A few words: 'flux controlnet (XLabs)', or the first names of an unknown file."""
    if found.kind == "unknown":
        return "unknown tensors: " + (", ".join(printable(name, 80) for name in found.first_names) or "none at all")
    return f"{found.architecture} {found.kind} ({found.layout})"


def _require_flux(found: FileReport) -> None:
    if (found.kind, found.architecture) == ("transformer", "flux"):
        return
    remedy = "Choose a FLUX transformer (in ComfyUI's folder diffusion_models, unet or checkpoints)."
    raise InputError(str(found.path), expected="a FLUX transformer", found=what_it_is(found), remedy=remedy)


def _sources(header: Header, found: FileReport) -> dict[str, tuple[str, ...]]:
    """{BFL name: the file's tensors that make it up}; everything in the file is accounted for."""
    helpers = found.quantisation.helpers
    stored = {name: where for name, where in own_names(header.tensors, found.prefix).items() if where not in helpers}
    _require_no_strangers(header, found, set(stored.values()))
    require_float_tensors(header, list(stored.values()))
    if found.layout == "BFL":
        stored = {with_scale_names(name): where for name, where in stored.items()}
        pieces: dict[str, tuple[str, ...]] = {name: (name,) for name in bfl_map(stored).pieces()}
    else:
        pieces = diffusers_map(stored).pieces()
    require_names((part for parts in pieces.values() for part in parts), stored, str(header.path))
    return {name: tuple(stored[part] for part in parts) for name, parts in pieces.items()}


def _require_no_strangers(header: Header, found: FileReport, own: set[str]) -> None:
    helpers = found.quantisation.helpers
    strangers = sorted(name for name in header.tensors if name not in own and name not in helpers and not is_part(name))
    if strangers:
        names = ", ".join(printable(name) for name in strangers[:20])
        expected = f"only tensors whose names begin with '{found.prefix}', beside an autoencoder and text encoders"
        remedy = "Remove them from the file."
        raise InputError(str(header.path), expected=expected, found=f"{len(strangers)} others: {names}", remedy=remedy)


def _load_all(
    header: Header, found: FileReport, sources: dict[str, tuple[str, ...]], tally: Tally, progress: Progress
) -> Mapping[str, Tensor]:
    weights: dict[str, Stored] = {}
    progress.start(len(sources), "tensor")
    try:
        with header.path.open("rb") as file:
            for name, parts in sources.items():
                load: Callable[..., Stored] = load_held if _stays_in_8_bits(header, name, parts) else load_bf16
                weights[name] = _fused(name, [load(file, header, part, found.quantisation, tally, progress) for part in parts], found.layout)
                progress.advance(len(weights))
    finally:
        progress.finish()
    return gathered(weights)


def _stays_in_8_bits(header: Header, name: str, parts: tuple[str, ...]) -> bool:
    """A matrix of a block, all of it in one of the 8-bit floats."""
    dtypes = {header.tensors[part].dtype for part in parts}
    return can_be_held(name, header.tensors[parts[0]].shape) and len(dtypes) == 1 and dtypes <= FP8_NAMES.keys()


def _fused(name: str, pieces: Sequence[Stored], layout: str) -> Stored:
    if layout != "diffusers":
        return pieces[0]
    plain = [piece for piece in pieces if isinstance(piece, Tensor)]
    return fuse(name, plain) if plain else _fused_in_8_bits([piece for piece in pieces if isinstance(piece, Held)])


def _fused_in_8_bits(pieces: Sequence[Held]) -> Held:
    """One weight of several below each other, each row with a scale of its own."""
    stored = torch.cat([piece.stored.view(torch.uint8) for piece in pieces]).view(pieces[0].stored.dtype)
    if all(piece.scale is None for piece in pieces):
        return Held(stored)
    rows = [torch.ones(piece.shape[0], 1) if piece.scale is None else piece.scale.expand(piece.shape[0], 1) for piece in pieces]
    return Held(stored, torch.cat(rows))


def _already(report: PrecisionReport) -> str:
    count = report.tensors.get("BF16", 0)
    return "" if not count else f"  {count} tensors are BF16 already." + ("" if report.changed else " Nothing was changed.")


def _half(report: PrecisionReport) -> str:
    if "F16" not in report.tensors:
        return ""
    return (
        f"  {report.tensors['F16']} tensors were FP16 and are now BF16. Why: FP16 ends at 65504, and below 0.00006 it loses precision "
        "down to zero. In training, the sums inside the model and its gradients leave that range and become infinite or NaN; the usual "
        "remedy skips every such step, so that the trained file equals the initial one. BF16 has the range of FP32.\n"
        f"  What FP16 has already cost cannot be brought back: {describe_counts(report.counts['F16'], 'F16')}. "
        "Where there is an edition saved in BF16, prefer it."
    )


def _eight_bits(report: PrecisionReport) -> str:
    count = report.tensors.get("F8_E4M3", 0) + report.tensors.get("F8_E5M2", 0)
    scales = f" {report.scaled} weights were multiplied by their scales;" if report.scaled else ""
    gone = f" {report.used_up} scales and markers are no longer needed." if report.used_up else ""
    if not count:
        return f" {scales}{gone}" if gone else ""
    return (
        f"  {count} tensors were 8-bit floats ({report.packing}) and are now BF16.{scales}{gone} They stay as coarse as 8 bits are "
        "(2 or 3 bits of fraction, where BF16 has 7): where there is an edition in BF16, prefer it. The blocks' matrices stay in their 8 bits "
        "in memory while a training runs on them, which changes no number."
    )


def _wide(report: PrecisionReport) -> str:
    count = report.tensors.get("F32", 0) + report.tensors.get("F64", 0)
    return f"  {count} tensors were FP32 or FP64 and were rounded to BF16, which has the same range." if count else ""


def _other_parts(report: PrecisionReport) -> str:
    parts = ", ".join(f"{prefix}* ({count} tensors)" for prefix, count in report.other_parts.items())
    return f"  Other models in the same file were left as they are: {parts}." if parts else ""
