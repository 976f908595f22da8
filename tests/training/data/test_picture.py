"""Pictures of every mode against Pillow, and files that must not be believed."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from graft.training.data.picture import decode_picture, fit_square, read_picture
from graft.training.data.picture_header import PIXELS_LIMIT, UnreadablePictureError, read_picture_header
from graft.training.errors import InputError
from PIL import Image, ImageOps

WIDTH, HEIGHT = 48, 32
NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
RGB = Image.fromarray(NOISE[:, :, :3])
RGBA = Image.fromarray(NOISE)
GREY16 = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
PALETTE = RGB.quantize(16)
ENDINGS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "BMP": "bmp", "TIFF": "tif"}


def save(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def seen_by_pillow(data: bytes) -> np.ndarray:
    """Upright RGB on white."""
    picture = Image.open(io.BytesIO(data))
    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.asarray(picture.convert("RGB")).astype(int)


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


MODES: dict[str, bytes] = {
    "png rgb": save(RGB, "PNG"),
    "png palette": save(PALETTE, "PNG"),
    "png palette with transparency": save(PALETTE, "PNG", transparency=3),
    "png grey": save(RGB.convert("L"), "PNG"),
    "png grey with alpha": save(RGBA.convert("LA"), "PNG"),
    "png grey with a transparent value": save(RGB.convert("L"), "PNG", transparency=int(np.asarray(RGB.convert("L"))[0, 0])),
    "png rgb with a transparent colour": save(RGB, "PNG", transparency=tuple(int(value) for value in NOISE[0, 0, :3])),
    "png rgba": save(RGBA, "PNG"),
    "png of one bit": save(RGB.convert("1"), "PNG"),
    "png animated": save(RGB, "PNG", save_all=True, append_images=[RGB.rotate(90)]),
    "jpeg": save(RGB, "JPEG"),
    "jpeg progressive": save(RGB, "JPEG", progressive=True),
    "jpeg grey": save(RGB.convert("L"), "JPEG"),
    "jpeg cmyk": save(RGB.convert("CMYK"), "JPEG"),
    "webp": save(RGB, "WEBP"),
    "webp lossless": save(RGB, "WEBP", lossless=True),
    "webp with alpha": save(RGBA, "WEBP", lossless=True),
    "webp with alpha, lossy": save(RGBA, "WEBP"),
    "webp animated": save(RGB, "WEBP", save_all=True, append_images=[RGB.rotate(90)]),
    "bmp": save(RGB, "BMP"),
    "bmp palette": save(PALETTE, "BMP"),
    "bmp of one bit": save(RGB.convert("1"), "BMP"),
    "tiff": save(RGB, "TIFF"),
    "tiff lzw": save(RGB, "TIFF", compression="tiff_lzw"),
    "tiff palette": save(PALETTE, "TIFF"),
    "tiff of one bit": save(RGB.convert("1"), "TIFF"),
    "tiff cmyk": save(RGB.convert("CMYK"), "TIFF"),
    "tiff with alpha": save(RGBA, "TIFF"),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_looks_as_in_pillow(name: str) -> None:
    # One step in 255 for the rounding of CMYK and of lossy decoders.
    picture = decode_picture(MODES[name])
    assert picture.dtype == np.uint8 and picture.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(picture - seen_by_pillow(MODES[name])).max() <= 1


@pytest.mark.parametrize("kind", sorted(ENDINGS.keys() - {"BMP"}))
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_respected(kind: str, orientation: int) -> None:
    data = save(RGB, kind, exif=oriented(orientation))
    picture = decode_picture(data)
    assert picture.shape[:2] == ((HEIGHT, WIDTH) if orientation < 5 else (WIDTH, HEIGHT))
    assert np.abs(picture - seen_by_pillow(data)).max() <= 1


def test_exif_orientation_is_respected_where_opencv_ignores_it() -> None:
    data = save(RGBA, "PNG", exif=oriented(6))
    assert np.array_equal(decode_picture(data), seen_by_pillow(data))


def test_a_damaged_exif_block_does_not_make_a_picture_unreadable() -> None:
    data = save(RGB, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode_picture(data).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(kind: str) -> None:
    picture = decode_picture(save(Image.fromarray(GREY16), kind))
    assert np.array_equal(picture[:, :, 1], np.round(GREY16 / 257).astype(np.uint8))


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_sixteen_bits_with_alpha(ending: str) -> None:
    stored = np.random.default_rng(2).integers(0, 65536, (8, 8, 4), dtype=np.uint16)
    data = cv2.imencode(ending, stored)[1].tobytes()
    cover = stored[:, :, 3:] / 65535
    expected = (stored[:, :, 2::-1] / 65535 * cover + 1 - cover) * 255
    assert np.abs(decode_picture(data) - expected).max() <= 1.5


@pytest.mark.parametrize("name", MODES)
def test_cut_off_files_are_found_out(name: str) -> None:
    data = MODES[name]
    for length in sorted({1, 2, 4, 9, 20, 40, len(data) // 2, len(data) * 9 // 10, len(data) - 3}):
        with pytest.raises(UnreadablePictureError):
            decode_picture(data[:length])


def test_a_tiff_without_its_last_strip_is_found_out() -> None:
    data = cv2.imencode(".tif", NOISE, [cv2.IMWRITE_TIFF_COMPRESSION, 1])[1].tobytes()
    (directory,) = struct.unpack_from("<I", data, 4)
    strip_offsets = data.index(struct.pack("<HH", 273, 4), directory)
    broken = bytearray(data)
    struct.pack_into("<HHII", broken, strip_offsets, 273, 4, 1, len(data) - 100)
    with pytest.raises(UnreadablePictureError, match="truncated"):
        read_picture_header(bytes(broken))


def test_a_jpeg_cut_off_after_its_thumbnail_is_found_out() -> None:
    """The end marker of an embedded thumbnail is not the picture's."""
    exif = Image.Exif()
    body = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0") + save(RGB.resize((8, 8)), "JPEG")
    data = save(RGB, "JPEG", exif=body)
    assert decode_picture(data).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(UnreadablePictureError, match="truncated"):
        decode_picture(data[:-2])


