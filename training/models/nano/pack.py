"""Writes the nano's transformer and text encoder, as the package ships them, from the running average of a training.

    python -m graft.training.models.nano.pack WORK_FOLDER OUTPUT_FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import Tensor

from ...files.header import read_header
from ...files.tensors import read_tensors
from ...files.write import write_safetensors
from . import TEXT_ENCODER_FILE, TRANSFORMER_FILE

PARTS = {
    "transformer.": (TRANSFORMER_FILE, "Graft nano FLUX", "flux-1-dev"),
    "text.": (TEXT_ENCODER_FILE, "Graft nano text encoder", "graft-nano-text"),
}


def pack_checkpoint(checkpoint: Path, folder: Path) -> None:
    """Splits `checkpoint` by part, casts to BF16 and writes each file with its metadata."""
    averaged = {name.removeprefix("ema."): tensor for name, tensor in read_tensors(checkpoint).items() if name.startswith("ema.")}
    steps = read_header(checkpoint).metadata["step"]
    for prefix, (name, title, architecture) in PARTS.items():
        tensors: dict[str, Tensor] = {key.removeprefix(prefix): value.bfloat16() for key, value in averaged.items() if key.startswith(prefix)}
        metadata = {
            "format": "pt",
            "modelspec.sai_model_spec": "1.0.0",
            "modelspec.title": title,
            "modelspec.architecture": architecture,
            "modelspec.license": "Apache-2.0",
            "modelspec.resolution": "128x128",
            "graft.steps": steps,
        }
        write_safetensors(folder / name, tensors, metadata)


def read_packed(folder: Path) -> dict[str, Tensor]:
    """The weights of `pack_checkpoint`'s files under the names of the training, in fp32."""
    return {
        prefix + name: tensor.float() for prefix, (file, _, _) in PARTS.items() for name, tensor in read_tensors(folder / file).items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work_folder", type=Path)
    parser.add_argument("output_folder", type=Path)
    options = parser.parse_args()
    pack_checkpoint(options.work_folder / "checkpoint.safetensors", options.output_folder)


if __name__ == "__main__":
    main()
