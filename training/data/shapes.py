"""Pictures that the project draws itself: one coloured figure on a coloured ground, with a caption in plain words.

In the spirit of fill50k. The caption tells the kind and the two colours; where the figure lies, how large it is and how it is turned stands in the
picture alone, so a ControlNet that follows edges shows it. `judge` reads the same things back from a picture by colour and contour.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files.write import require_writable_folder, write_json, write_plain
from ..opencv import cv2
from ..progress import NO_PROGRESS, Progress
from .shape_styles import STYLE_VERSION, STYLES, require_style, styled

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "yellow": (248, 214, 40),
    "green": (40, 156, 64),
    "cyan": (70, 206, 222),
    "blue": (38, 78, 206),
    "purple": (150, 62, 186),
    "white": (244, 244, 244),
    "black": (22, 22, 22),
}
TEMPLATES = (
    "a {figure} {kind} on a {ground} background",
    "{figure} {kind}, {ground} background",
    "a {ground} picture with a {figure} {kind}",
)
COLOUR_JITTER = 8
SMALLEST_RADIUS, LARGEST_RADIUS, MARGIN = 0.25, 0.36, 0.03
LARGEST_TURN_DEGREES = 12.0
SMALLEST_PX, LARGEST_PX = 32, 2048
SUBPIXEL_BITS = 6
NORMALISED_PX = 48
RIGHT_CONTOUR_OVERLAP = 0.82
MANIFEST = "shapes.json"
DRAWING_VERSION = 1
_OWN_NAME = re.compile(r"shape_\d{5,}\.(png|txt)|shapes\.json|\.graft-part-.*")


def _arc(start: float, end: float, radius: float = 1.0, centre: tuple[float, float] = (0.0, 0.0), points: int = 72) -> np.ndarray:
    angle = np.linspace(start, end, points)
    return np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)], axis=1)


def _circle() -> list[np.ndarray]:
    return [_arc(0, 2 * np.pi)]


def _square() -> list[np.ndarray]:
    return [0.84 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=float)]


def _triangle() -> list[np.ndarray]:
    return [1.1 * _arc(-np.pi / 2, -np.pi / 2 + 2 * np.pi, points=4)[:3] + [0, 0.18]]


def _star() -> list[np.ndarray]:
    corners = _arc(-np.pi / 2, -np.pi / 2 + 2 * np.pi, points=11)[:10]
    return [corners * np.where(np.arange(10) % 2, 0.46, 1.1)[:, None]]


def _cross() -> list[np.ndarray]:
    long, short = 1.0, 0.34
    quarter = np.array([[short, -long], [short, -short], [long, -short]])
    turns = [quarter @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) for a in np.arange(4) * np.pi / 2]
    return [np.concatenate(turns)]


def _heart() -> list[np.ndarray]:
    s = np.linspace(0, 2 * np.pi, 96)
    y = 13 * np.cos(s) - 5 * np.cos(2 * s) - 2 * np.cos(3 * s) - np.cos(4 * s)
    return [np.stack([16 * np.sin(s) ** 3, -y - 2.5], axis=1) / 16]


def _crescent() -> list[np.ndarray]:
    outer = _arc(np.pi * 0.25, np.pi * 1.75)
    tip = outer[-1]
    centre = (0.62, 0.0)
    radius = float(np.hypot(tip[0] - centre[0], tip[1]))
    angle = float(np.arctan2(tip[1], tip[0] - centre[0]))
    return [np.concatenate([outer, _arc(angle % (2 * np.pi), (-angle) % (2 * np.pi), radius, centre)])]


def _ring() -> list[np.ndarray]:
    return [_arc(0, 2 * np.pi), _arc(0, 2 * np.pi, 0.52)]


KINDS: dict[str, Callable[[], list[np.ndarray]]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "crescent": _crescent,
    "ring": _ring,
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One picture's content. Lengths are fractions of the picture's side."""

    kind: str
    figure: str
    ground: str
    x: float
    y: float
    radius: float
    turn_degrees: float
    figure_rgb: tuple[int, int, int]
    ground_rgb: tuple[int, int, int]
    template: int

    @property
    def caption(self) -> str:
        return TEMPLATES[self.template].format(figure=self.figure, kind=self.kind, ground=self.ground)

    def draw(self, size_px: int) -> np.ndarray:
        """The picture, uint8 RGB [size, size, 3], with anti-aliased edges."""
        picture = np.empty((size_px, size_px, 3), np.uint8)
        picture[:] = self.ground_rgb
        outlines = [self._place(outline, size_px) for outline in KINDS[self.kind]()]
        cv2.fillPoly(picture, outlines, self.figure_rgb, lineType=cv2.LINE_AA, shift=SUBPIXEL_BITS)
        return picture

    def _place(self, outline: np.ndarray, size_px: int) -> np.ndarray:
        turn = np.deg2rad(self.turn_degrees)
        rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        points = (outline @ rotation * self.radius + [self.x, self.y]) * size_px - 0.5
        return np.round(points * 2**SUBPIXEL_BITS).astype(np.int32)


