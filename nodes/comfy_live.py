"""The live panel's way through ComfyUI's server: events to its pages, and the routes by which they ask. All answers are the board's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from ..training.errors import InputError
from ..training.store import RunStore
from .comfy_runs import add_run_routes
from .host import current_host
from .live.board import BOARD, Unknown

PICTURES_STAY_SECONDS = 3600
_PAGES: dict[str, Any] = {}
"""The connections, by the page's id, that have said that they understand our events: to others they are errors (a page that is still loading)."""


def event_sender() -> Callable[[str, Mapping[str, Any]], None] | None:
    """Sends an event to the server's pages; None where ComfyUI is a library without a server.

    A page knows a training of its own by the workflow's id. Where there is none (a script has queued it), only that script hears of it.
    """
    server = _server()
    if server is None:
        return None

    def send(event: str, data: Mapping[str, Any]) -> None:
        for listener in _listening(server) if data.get("workflow") else [getattr(server, "client_id", None)]:
            server.send_sync(event, dict(data), listener)

    return send


def _listening(server: Any) -> list[str]:
    """The pages whose connection is still the one that they have spoken for: after a reload it is another."""
    return [page for page, connection in list(server.sockets.items()) if _PAGES.get(page) is connection]


@cache
def open_routes() -> None:
    """Adds the panel's routes, once, while ComfyUI loads its custom nodes; does nothing where there is no server."""
    server = _server()
    if server is not None:
        from aiohttp import web

        _add_routes(server.routes, web)
        add_run_routes(server.routes, web, lambda: RunStore(current_host().runs_folder()))


def _add_routes(routes: Any, web: Any) -> None:
    @routes.post("/graft/pages/{page}")
    async def listen(request: Any) -> Any:
        return _answer(web, lambda: web.json_response({"listening": _listen(_server(), request.match_info["page"])}))

    @routes.get("/graft/live")
    async def summaries(request: Any) -> Any:
        return web.json_response(BOARD.summaries())

    @routes.get("/graft/live/{run}")
    async def history(request: Any) -> Any:
        return _answer(web, lambda: web.json_response(BOARD.history(request.match_info["run"])))

    @routes.get("/graft/live/{run}/pictures/{step}/{index}")
    async def picture(request: Any) -> Any:
        asked = (request.match_info[name] for name in ("run", "step", "index"))
        headers = {"Cache-Control": f"private, max-age={PICTURES_STAY_SECONDS}"}
        return _answer(web, lambda: web.Response(body=BOARD.picture(*asked), content_type="image/jpeg", headers=headers))

    @routes.post("/graft/live/{run}/wishes/{wish}")
    async def wish(request: Any) -> Any:
        return _answer(web, lambda: _wished(web, request.match_info["run"], request.match_info["wish"]))


def _listen(server: Any, page: str) -> bool:
    """From now on the page gets events. Raises Unknown: it is not connected."""
    if page not in server.sockets:
        raise Unknown("page")
    for gone in _PAGES.keys() - server.sockets.keys():
        del _PAGES[gone]
    _PAGES[page] = server.sockets[page]
    return True


def _wished(web: Any, run: str, wish: str) -> Any:
    if BOARD.wish(run, wish):
        return web.json_response({"accepted": True})
    return web.json_response({"accepted": False}, status=409)


def _answer(web: Any, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Unknown as error:
        return web.json_response({"error": f"unknown {error}"}, status=404)
    except InputError as error:
        return web.json_response({"error": str(error)}, status=400)


def _server() -> Any:
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
