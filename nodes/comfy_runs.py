"""The runs browser's routes: the runs in the output folder, by the names that the store itself gives. Disks are read beside the server's loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..training.errors import InputError
from ..training.store import RunStore
from ..training.store_size import remove_run
from .live.board import Unknown
from .live.stored import curve_of, listed, picture_of, workflow_of


def add_run_routes(routes: Any, web: Any, store: Callable[[], RunStore]) -> None:
    """Adds them to a server's routes; `web` is aiohttp's."""

    @routes.get("/graft/runs")
    async def runs(request: Any) -> Any:
        return await _json(web, lambda: listed(store()))

    @routes.get("/graft/runs/{name}")
    async def curve(request: Any) -> Any:
        return await _json(web, lambda: curve_of(store(), request.match_info["name"]))

    @routes.get("/graft/runs/{name}/workflow")
    async def workflow(request: Any) -> Any:
        return await _json(web, lambda: workflow_of(store(), request.match_info["name"]))

    @routes.get("/graft/runs/{name}/picture")
    async def picture(request: Any) -> Any:
        made = await _asked(web, lambda: picture_of(store(), request.match_info["name"]))
        return web.Response(body=made, content_type="image/jpeg", headers={}) if isinstance(made, bytes) else made

    @routes.delete("/graft/runs/{name}")
    async def remove(request: Any) -> Any:
        return await _json(web, lambda: remove_run(store(), request.match_info["name"]))


async def _json(web: Any, make: Callable[[], Any]) -> Any:
    return await _asked(web, lambda: web.json_response(make()))


async def _asked(web: Any, make: Callable[[], Any]) -> Any:
    """The answer, made in a thread; 404 for what is not there, 409 with the reason for what cannot be."""
    try:
        return await asyncio.get_running_loop().run_in_executor(None, make)
    except (Unknown, FileNotFoundError) as error:
        return web.json_response({"error": f"unknown {error}"}, status=404)
    except InputError as error:
        return web.json_response({"error": str(error)}, status=409)