def test_a_jpeg_may_have_fill_bytes_before_its_markers() -> None:
    data = MODES["jpeg"]
    frame, end = data.index(b"\xff\xc0"), data.rindex(b"\xff\xd9")
    filled = data[:frame] + b"\xff\xff\xff" + data[frame:end] + b"\xff\xff" + data[end:]
    assert read_picture_header(filled) == read_picture_header(data)
    assert np.array_equal(decode_picture(filled), decode_picture(data))


def test_data_after_the_end_does_no_harm() -> None:
    for name in ("jpeg", "png rgb", "webp", "bmp"):
        assert decode_picture(MODES[name] + b"\0" * 100).shape == (HEIGHT, WIDTH, 3)


def test_flipped_bits_in_a_png_are_found_out() -> None:
    data = bytearray(MODES["png rgb"])
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(UnreadablePictureError, match="checksum"):
        decode_picture(bytes(data))


def test_whole_files_with_undecodable_content_are_found_out() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 99, 0, 0, 0))
    with pytest.raises(UnreadablePictureError, match="cannot be decoded"):
        decode_picture(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"nonsense") + chunk(b"IEND", b""))


@pytest.mark.parametrize("data, reason", [
    (b"", "0 bytes"), (b"hello", "is not a"), (b"GIF89a" + b"\0" * 50, "is not a"), (b"\x89PNG\r\n\x1a\n", "truncated"),
    (b"\xff\xd8\xff\xe0", "cut off"), (b"RIFF\x10\0\0\0WEBP", "truncated"), (b"BM", "cut off"), (b"II*\0\xff\xff\xff\xff", "cut off"),
])  # fmt: skip
def test_what_is_no_picture_says_so(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadablePictureError, match=reason):
        decode_picture(data)


def test_a_decompression_bomb_is_refused_from_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("was decoded"))
    side = int(PIXELS_LIMIT**0.5) + 1
    body = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    header = struct.pack(">I", len(body)) + b"IHDR" + body + struct.pack(">I", zlib.crc32(b"IHDR" + body))
    end = b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    with pytest.raises(UnreadablePictureError, match="limit"):
        decode_picture(b"\x89PNG\r\n\x1a\n" + header + end)


def test_float_tiffs_are_refused_by_name() -> None:
    with pytest.raises(UnreadablePictureError, match="floating-point"):
        decode_picture(save(RGB.convert("F"), "TIFF"))


def test_grey_tiffs_with_alpha_are_refused_rather_than_read_wrongly() -> None:
    with pytest.raises(UnreadablePictureError, match="transparency"):
        decode_picture(save(RGBA.convert("LA"), "TIFF"))


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "really a jpeg.png"
    path.write_bytes(MODES["jpeg"])
    assert read_picture(path, 32).shape == (32, 32, 3)


def test_names_need_not_be_ascii(tmp_path: Path) -> None:
    path = tmp_path / "žluťoučký 馬 🐎.png"
    path.write_bytes(MODES["png rgb"])
    assert np.array_equal(read_picture(path, 32), NOISE[:, 8:40, :3])


def test_reading_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    path.write_bytes(MODES["jpeg"][:-20])
    with pytest.raises(InputError, match=r"cut\.jpg.*truncated"):
        read_picture(path, 32)


@pytest.mark.parametrize("width, height", [(64, 32), (32, 64), (33, 32), (100, 300)])
def test_the_centre_square_is_kept(width: int, height: int) -> None:
    picture = np.zeros((height, width, 3), np.uint8)
    side = min(width, height)
    top, left = (height - side) // 2, (width - side) // 2
    picture[top : top + side, left : left + side] = 200
    assert (fit_square(picture, 32) == 200).all()


def test_shrinking_averages() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[::2] = 100
    assert (fit_square(picture, 32) == 50).all()


def test_enlarging_keeps_the_proportions(draw_picture: Callable[..., Image.Image]) -> None:
    small = np.asarray(draw_picture(3, 40, 32))
    large = fit_square(small, 128)
    expected = np.asarray(Image.fromarray(small[:, 4:36]).resize((128, 128), Image.Resampling.LANCZOS)).astype(int)
    assert large.shape == (128, 128, 3) and np.abs(large - expected).mean() < 2


def test_a_picture_of_one_row_costs_no_more_than_its_square() -> None:
    assert fit_square(np.full((1, 500_000, 3), 7, np.uint8), 64).shape == (64, 64, 3)
