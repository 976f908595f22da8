"""OpenCV, imported when it is first used: importing the nodes is not to wait for it (`from .opencv import cv2`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import cv2
else:

    class _OpenCv:
        """Has what the module has."""

        def __getattr__(self, name: str) -> Any:
            import cv2 as module

            return getattr(module, name)

    cv2 = _OpenCv()