def random_shape(random: np.random.Generator) -> Shape:
    """Draws one picture's content, every choice uniform; figure and ground never share a colour."""
    figure, ground = random.choice(list(PALETTE), size=2, replace=False)
    radius = random.uniform(SMALLEST_RADIUS, LARGEST_RADIUS)
    room = radius * 1.12 + MARGIN
    x, y = random.uniform(room, 1 - room, size=2)
    return Shape(
        kind=str(random.choice(list(KINDS))),
        figure=str(figure),
        ground=str(ground),
        x=x,
        y=y,
        radius=radius,
        turn_degrees=random.uniform(-LARGEST_TURN_DEGREES, LARGEST_TURN_DEGREES),
        figure_rgb=_jittered(PALETTE[str(figure)], random),
        ground_rgb=_jittered(PALETTE[str(ground)], random),
        template=int(random.integers(len(TEMPLATES))),
    )


def _jittered(colour: tuple[int, int, int], random: np.random.Generator) -> tuple[int, int, int]:
    shifted = np.array(colour) + random.integers(-COLOUR_JITTER, COLOUR_JITTER + 1, size=3)
    red, green, blue = (int(value) for value in shifted.clip(0, 255))
    return red, green, blue


def shapes_folder(
    folder: Path, *, count: int, seed: int, size_px: int = 128, progress: Progress = NO_PROGRESS, style: str = STYLES[0]
) -> None:
    """Makes sure that `folder` holds exactly these pictures: written if it is new or was left unfinished, used as it is if they are there.

    Raises:
        InputError: it holds something else, which is left alone; or what `write_dataset` raises.
    """
    wanted = _manifest(count, seed, size_px, require_style(style))
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if MANIFEST in names and _read_manifest(folder) == wanted:
        return
    strangers = sorted(name for name in names if not _OWN_NAME.fullmatch(name))
    if strangers or MANIFEST in names:
        raise InputError(
            "shapes folder", expected=f"a new folder, or one with these very pictures ({count} of {size_px} px, seed {seed})",
            found=f"{_contents(folder)} in {folder}", remedy="Choose another folder name, or delete that folder.",
        )  # fmt: skip
    for name in names:  # of other figures, written until something stopped it
        (folder / name).unlink()
    write_dataset(folder, count, seed, size_px, progress, style)


def _contents(folder: Path) -> str:
    """What a folder holds that is not what was asked for."""
    manifest = _read_manifest(folder)
    if not isinstance(manifest, dict) or "count" not in manifest:
        return "other files"
    return f"{manifest['count']} of {manifest.get('size_px')} px, seed {manifest.get('seed')}, style {manifest.get('style', STYLES[0])}"


def _read_manifest(folder: Path) -> Any:
    """What the manifest says, or None if it is damaged."""
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_dataset(
    folder: Path, count: int, seed: int, size_px: int = 128, progress: Progress = NO_PROGRESS, style: str = STYLES[0]
) -> None:
    """Writes `count` pictures as shape_00000.png with captions beside them as shape_00000.txt, and a manifest when all are there.

    Only the manifest is flushed to the disk: flushing each of thousands of small files takes minutes where disks are slow.

    Raises:
        InputError: when the count or size is senseless, the folder cannot be written or the disk is full.
    """
    if count < 1 or not SMALLEST_PX <= size_px <= LARGEST_PX:
        raise InputError(
            "shapes", expected=f"at least 1 picture of {SMALLEST_PX} to {LARGEST_PX} px", found=f"{count} of {size_px} px",
            remedy="Choose another count or size.",
        )  # fmt: skip
    require_writable_folder(folder, "shapes folder").mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    progress.start(count, "picture")
    for index in range(count):
        progress.check_interrupt()
        shape = random_shape(random)
        picture, caption = styled(shape, size_px, style, index)
        write_plain(folder / f"shape_{index:05d}.png", _png(picture))
        write_plain(folder / f"shape_{index:05d}.txt", (caption + "\n").encode())
        progress.advance(index + 1)
    write_json(folder / MANIFEST, _manifest(count, seed, size_px, style))
    progress.finish()


