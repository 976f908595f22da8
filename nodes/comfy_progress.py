"""ComfyUI's bar and text on a node, and its Cancel button, as the engine's `Progress`."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

Clock = Callable[[], float]

PREVIEW_PX = 512
TEXT_INTERVAL_SECONDS = 0.5
"""The text on a node goes out at most this often; the bar has ComfyUI's own pace."""


class ComfyProgress:
    """Shows one piece of work at a time on a node.

    Args:
        unique_id: the node; the one now running if None.
        clock: seconds, monotonic.
    """

    def __init__(self, unique_id: str | None = None, clock: Clock = time.monotonic) -> None:
        import comfy.utils

        self._new_bar, self._node_id, self._clock = comfy.utils.ProgressBar, unique_id, clock
        self._total, self._unit, self._done, self._shown_at = 0, "", 0, -TEXT_INTERVAL_SECONDS
        self._bar_only = False

    def bar_only(self) -> None:
        """For a node with a panel of its own: ComfyUI would put the text and the picture below it, over the nodes that lie there."""
        self._bar_only = True

    def start(self, total: int, unit: str) -> None:
        self._total, self._unit, self._done, self._shown_at = total, unit, 0, -TEXT_INTERVAL_SECONDS
        self._bar = self._new_bar(max(1, total), node_id=self._node_id)

    def advance(self, done: int, **values: float) -> None:
        self._bar.update_absolute(done)
        self._done = done
        if not self._bar_only:
            self._say(done, values)

    def _say(self, done: int, values: dict[str, float]) -> None:
        now = self._clock()
        if done >= self._total or now - self._shown_at >= TEXT_INTERVAL_SECONDS:
            self._shown_at = now
            _send_text(text_of(done, self._total, self._unit, values), self._node_id)

    def show(self, pictures: Sequence[bytes]) -> None:
        """On the node, as ComfyUI's samplers show theirs; the bar stays where it is."""
        if pictures and not self._bar_only:
            self._bar.update_absolute(self._done, preview=("JPEG", side_by_side(pictures), PREVIEW_PX))

    def finish(self) -> None: ...

    def check_interrupt(self) -> None:
        import comfy.model_management

        comfy.model_management.throw_exception_if_processing_interrupted()


def side_by_side(pictures: Sequence[bytes]) -> Any:
    """JPEG files in as square a table as they make, as a picture of PIL, which every ComfyUI has."""
    from PIL import Image

    opened = [Image.open(BytesIO(picture)).convert("RGB") for picture in pictures]
    columns, width, height = math.ceil(math.sqrt(len(opened))), max(one.width for one in opened), max(one.height for one in opened)
    table = Image.new("RGB", (columns * width, math.ceil(len(opened) / columns) * height))
    for place, one in enumerate(opened):
        table.paste(one, (place % columns * width, place // columns * height))
    return table


def text_of(done: int, total: int, unit: str, values: dict[str, float]) -> str:
    """ "50/200 steps, loss 0.1234" """
    figures = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items()]
    return ", ".join([f"{done}/{total} {unit}s", *figures])


def _send_text(text: str, node_id: str | None) -> None:
    """To the page that queued the workflow; nobody listens outside the server (a script that uses ComfyUI as a library)."""
    server = sys.modules.get("server")
    instance = getattr(server.PromptServer, "instance", None) if server else None
    node = node_id or getattr(instance, "last_node_id", None)
    if instance is not None and node is not None:
        instance.send_progress_text(text, node, getattr(instance, "client_id", None))
