"""From the bytes of a picture file to an upright RGB square: what the network, the hint and the viewer all see."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError
from ..opencv import cv2
from .picture_header import PictureHeader, UnreadablePictureError, read_picture_header

FILE_LIMIT_BYTES = 2**30


def read_picture(path: str | Path, resolution_px: int) -> np.ndarray:
    """One picture file as a square: upright, on white where it is transparent, its centre square scaled to `resolution_px`.

    Returns:
        uint8 RGB [resolution_px, resolution_px, 3].

    Raises:
        InputError: the file cannot be read or is no whole PNG, JPEG, WebP, BMP or TIFF picture.
    """
    try:
        return fit_square(decode_picture(read_file(Path(path))), resolution_px)
    except UnreadablePictureError as error:
        raise InputError(
            str(path), expected="a whole picture", found=f"a file that {error}", remedy="Replace it by an intact copy or remove it.",
        ) from error  # fmt: skip


def read_file(path: Path) -> bytes:
    """The bytes of a file. Read by Python, because cv2.imread cannot open every name on Windows.

    Raises:
        UnreadablePictureError: it cannot be opened, or is larger than FILE_LIMIT_BYTES.
    """
    try:
        if path.stat().st_size > FILE_LIMIT_BYTES:
            raise UnreadablePictureError(f"is larger than {FILE_LIMIT_BYTES:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise UnreadablePictureError(f"cannot be opened ({error.strerror})") from error


def decode_picture(data: bytes) -> np.ndarray:
    """Decodes a picture file of any mode: grey, palette, transparent (laid on white), 16-bit, CMYK; turned upright by its Exif tag.

    Colour profiles are not applied: numbers are taken as sRGB.

    Returns:
        uint8 RGB [H, W, 3].

    Raises:
        UnreadablePictureError: no whole picture (see `read_picture_header`), or its data cannot be decoded.
    """
    header = read_picture_header(data)
    stored = _stored(data, header)
    alpha = _alpha(stored, header)
    rgb = _rgb(_eight_bits(stored))
    return _upright(rgb if alpha is None else _on_white(rgb, _eight_bits(alpha), header.is_premultiplied), header.orientation)


def decode_alpha(data: bytes) -> np.ndarray:
    """How opaque a picture is, uint8 [H, W], turned upright as `decode_picture` does; 255 all over where its file has no transparency.

    Raises:
        UnreadablePictureError: as `decode_picture`.
    """
    header = read_picture_header(data)
    stored = _stored(data, header)
    alpha = _alpha(stored, header)
    opaque = np.full(stored.shape[:2], 255, np.uint8) if alpha is None else _eight_bits(alpha)
    return _upright(opaque, header.orientation)


def _stored(data: bytes, header: PictureHeader) -> np.ndarray:
    """A picture as it lies in its file: uint8 or uint16, of any number of channels, not yet turned."""
    # JPEG has no transparency and OpenCV turns CMYK into colours only when asked for them; all else is taken as it is stored.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION if header.format == "JPEG" else cv2.IMREAD_UNCHANGED
    try:
        stored = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise UnreadablePictureError("is damaged: its data cannot be decoded") from error
    if stored is None or stored.dtype not in (np.uint8, np.uint16):
        raise UnreadablePictureError("is damaged: its data cannot be decoded")
    return stored


def fit_square(picture: np.ndarray, resolution_px: int) -> np.ndarray:
    """Scales a picture to cover a square and crops it at the centre.

    Cropping comes first, which gives the same square, keeps the proportions exactly, and costs nothing for very long pictures.
    Smaller by area averages, larger by Lanczos.

    Args:
        picture: uint8 RGB [H, W, 3].
        resolution_px: side of the square.

    Returns:
        uint8 RGB [resolution_px, resolution_px, 3].
    """
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return scaled(np.ascontiguousarray(picture[top : top + side, left : left + side]), (resolution_px, resolution_px))


def scaled(picture: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """A picture in another width and height: smaller by area averages, larger (in either direction) by Lanczos."""
    height, width = picture.shape[:2]
    if (width, height) == tuple(size_px):
        return picture
    method = cv2.INTER_AREA if width >= size_px[0] and height >= size_px[1] else cv2.INTER_LANCZOS4
    return cv2.resize(picture, size_px, interpolation=method)


def _eight_bits(samples: np.ndarray) -> np.ndarray:
    if samples.dtype == np.uint8:
        return samples
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _rgb(samples: np.ndarray) -> np.ndarray:
    if samples.ndim == 2 or samples.shape[2] == 1:
        return np.repeat(samples.reshape(*samples.shape[:2], 1), 3, axis=2)
    # As samples[:, :, 2::-1], in a tenth of the time: numpy turns the channels of each pixel round one by one.
    return cv2.cvtColor(samples, cv2.COLOR_BGRA2RGB if samples.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _alpha(stored: np.ndarray, header: PictureHeader) -> np.ndarray | None:
    """[H, W] in the dtype of `stored`, or None where the picture is opaque."""
    if stored.ndim == 3 and stored.shape[2] == 4:
        return stored[:, :, 3]
    if header.transparent_samples is None:
        return None
    top = np.iinfo(stored.dtype).max
    scale = top // (2**header.sample_bits - 1)
    colour = np.array(header.transparent_samples[::-1]) * scale
    matches = stored == colour
    return np.where(matches if stored.ndim == 2 else matches.all(axis=2), 0, top).astype(stored.dtype)


def _on_white(rgb: np.ndarray, alpha: np.ndarray, is_premultiplied: bool) -> np.ndarray:
    cover = alpha[:, :, None].astype(np.uint16)
    # 255 * 255 + 127 still fits into 16 bits.
    colour = rgb * np.uint16(255) if is_premultiplied else rgb * cover
    return ((np.minimum(colour, 255 * cover) + 255 * (255 - cover) + 127) // 255).astype(np.uint8)


def _upright(picture: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an Exif orientation: 2 to 4 mirror or turn by 180 degrees, 5 to 8 also exchange the sides."""
    if orientation >= 5:
        picture = picture.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return np.ascontiguousarray(picture)
