"""Beside the graph: what the store of trainings holds, for whoever wonders where the disk has gone."""

from __future__ import annotations

from typing import Any

from .headless.stored_runs import describe_store
from .host import current_host
from .types import Inputs


class StoredTrainings:
    """The list that `graft store` prints."""

    DISPLAY_NAME = "Stored Trainings"
    CATEGORY, FUNCTION = "Graft/result", "execute"
    RETURN_TYPES, RETURN_NAMES = ("STRING",), ("list",)
    OUTPUT_TOOLTIPS = ("One line per training and data set, the least recently used first, and what all of them take.",)
    OUTPUT_NODE = True
    DESCRIPTION = (
        "Lists the trainings and encoded data sets that are kept on disk, their sizes and when they were last used. Beyond 200 GB in all, or what "
        "GRAFT_STORE_LIMIT says, encoded data and then trainings are removed after a training, those used longest ago first; what is in use never is."
    )
    SEARCH_ALIASES = ("disk space", "store", "clean up", "list runs")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {"required": {}}

    @classmethod
    def IS_CHANGED(cls) -> str:  # noqa: N802
        """Another list whenever the store has changed."""
        return stored_trainings()

    def execute(self) -> dict[str, Any]:
        listed = stored_trainings()
        return {"ui": {"text": [listed]}, "result": (listed,)}


def stored_trainings() -> str:
    host = current_host()
    folder, cache = host.runs_folder(), host.cache_folder()
    if not folder.is_dir() and not cache.is_dir():
        return f"No trainings are kept in {folder} yet."
    return describe_store(folder, cache, None)


NODES = {"GraftStoredTrainings": StoredTrainings}
