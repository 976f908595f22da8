"""PNG files that carry their workflow, as ComfyUI's do: dragged onto its canvas they open as the graph that made them."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from torch import Tensor

SIGNATURE_BYTES = 8
HEADER_CHUNK_BYTES = 25


def png_bytes(picture: Tensor, texts: Mapping[str, Any], compression: int = 4) -> bytes:
    """A picture [H,W,3] in 0..1 as an 8-bit PNG (cut off, not rounded, as ComfyUI does), each of `texts` as JSON in a text chunk."""
    pixels = (picture.float().cpu().numpy() * 255.0).clip(0, 255).astype(np.uint8)
    encoded = cv2.imencode(".png", pixels[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, compression])[1].tobytes()
    place = SIGNATURE_BYTES + HEADER_CHUNK_BYTES
    chunks = b"".join(_text_chunk(key, json.dumps(value)) for key, value in texts.items())
    return encoded[:place] + chunks + encoded[place:]


def _text_chunk(key: str, text: str) -> bytes:
    """PNG specification 11.3.3.2: keyword, a zero byte, Latin-1 text (json.dumps writes ASCII)."""
    data = key.encode("latin-1") + b"\0" + text.encode("latin-1")
    return struct.pack(">I", len(data)) + b"tEXt" + data + struct.pack(">I", zlib.crc32(b"tEXt" + data))
