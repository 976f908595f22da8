"""OpenCV, imported when it is first used: importing the nodes is not to wait for it (`from .opencv import cv2`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .packages import missing_package

if TYPE_CHECKING:
    import cv2
else:

    class _OpenCv:
        """Has what the module has."""

        def __getattr__(self, name: str) -> Any:
            try:
                import cv2 as module
            except ImportError as error:
                raise missing_package("opencv-python-headless", "OpenCV", "pictures and edges", error) from error
            return getattr(module, name)

    cv2 = _OpenCv()
