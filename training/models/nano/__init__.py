"""The built-in nano FLUX: a few million parameters in the real layout, with a tiny autoencoder and text encoder of its own.

It makes the main job run with no download and no GPU, and every test real. weights/README.md tells how the files were made and what they reach.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InputError
from ...files.fingerprint import fingerprint
from ...files.tensors import read_tensors
from .autoencoder import Autoencoder
from .text_encoder import TextEncoder

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
TRANSFORMER_FILE, AUTOENCODER_FILE, TEXT_ENCODER_FILE = "nano_flux.safetensors", "nano_autoencoder.safetensors", "nano_text_encoder.safetensors"


@dataclass(frozen=True, eq=False)
class Nano:
    """All three parts, each with the fingerprint of its file's tensors."""

    transformer: dict[str, Tensor]
    """BF16, in original FLUX names."""
    transformer_fingerprint: str
    text_encoder: TextEncoder
    text_encoder_fingerprint: str
    autoencoder: Autoencoder
    autoencoder_fingerprint: str


@lru_cache(maxsize=1)
@torch.inference_mode(False)
def load_nano() -> Nano:
    """Reads the built-in model; the same object every time. The encoders compute in fp32.

    Raises:
        InputError: the installation lacks its files.
    """
    transformer, autoencoder, text_encoder = (_read(name) for name in (TRANSFORMER_FILE, AUTOENCODER_FILE, TEXT_ENCODER_FILE))
    return Nano(
        transformer=transformer,
        transformer_fingerprint=fingerprint(transformer),
        text_encoder=TextEncoder.from_weights({name: tensor.float() for name, tensor in text_encoder.items()}),
        text_encoder_fingerprint=fingerprint(text_encoder),
        autoencoder=Autoencoder.from_weights({name: tensor.float() for name, tensor in autoencoder.items()}),
        autoencoder_fingerprint=fingerprint(autoencoder),
    )


def _read(name: str) -> dict[str, Tensor]:
    path = WEIGHTS_FOLDER / name
    if not path.is_file():
        raise InputError(
            "built-in nano FLUX", expected=f"the file {name} in the installed package", found="no such file", remedy="Install the pack again."
        )
    return read_tensors(path)
