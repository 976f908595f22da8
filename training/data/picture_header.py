"""What a picture file says of itself before it is decoded: size, orientation, transparency, and whether it is all there.

OpenCV fills the missing part of a cut-off file with grey and says nothing, and it allocates whatever size a header claims; so both
are judged here first, from the bytes alone. The content decides the format, not the file's ending.
Sources: PNG (W3C, 2003), JPEG (ITU-T T.81 annex B), WebP container (RFC 9649), TIFF 6.0, Exif 2.3, BMP (Microsoft's BITMAPINFOHEADER).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

PIXELS_LIMIT = 200_000_000
"""Larger pictures are refused before they are decoded: at this size one takes 0.6 GB as 8-bit RGB."""

_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_END = 0xD9
# Inside compressed data 0xFF is followed by 0x00 or by a restart marker; anything else begins a segment.
# Any number of 0xff may stand before a marker. One alone is asked for, because a search for a single byte is ten times as fast as one for a pattern.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])", re.DOTALL)
_TIFF_FORMATS = {1: "B", 3: "H", 4: "I"}
_TIFF_FLOAT = 3
_TIFF_ASSOCIATED, _TIFF_UNASSOCIATED = 1, 2


class UnreadablePictureError(ValueError):
    """A picture cannot be used; the text says why and fits behind a file's name."""


class VanishedPictureError(UnreadablePictureError):
    """A picture that was looked at before is gone or has changed: nothing is known of its content any more."""


@dataclass(frozen=True)
class PictureHeader:
    """A picture as it is stored, before it is turned upright."""

    format: str
    width_px: int
    height_px: int
    orientation: int = 1
    """The Exif orientation, 1 to 8, that is still to be applied after OpenCV has decoded the file."""
    transparent_samples: tuple[int, ...] | None = None
    """The one grey or RGB value that a PNG declares transparent, in the file's own bit depth."""
    sample_bits: int = 8
    is_premultiplied: bool = False
    """Whether OpenCV hands out colours that are already multiplied by alpha."""

    @property
    def upright_px(self) -> tuple[int, int]:
        """Width and height after it has been turned upright."""
        return (self.height_px, self.width_px) if self.orientation >= 5 else (self.width_px, self.height_px)


def read_picture_header(data: bytes) -> PictureHeader:
    """Reads the header of a PNG, JPEG, WebP, BMP or TIFF file and checks that the file is complete.

    Raises:
        UnreadablePictureError: another format, a damaged or cut-off file, or a size beyond PIXELS_LIMIT.
    """
    if not data:
        raise UnreadablePictureError("is empty (0 bytes)")
    try:
        header = _reader(data)(data)
    except (struct.error, IndexError) as error:
        raise UnreadablePictureError("is cut off inside its header") from error
    if header.width_px < 1 or header.height_px < 1:
        raise UnreadablePictureError(f"claims a size of {header.width_px} x {header.height_px} pixels")
    if header.width_px * header.height_px > PIXELS_LIMIT:
        raise UnreadablePictureError(f"has {header.width_px} x {header.height_px} pixels, more than the limit of {PIXELS_LIMIT:,}")
    return header


def _reader(data: bytes) -> Callable[[bytes], PictureHeader]:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp
    if data.startswith((b"II*\0", b"MM\0*")):
        return _tiff
    if data.startswith(b"BM"):
        return _bmp
    raise UnreadablePictureError("is not a PNG, JPEG, WebP, BMP or TIFF picture, whatever its name says")


def _png(data: bytes) -> PictureHeader:
    width = height = bits = colour_type = 0
    orientation, transparent = 1, None
    for kind, body in _png_chunks(data):
        if kind == b"IHDR":
            width, height, bits, colour_type = struct.unpack(">IIBB", body[:10])
        elif kind == b"tRNS" and colour_type in (0, 2):
            transparent = struct.unpack(f">{len(body) // 2}H", body)
        elif kind == b"eXIf":
            orientation = _exif_orientation(body)
    return PictureHeader("PNG", width, height, orientation, transparent, bits)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position, kind = 8, b""
    while kind != b"IEND":
        (length,) = struct.unpack_from(">I", data, position) if position + 12 <= len(data) else (len(data),)
        if position + 12 + length > len(data):
            raise UnreadablePictureError("is truncated: the PNG ends before its last chunk")
        kind, body = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, position + 8 + length)
        # A capital first letter marks the chunks that the picture cannot do without.
        if kind[:1].isupper() and zlib.crc32(body, zlib.crc32(kind)) != checksum:
            raise UnreadablePictureError(f"is damaged: the PNG's {kind.decode('latin-1')} data does not match its checksum")
        yield kind, body
        position += 12 + length


