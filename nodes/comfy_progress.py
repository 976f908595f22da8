"""ComfyUI's bar and text on a node, and its Cancel button, as the engine's `Progress`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

Clock = Callable[[], float]

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
        self._total, self._unit, self._shown_at = 0, "", -TEXT_INTERVAL_SECONDS

    def start(self, total: int, unit: str) -> None:
        self._total, self._unit, self._shown_at = total, unit, -TEXT_INTERVAL_SECONDS
        self._bar = self._new_bar(max(1, total), node_id=self._node_id)

    def advance(self, done: int, **values: float) -> None:
        self._bar.update_absolute(done)
        now = self._clock()
        if done >= self._total or now - self._shown_at >= TEXT_INTERVAL_SECONDS:
            self._shown_at = now
            _send_text(text_of(done, self._total, self._unit, values), self._node_id)

    def finish(self) -> None: ...

    def check_interrupt(self) -> None:
        import comfy.model_management

        comfy.model_management.throw_exception_if_processing_interrupted()


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
