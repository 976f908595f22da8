"""Rewriting a file in BF16, tensor by tensor: memory does not depend on its size, and the new file appears whole or not at all."""

from __future__ import annotations

import json
import os
from io import BufferedReader, BufferedWriter
from pathlib import Path

from ..errors import InputError
from ..progress import NO_PROGRESS, Progress
from .dequantise import Tally, bf16_chunks
from .header import Header, TensorInfo, read_header
from .identify import FileReport, identify, own_names
from .precision import PrecisionReport, precision_report, what_it_is
from .quantisation import FLOAT_DTYPES, require_readable
from .tensors import CHUNK_BYTES, read_bytes, tensor_bytes
from .write import header_bytes, lay_out, replaced_when_complete, require_free_space, require_writable_folder

# What the metadata of the source says only of its own bytes.
_NO_LONGER_TRUE = ("modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")


def convert_to_bf16(
    source: str | Path, target: str | Path, progress: Progress = NO_PROGRESS, overwrite: bool = False
) -> PrecisionReport:
    """Writes the source's tensors to the target under the same names in BF16; 8-bit weights are multiplied by their scales, which go.

    Single numbers (a LoRA's alpha) and integers keep their dtype; other models in a checkpoint of several stay as they are.

    Raises:
        InputError: the source cannot be read, is of no known kind, or holds values that are not finite; the target exists, cannot be
            written, or the disk has no room. Nothing is left behind then.
    """
    target = Path(target)
    header = read_header(source)
    found = identify(header)
    _require_known(found)
    require_readable(header, found.quantisation)
    _require_target(target, header.path, overwrite)
    converted, infos = _plan(header, found)
    beginning = header_bytes(infos, _metadata(found, converted))
    require_free_space(target.parent, len(beginning) + sum(info.size_bytes for info in infos.values()), "target")
    tally = Tally()
    with replaced_when_complete(target) as aside:
        _write(header, found, aside, beginning, infos, converted, tally, progress)
        tally.require_finite(header)
    return precision_report(found, tally)


def _plan(header: Header, found: FileReport) -> tuple[frozenset[str], dict[str, TensorInfo]]:
    """The names that become BF16, and where all tensors of the new file lie."""
    own = set(own_names(header.tensors, found.prefix).values())
    gone = own & found.quantisation.helpers
    converted = frozenset(name for name in own - gone if _becomes_bf16(header.tensors[name]))
    kept = {name: info for name, info in header.tensors.items() if name not in gone}
    return converted, lay_out({name: ("BF16" if name in converted else info.dtype, info.shape) for name, info in kept.items()})


def _becomes_bf16(info: TensorInfo) -> bool:
    return info.dtype in FLOAT_DTYPES and (info.shape != () or info.dtype.startswith("F8_"))


def _write(
    header: Header, found: FileReport, aside: Path, beginning: bytes, infos: dict[str, TensorInfo], converted: frozenset[str],
    tally: Tally, progress: Progress,
) -> None:  # fmt: skip
    progress.start(len(infos), "tensor")
    try:
        with header.path.open("rb") as file, aside.open("wb") as output:
            output.write(beginning)
            for done, name in enumerate(infos, start=1):
                if name in converted:
                    _write_converted(file, output, header, name, found, tally, progress)
                else:
                    _copy(file, output, header, name, progress)
                progress.advance(done)
    finally:
        progress.finish()


def _write_converted(
    file: BufferedReader, output: BufferedWriter, header: Header, name: str, found: FileReport, tally: Tally, progress: Progress
) -> None:
    for chunk in bf16_chunks(file, header, name, found.quantisation, tally, progress):
        # After the first bad tensor the rest is only read, so that all bad ones can be named.
        if not tally.bad:
            output.write(tensor_bytes(chunk))


def _copy(file: BufferedReader, output: BufferedWriter, header: Header, name: str, progress: Progress) -> None:
    info = header.tensors[name]
    for start in range(info.start, info.end, CHUNK_BYTES):
        progress.check_interrupt()
        output.write(tensor_bytes(read_bytes(file, header, start, min(CHUNK_BYTES, info.end - start))))


def _metadata(found: FileReport, converted: frozenset[str]) -> dict[str, str]:
    kept = {name: value for name, value in found.metadata.items() if name not in (*_NO_LONGER_TRUE, "_quantization_metadata")}
    declared = _declarations_of_other_parts(found)
    if declared:
        kept["_quantization_metadata"] = declared
    kept["graft.converted_to"] = "BF16"
    kept["graft.converted_from"] = json.dumps(
        {"dtypes": sorted(found.dtypes), "fp8": found.fp8, "tensors": len(converted), "scales": len(found.quantisation.scales)}
    )
    return kept


def _declarations_of_other_parts(found: FileReport) -> str:
    """What `_quantization_metadata` says of models in the same file that stay as they are."""
    value = json.loads(found.metadata.get("_quantization_metadata", "{}"))
    stays = {name: text for name, text in (value.get("layers") or {}).items() if name.startswith(tuple(found.other_parts))}
    return json.dumps({**value, "layers": stays}) if stays else ""


def _require_known(found: FileReport) -> None:
    if found.kind == "unknown":
        remedy = "Only files whose parts are known can be rewritten without harm."
        raise InputError(str(found.path), expected="a model of a known kind", found=what_it_is(found), remedy=remedy)


def _require_target(target: Path, source: Path, overwrite: bool) -> None:
    if target.is_dir():
        raise InputError("target", expected="a file's path", found=f"the folder {target}", remedy="Add a file name.")
    if target.exists() and not overwrite:
        same = os.path.samefile(target, source)
        found = f"{target}, which is the source itself" if same else f"{target}, which exists"
        raise InputError("target", expected="a path where nothing lies", found=found, remedy="Choose another, or overwrite it (--overwrite).")
    require_writable_folder(target.parent, "target")