def _manifest(count: int, seed: int, size_px: int, style: str) -> dict[str, int | str]:
    """Plain pictures are described as they were before there were styles, so that their folders stay known."""
    described: dict[str, int | str] = {"version": DRAWING_VERSION, "count": count, "seed": seed, "size_px": size_px}
    return described if style == STYLES[0] else {**described, "style": style, "style_version": STYLE_VERSION}


def _png(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", picture[..., ::-1])[1].tobytes()


# ---------------------------------------------------------------- reading a picture back


@dataclass(frozen=True)
class Judgement:
    """What a picture shows: nearest colour names, the kind whose contour fits best, and how well (intersection over union, 0..1)."""

    figure: str
    ground: str
    kind: str
    overlap: float

    def right_colours(self, shape: Shape) -> bool:
        return (self.figure, self.ground) == (shape.figure, shape.ground)

    def right_kind(self, shape: Shape) -> bool:
        return self.kind == shape.kind and self.overlap >= RIGHT_CONTOUR_OVERLAP


def judge(picture: np.ndarray) -> Judgement:
    """Reads colours and kind from a picture, uint8 RGB [H, W, 3]: ground from the border, figure from what differs, kind by its contour."""
    ground_rgb = np.median(np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]]), axis=0)
    ground = nearest_colour(ground_rgb)
    distance = np.linalg.norm(picture.astype(np.float32) - ground_rgb, axis=-1)
    if distance.max() < 40:
        return Judgement(figure=ground, ground=ground, kind="nothing", overlap=0.0)
    core = distance > 0.75 * np.percentile(distance, 98)
    mask = distance > 0.5 * np.median(distance[core])
    figure = nearest_colour(np.median(picture[mask], axis=0))
    kind, overlap = best_kind(mask)
    return Judgement(figure=figure, ground=ground, kind=kind, overlap=overlap)


def nearest_colour(rgb: np.ndarray) -> str:
    names = list(PALETTE)
    return names[int(np.argmin(np.linalg.norm(np.array([PALETTE[name] for name in names]) - rgb, axis=1)))]


def best_kind(mask: np.ndarray) -> tuple[str, float]:
    """The kind whose contour overlaps best with a boolean mask, over the allowed turns, after centring and scaling to equal area."""
    names, templates, areas = _contour_templates()
    figure = _normalised(mask).reshape(-1).astype(np.float32)
    shared = templates @ figure
    overlap = shared / np.maximum(areas + figure.sum() - shared, 1)
    best = int(np.argmax(overlap))
    return names[best], float(overlap[best])


def _normalised(mask: np.ndarray) -> np.ndarray:
    """Moves the mask's centre of mass to the middle and scales it to a fixed area."""
    moments = cv2.moments(mask.astype(np.uint8), binaryImage=True)
    if moments["m00"] == 0:
        return np.zeros((NORMALISED_PX, NORMALISED_PX), bool)
    scale = 0.45 * NORMALISED_PX / np.sqrt(moments["m00"])
    centre = np.array([moments["m10"], moments["m01"]]) / moments["m00"]
    offset = (NORMALISED_PX - 1) / 2 - scale * centre
    warp = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
    placed = cv2.warpAffine(mask.astype(np.float32), warp, (NORMALISED_PX, NORMALISED_PX), flags=cv2.INTER_LINEAR)
    return placed > 0.5


@lru_cache(maxsize=1)
def _contour_templates() -> tuple[list[str], np.ndarray, np.ndarray]:
    names: list[str] = []
    masks: list[np.ndarray] = []
    for kind in KINDS:
        for turn in np.arange(-LARGEST_TURN_DEGREES, LARGEST_TURN_DEGREES + 1, 4.0):
            white, black = (255, 255, 255), (0, 0, 0)
            shape = Shape(
                kind=kind, figure="white", ground="black", x=0.5, y=0.5, radius=0.36, turn_degrees=float(turn),
                figure_rgb=white, ground_rgb=black, template=0,
            )  # fmt: skip
            names.append(kind)
            masks.append(_normalised(shape.draw(256)[..., 0] > 127).reshape(-1))
    templates = np.array(masks, np.float32)
    return names, templates, templates.sum(axis=1)


def judged_rates(pictures: np.ndarray, shapes: Sequence[Shape]) -> tuple[float, float]:
    """Shares of pictures (uint8 [N, H, W, 3]) with both colours right, and with the right kind."""
    judgements = [judge(picture) for picture in pictures]
    colours = np.mean([judgement.right_colours(shape) for judgement, shape in zip(judgements, shapes, strict=True)])
    kinds = np.mean([judgement.right_kind(shape) for judgement, shape in zip(judgements, shapes, strict=True)])
    return float(colours), float(kinds)
