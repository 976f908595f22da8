"""Buckets are those of sd-scripts: expected figures were computed by hand, or by plain arithmetic below, from the rule in facts/formats.md."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from graft.training.data.buckets import Buckets, Frame
from graft.training.data.picture_header import UnreadablePictureError
from graft.training.errors import InputError

USUAL = Buckets()
# By hand for 512 x 512: 262144 / width, floored to 64, at most 1024, kept from 256 on; in both orientations.
WIDE_AT_512 = {(576, 448), (640, 384), (704, 320), (768, 320), (832, 256), (896, 256), (960, 256), (1024, 256)}


def test_the_usual_set_at_512() -> None:
    expected = sorted({(512, 512)} | WIDE_AT_512 | {(height, width) for width, height in WIDE_AT_512})
    assert list(USUAL.sizes(512)) == expected


def test_the_set_at_1024_is_sdxls() -> None:
    sizes = set(Buckets(min_px=512, max_px=2048).sizes(1024))
    assert {(1024, 1024), (1152, 896), (1216, 832), (1344, 768), (1536, 640), (640, 1536), (512, 2048), (2048, 512)} <= sizes
    assert all(width * height <= 1024 * 1024 and width % 64 == height % 64 == 0 and min(width, height) >= 512 for width, height in sizes)


@pytest.mark.parametrize(
    "size, frame",
    [
        ((512, 512), Frame((512, 512), (512, 512))),
        ((1000, 1000), Frame((512, 512), (512, 512))),
        # 1.5: the nearest is 640/384 = 1.6667 (0.1667 away) against 576/448 = 1.2857 (0.2143); wider bucket, so by width: 1000 * 640/1500 = 426.67
        ((1500, 1000), Frame((640, 427), (640, 384))),
        # 2/3: 448/576 = 0.7778 is 0.1111 away, 384/640 = 0.6 only 0.0667; the picture is the wider one, so by height: 1000 * 640/1500
        ((1000, 1500), Frame((427, 640), (384, 640))),
        # 16:9 = 1.7778: 640/384 = 1.6667 (0.1111); picture wider: by height 384/1080 -> 682.67
        ((1920, 1080), Frame((683, 384), (640, 384))),
        # an exact size of the set stays what it is, though another has the same ratio or a nearer one
        ((768, 320), Frame((768, 320), (768, 320))),
        ((64, 48), Frame((597, 448), (576, 448))),
        ((10, 1000), Frame((256, 25600), (256, 1024))),
    ],
)
def test_frames_by_hand(size: tuple[int, int], frame: Frame) -> None:
    assert USUAL.frame(size, 512) == frame


def test_the_choice_is_the_smallest_difference_of_ratios() -> None:
    random = np.random.default_rng(0)
    sizes = USUAL.sizes(512)
    for width, height in random.integers(40, 3000, (300, 2)).tolist():
        chosen = USUAL.frame((width, height), 512)
        ratio = Fraction(width, height)
        differences = [abs(Fraction(*size) - ratio) for size in sizes]
        if (width, height) not in sizes:
            assert abs(Fraction(*chosen.size_px) - ratio) == min(differences)
        assert chosen.size_px[0] <= chosen.scaled_px[0] and chosen.size_px[1] <= chosen.scaled_px[1]
        assert chosen.size_px[0] == chosen.scaled_px[0] or chosen.size_px[1] == chosen.scaled_px[1]


def test_the_first_of_equals_is_taken() -> None:
    # Between 512/512 = 1 and 576/448 lies 1.142857... = 8/7, as far from both (1/7); the sorted set has 512 first.
    assert USUAL.frame((800, 700), 512).size_px == (512, 512)


@pytest.mark.parametrize(
    "size, frame",
    [
        ((500, 300), Frame((500, 300), (448, 256))),
        ((512, 512), Frame((512, 512), (512, 512))),
        # 2000 x 1000 at 512^2: 724.08 x 362.04. By width: 724 -> 704, 352 -> 320, 2.2 (0.2 off). By height: 362 -> 320, 640, 2.0 exactly.
        ((2000, 1000), Frame((640, 320), (640, 320))),
        # 1500 x 1000: 627.07 x 418.05. By width: 627 -> 576, 384 -> 384, 1.5 exactly. By height: 418 -> 384, 576: 1.5. Not smaller: by height.
        ((1500, 1000), Frame((576, 384), (576, 384))),
        # 1000 x 900: 539.69 x 485.72. By width: 540 -> 512, 460.8 -> 448: 1.1429 (0.0317). By height: 486 -> 448, 497.8 -> 448: 1.0. By width.
        ((1000, 900), Frame((512, 461), (512, 448))),
    ],
)
def test_without_enlarging(size: tuple[int, int], frame: Frame) -> None:
    assert Buckets(upscale=False).frame(size, 512) == frame


def test_without_enlarging_there_is_no_fixed_set_and_no_limit_of_sides() -> None:
    buckets = Buckets(upscale=False, min_px=256, max_px=512)
    assert buckets.sizes(512) == () and buckets.frame((2000, 130), 512).size_px == (1984, 128)


@pytest.mark.parametrize("size", [(63, 500), (500, 30), (90_000, 100)])
def test_too_small_for_one_step(size: tuple[int, int]) -> None:
    with pytest.raises(UnreadablePictureError, match="one bucket step"):
        Buckets(upscale=False).frame(size, 512)


def test_what_is_cropped_away() -> None:
    frame = USUAL.frame((1500, 1000), 512)
    assert frame.corner_px == (0, 21) and math.isclose(frame.cropped_share, 1 - 640 * 384 / (640 * 427))


@pytest.mark.parametrize(
    "options", [{"step_px": 8}, {"step_px": 24}, {"min_px": 0}, {"min_px": 300}, {"max_px": 1000}, {"min_px": 512, "max_px": 256}]
)
def test_impossible_buckets_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="bucket"):
        Buckets(**options)


def test_a_resolution_outside_the_sides_is_refused() -> None:
    with pytest.raises(InputError, match="1536"):
        USUAL.require_resolution(1536)
    Buckets(upscale=False).require_resolution(1536)
