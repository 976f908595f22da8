"""Does a picture follow the edges that it was given? Edge F1, with a tolerance, and the controls without which the number says little.

The generated picture's own Canny edges are compared with the given ones. Precision is the share of its edge pixels that lie within the
tolerance of a given edge pixel; recall is the share of given edge pixels within the tolerance of one of its own; F1 is their harmonic mean.
(The usual boundary measure, Martin, Fowlkes & Malik 2004, doi:10.1109/TPAMI.2004.1273918, with distance in place of one-to-one matching.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .data.canny import canny_edges
from .opencv import cv2

Pictures = NDArray[np.uint8]

LOW, HIGH, TOLERANCE_PX = 100, 200, 2.0


@dataclass(frozen=True)
class EdgeScore:
    """How closely pictures follow edges."""

    per_picture: tuple[float, ...]
    """F1 of each picture, 0..1."""
    chance_per_picture: tuple[float, ...]
    """The same pictures against another picture's edges: what following nothing gives."""

    @property
    def mean(self) -> float:
        return float(np.mean(self.per_picture))

    @property
    def chance(self) -> float:
        return float(np.mean(self.chance_per_picture))


def edge_score(generated: Pictures, given: Pictures, low: int = LOW, high: int = HIGH, tolerance_px: float = TOLERANCE_PX) -> EdgeScore:
    """Scores generated pictures (uint8 RGB [N, H, W, 3]) against their given edges (uint8 [N, H, W]) and, as a control, against their
    neighbours' edges. With a single picture there is no neighbour, and chance is not a number."""
    own = edge_f1(generated, given, low, high, tolerance_px)
    others = edge_f1(generated, shuffled(given), low, high, tolerance_px) if len(given) > 1 else np.full(len(own), np.nan)
    return EdgeScore(tuple(own.tolist()), tuple(others.tolist()))


def edge_f1(
    generated: Pictures, given: Pictures, low: int = LOW, high: int = HIGH, tolerance_px: float = TOLERANCE_PX
) -> NDArray[np.float64]:
    """F1 [N] of each picture's Canny edges against the given edges.

    Args:
        generated: uint8 RGB [N, H, W, 3].
        given: uint8 [N, H, W]; anything but 0 is an edge.
        low, high: Canny thresholds for the generated pictures.
        tolerance_px: Euclidean distance at which edges still count as the same.
    """
    assert generated.shape[:3] == given.shape, f"pictures {generated.shape} and edges {given.shape} do not match"
    pairs = zip(generated, given, strict=True)
    return np.array([f1_of_edges(canny_edges(picture, low, high), edges, tolerance_px) for picture, edges in pairs])


def f1_of_edges(made: Pictures, given: Pictures, tolerance_px: float = TOLERANCE_PX) -> float:
    """F1 of one edge map against another, both uint8 [H, W]. Two empty maps agree: 1. If only one is empty: 0."""
    if not made.any() or not given.any():
        return float(made.any() == given.any())
    precision, recall = _share_near(made, given, tolerance_px), _share_near(given, made, tolerance_px)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _share_near(edges: Pictures, others: Pictures, tolerance_px: float) -> float:
    """The share of `edges` pixels that lie within the tolerance of an `others` pixel."""
    distance_px = cv2.distanceTransform((others == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float((distance_px[edges != 0] <= tolerance_px + 1e-4).mean())


def shuffled(values: NDArray) -> NDArray:
    """Every row moved by one place, so that none stays with its picture: hints to draw from, or edges to score against, as a control."""
    return np.roll(values, 1, axis=0)