def _jpeg(data: bytes) -> PictureHeader:
    position, orientation, size = 2, 1, (0, 0)
    while match := _JPEG_MARKER.search(data, position):
        marker = match[1][0]
        if marker == _JPEG_END:
            return PictureHeader("JPEG", size[0], size[1], orientation)
        (length,) = struct.unpack_from(">H", data, match.end())
        body = data[match.end() + 2 : match.end() + length]
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", body, 1)
            size = (width, height)
        elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
            orientation = _exif_orientation(body)
        position = match.end() + length
    raise UnreadablePictureError("is truncated: the JPEG has no end marker")


def _webp(data: bytes) -> PictureHeader:
    (size_bytes,) = struct.unpack_from("<I", data, 4)
    if 8 + size_bytes > len(data):
        raise UnreadablePictureError("is truncated: the WebP ends before the size that it states")
    position, size, orientation = 12, (0, 0), 1
    while position + 8 <= 8 + size_bytes:
        kind, length = data[position : position + 4], struct.unpack_from("<I", data, position + 4)[0]
        body = data[position + 8 : position + 8 + length]
        if kind == b"EXIF":
            orientation = _exif_orientation(body)
        elif size == (0, 0):
            size = _webp_size(kind, body)
        position += 8 + length + length % 2
    return PictureHeader("WebP", size[0], size[1], orientation)


def _webp_size(kind: bytes, body: bytes) -> tuple[int, int]:
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", body, 1)
        return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    return 0, 0


def _bmp(data: bytes) -> PictureHeader:
    pixels_start, header_bytes = struct.unpack_from("<I", data, 10)[0], struct.unpack_from("<I", data, 14)[0]
    if header_bytes == 12:
        (width, height, _, bits), compression = struct.unpack_from("<HHHH", data, 18), 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    row_bytes = (width * bits + 31) // 32 * 4
    is_compressed = compression in (1, 2, 4, 5)
    if not is_compressed and pixels_start + row_bytes * abs(height) > len(data):
        raise UnreadablePictureError("is truncated: the BMP ends before its last row")
    return PictureHeader("BMP", width, abs(height))


def _tiff(data: bytes) -> PictureHeader:
    tags = _tiff_tags(data)
    starts, lengths = tags.get(273, tags.get(324, ())), tags.get(279, tags.get(325, ()))
    if not starts or any(start + length > len(data) for start, length in zip(starts, lengths, strict=False)):
        raise UnreadablePictureError("is truncated: the TIFF's pixels lie beyond its end")
    bits, samples = max(tags.get(258, (1,))), tags.get(277, (1,))[0]
    if bits > 16 or _TIFF_FLOAT in tags.get(339, ()):
        raise UnreadablePictureError(f"is a TIFF of {bits}-bit or floating-point samples; save it with 8 or 16 bits")
    if samples == 2:
        raise UnreadablePictureError("is a grey TIFF with transparency, which OpenCV cannot read; save it as PNG")
    extra = tags.get(338, (0,))[0]
    # libtiff multiplies 8-bit colours by a separate alpha; 16-bit samples come as they are stored. OpenCV has applied the orientation.
    is_premultiplied = extra == _TIFF_ASSOCIATED or (extra == _TIFF_UNASSOCIATED and bits <= 8)
    width, height = tags.get(256, (0,))[0], tags.get(257, (0,))[0]
    if tags.get(274, (1,))[0] >= 5:
        width, height = height, width
    return PictureHeader("TIFF", width, height, 1, None, bits, is_premultiplied)


def _tiff_tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """Whole-number tags of the first directory of a TIFF structure."""
    order = "<" if data[:2] == b"II" else ">"
    (directory,) = struct.unpack_from(order + "I", data, 4)
    (entries,) = struct.unpack_from(order + "H", data, directory)
    tags: dict[int, tuple[int, ...]] = {}
    for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
        tag, kind, count = struct.unpack_from(order + "HHI", data, entry)
        if kind not in _TIFF_FORMATS or count * struct.calcsize(_TIFF_FORMATS[kind]) > len(data):
            continue
        layout = f"{order}{count}{_TIFF_FORMATS[kind]}"
        start = entry + 8 if struct.calcsize(layout) <= 4 else struct.unpack_from(order + "I", data, entry + 8)[0]
        tags[tag] = struct.unpack_from(layout, data, start)
    return tags


def _exif_orientation(body: bytes) -> int:
    """1 to 8; 1 if the block is damaged or says nothing, since a picture is not unreadable for that."""
    data = body.removeprefix(b"Exif\0\0")
    try:
        (orientation,) = _tiff_tags(data).get(274, (1,))
    except (struct.error, ValueError):
        return 1
    return orientation if 1 <= orientation <= 8 else 1
