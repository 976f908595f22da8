"""Pictures are cut to their size, mirrored and turned, and a hint or mask of them goes the very same way."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from graft.training.data.buckets import Buckets
from graft.training.data.framing import PLAIN, Framing, View, _covering_zoom
from graft.training.data.picture import fit_square
from graft.training.errors import InputError

BUCKETS = Framing(buckets=Buckets(min_px=32, max_px=128, step_px=16))


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (90, 150, 3), np.uint8)


def test_the_default_is_the_centre_square(picture: np.ndarray) -> None:
    assert PLAIN.is_plain and PLAIN.key() == [] and PLAIN.size((150, 90), 64) == (64, 64)
    assert np.array_equal(PLAIN.cut(picture, (150, 90), 64), fit_square(picture, 64))
    assert PLAIN.view_key(0, "digest", (150, 90), 64) == "digest"


def test_a_bucket_is_scaled_to_cover_and_cropped_at_the_centre(picture: np.ndarray) -> None:
    # 5:3 at 64 x 64: 80 x 48 has the very ratio; 150 * 48 / 90 = 80.
    assert np.array_equal(BUCKETS.cut(picture, (150, 90), 64), cv2.resize(picture, (80, 48), interpolation=cv2.INTER_AREA))
    wide = picture[:60]  # 2.5: the nearest is 96 x 32 = 3.0 (0.5 away)? 80 x 48 = 1.667 is 0.833 away; picture narrower: by width, 96 x 38.4
    cut = BUCKETS.cut(wide, (150, 60), 64)
    assert cut.shape == (32, 96, 3)
    assert np.array_equal(cut, cv2.resize(wide, (96, 38), interpolation=cv2.INTER_AREA)[3:35])


@pytest.mark.parametrize("framing", [Framing(flip=True), Framing(buckets=BUCKETS.buckets, flip=True)])
def test_mirrored_views_are_the_plain_one_mirrored(framing: Framing, picture: np.ndarray) -> None:
    plain, mirrored = (framing.cut(picture, (150, 90), 64, framing.view(number, "a")) for number in range(2))
    assert framing.views == 2 and np.array_equal(mirrored, plain[:, ::-1]) and not np.array_equal(mirrored, plain)


def test_a_view_cropped_elsewhere_is_that_part_of_the_scaled_picture(picture: np.ndarray) -> None:
    """By hand: 150 x 60 goes into 96 x 32 scaled to 96 x 38, so the crop begins at row 0 to 6; of 150 x 90 a square begins at column 0 to 60."""
    wide = picture[:60]
    small = cv2.resize(wide, (96, 38), interpolation=cv2.INTER_AREA)
    for place, top in ((0.0, 0), (0.5, 3), (0.7, 4), (1.0, 6)):
        assert np.array_equal(BUCKETS.cut(wide, (150, 60), 64, View(crop=(0.3, place))), small[top : top + 32])
    for place, left in ((0.0, 0), (0.25, 15), (1.0, 60)):
        assert np.array_equal(PLAIN.cut(picture, (150, 90), 64, View(crop=(place, 0.9))), fit_square(picture[:, left : left + 90], 64))
    assert np.array_equal(PLAIN.cut(picture, (150, 90), 64, View(True, crop=(0.0, 0.0))), fit_square(picture[:, :90], 64)[:, ::-1])


def test_crops_are_drawn_for_each_picture_and_spread_over_it() -> None:
    framing = Framing(cropped_views=3, turned_views=1, rotation_degrees=5, flip=True)
    assert framing.views == 10 and "3 views cropped elsewhere" in framing.describe()
    views = [framing.view(number, "a") for number in range(10)]
    assert [view.crop is None for view in views] == [True] * 4 + [False] * 6 and [view.mirrored for view in views] == [False, True] * 5
    assert all(view.degrees == 0 for view in views[4:]) and len({view.crop for view in views[4:]}) == 3 and views[4].crop == views[5].crop
    assert views[:4] == [Framing(turned_views=1, rotation_degrees=5, flip=True).view(number, "a") for number in range(4)]
    drawn = np.array([Framing(cropped_views=1).view(1, f"{number}").crop for number in range(400)])
    assert drawn.min() >= 0 and drawn.max() <= 1 and (np.abs(drawn.mean(0) - 0.5) < 0.06).all() and (np.abs(drawn.std(0) - 12**-0.5) < 0.03).all()


def test_what_fits_without_cropping_is_known_as_the_plain_view() -> None:
    square, buckets = Framing(cropped_views=2), Framing(buckets=BUCKETS.buckets, cropped_views=2)
    assert {str(square.view_key(number, "a", (64, 64), 64)) for number in range(3)} == {"a"}
    # 150 x 90 fills 80 x 48 exactly.
    assert len({str(buckets.view_key(number, "a", (150, 90), 64)) for number in range(3)}) == 1
    assert len({str(square.view_key(number, "a", (150, 60), 64)) for number in range(3)}) == 3
    # 96 x 38 has room for six rows: the second view of "a" begins at row 5, the third in the middle, at row 3.
    keys = [buckets.view_key(number, "a", (150, 60), 64) for number in range(3)]
    assert keys[0] == keys[2] != keys[1] and keys[1][-1] == [0, 5]


def disc(width: int, height: int, x: float, y: float) -> np.ndarray:
    across, down = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    inside = np.hypot((across - x * width) / width, (down - y * height) / width) < 0.06
    return np.repeat((inside * 255).astype(np.uint8)[..., None], 3, 2)


def centre(picture: np.ndarray) -> tuple[float, float]:
    down, across = np.nonzero(picture[..., 0] > 127)
    return float(across.mean()), float(down.mean())


@pytest.mark.parametrize("degrees, crop", [(-20.0, None), (7.0, None), (30.0, None), (0.0, (0.8, 0.1)), (0.0, (0.3, 1.0))])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("framing", [PLAIN, BUCKETS])
def test_picture_hint_and_mask_go_the_same_way(framing: Framing, mirrored: bool, degrees: float, crop: tuple[float, float] | None) -> None:
    """A disc in the picture, in a hint of half the size and in a mask ends up in the same place."""
    view = View(mirrored, degrees, crop)
    cuts = [framing.cut(disc(width, height, 0.54, 0.45), (300, 180), 128, view) for width, height in ((300, 180), (150, 90))]
    mask = framing.cut(disc(300, 180, 0.54, 0.45)[..., 0], (300, 180), 128, view)
    assert mask.shape == cuts[0].shape[:2] == cuts[1].shape[:2]
    places = [centre(cut) for cut in (*cuts, mask[..., None])]
    assert all(abs(place[axis] - places[0][axis]) < 0.6 for place in places for axis in range(2))


def test_a_turn_is_about_the_centre_counter_clockwise_and_leaves_no_corner_empty() -> None:
    turned = PLAIN.cut(disc(200, 200, 0.7, 0.5), (200, 200), 200, View(degrees=30))
    # Zoom cos 30 + sin 30 = 1.366: the disc at 40 px right of the centre goes to 54.6 px at 30 degrees above the horizontal.
    x, y = centre(turned)
    assert abs(x - (99.5 + 54.6 * 0.866)) < 1.5 and abs(y - (99.5 - 54.6 * 0.5)) < 1.5


@pytest.mark.parametrize("width, height, degrees", [(64, 64, 30), (80, 48, -20), (48, 80, 44.0), (1024, 256, 45)])
def test_a_turned_view_leaves_no_corner_empty(width: int, height: int, degrees: float) -> None:
    """Turned back and made small again, the corners of the view lie inside the picture, and one of them on its border."""
    zoom, angle = _covering_zoom(width, height, degrees), np.radians(degrees)
    corners = np.array([[width, height], [width, -height], [-width, height], [-width, -height]]) / 2
    back = corners @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    reach = (np.abs(back) / [width / 2, height / 2]).max()
    assert abs(reach - 1) < 1e-9


def test_turned_views_are_drawn_for_each_picture_within_the_limit() -> None:
    framing = Framing(rotation_degrees=10.0, turned_views=3, flip=True)
    assert framing.views == 8
    views = {digest: [framing.view(number, digest) for number in range(8)] for digest in ("a", "b")}
    assert views["a"][0].is_plain and views["a"][1] == View(mirrored=True)
    angles = [view.degrees for digest in views for view in views[digest][2:]]
    assert len(set(angles)) == 6 and max(map(abs, angles)) <= 10
    assert [view.mirrored for view in views["a"]] == [False, True] * 4
    assert framing.view(3, "a") == views["a"][3]


def test_keys_tell_apart_what_is_cut_differently() -> None:
    framings = [PLAIN, BUCKETS, Framing(flip=True), Framing(buckets=Buckets(), flip=True), Framing(rotation_degrees=5, turned_views=1),
                Framing(cropped_views=1), Framing(cropped_views=2)]  # fmt: skip
    assert len({str(framing.key()) for framing in framings}) == len(framings)
    flipped = Framing(flip=True)
    assert flipped.view_key(0, "a", (150, 90), 64) == "a" != flipped.view_key(1, "a", (150, 90), 64)


@pytest.mark.parametrize(
    "options", [{"rotation_degrees": 50, "turned_views": 1}, {"turned_views": -1}, {"turned_views": 2}, {"rotation_degrees": 5},
                {"cropped_views": -1}, {"cropped_views": 16}, {"turned_views": 8, "rotation_degrees": 5, "flip": True}]
)  # fmt: skip
def test_impossible_framings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"rotation|views"):
        Framing(**options)
