"""Pictures on the way, bounded in number."""

from __future__ import annotations

import cv2
import numpy as np
from graft.nodes.live.gallery import Gallery
from graft.nodes.live.pictures import jpeg


def test_the_first_and_the_newest_stay_when_there_are_too_many():
    gallery = Gallery(most=4)
    for step in range(0, 100, 10):
        gallery.add(step, [b"%d" % step])
    steps = gallery.summary()["picture_steps"]
    assert steps[0] == 0 and steps[-1] == 90 and len(steps) <= 4 and steps == sorted(steps)
    assert gallery.picture(90, 0) == b"90" and gallery.picture(90, 1) is None and gallery.picture(91, 0) is None


def test_hints_are_kept_beside_them():
    gallery = Gallery()
    assert gallery.summary() == {"picture_steps": [], "picture_count": 0, "hint_count": 0} and gallery.picture(None, 0) is None
    gallery.hints = (b"a", b"b")
    assert gallery.picture(None, 1) == b"b" and gallery.summary()["hint_count"] == 2


def test_a_jpeg_keeps_colours_and_shape_and_is_never_large():
    picture = np.zeros((600, 1200, 3), np.uint8)
    picture[:, :600] = (250, 10, 10)
    found = cv2.cvtColor(cv2.imdecode(np.frombuffer(jpeg(picture), np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert found.shape == (256, 512, 3) and abs(found[100, 100].astype(int) - (250, 10, 10)).max() < 8 and found[100, 400].max() < 8
