"""The panel's routes and events, with stand-ins for ComfyUI's server and its web library."""

from __future__ import annotations

import asyncio
import json
import sys
from types import SimpleNamespace

import pytest
from graft.nodes import comfy_live
from graft.nodes.live.board import Board
from graft.nodes.live.run import LiveRun, Place
from graft.training.history import History


class Server:
    """As much of ComfyUI's PromptServer as is used."""

    def __init__(self) -> None:
        self.sent, self.handlers, self.client_id = [], {}, "page 1"
        self.routes = SimpleNamespace(get=self._adder("GET"), post=self._adder("POST"))

    def send_sync(self, event, data, sid=None):
        self.sent.append((event, data, sid))

    def _adder(self, method):
        return lambda path: lambda handler: self.handlers.setdefault((method, path), handler)

    def ask(self, method, path, **names):
        """(status, body) of a route's answer."""
        return asyncio.run(self.handlers[method, path](SimpleNamespace(match_info=names)))


@pytest.fixture
def server(monkeypatch) -> Server:
    made = Server()
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=made)))
    web = SimpleNamespace(
        json_response=lambda data, status=200: (status, json.loads(json.dumps(data))),
        Response=lambda body, content_type, headers: (200, (content_type, body, headers)),
    )
    monkeypatch.setitem(sys.modules, "aiohttp", SimpleNamespace(web=web))
    monkeypatch.setattr(comfy_live, "BOARD", Board())
    comfy_live.open_routes.cache_clear()
    comfy_live.open_routes()
    comfy_live.open_routes.cache_clear()
    return made


@pytest.fixture
def run(server) -> LiveRun:
    made = LiveRun(Place("7", "w"), can_sample=True)
    comfy_live.BOARD.add(made)
    made.begin(0, 5, History())
    made.pictures(0, [b"picture"])
    return made


def test_events_go_to_all_pages_or_to_the_script_that_queued_it(server):
    send = comfy_live.event_sender()
    send("graft.training", {"workflow": "w"})
    send("graft.training", {"workflow": None})
    assert server.sent == [("graft.training", {"workflow": "w"}, None), ("graft.training", {"workflow": None}, "page 1")]


def test_without_a_server_nobody_is_told(monkeypatch):
    monkeypatch.delitem(sys.modules, "server", raising=False)
    assert comfy_live.event_sender() is None
    comfy_live.open_routes.cache_clear()
    comfy_live.open_routes()


def test_a_page_asks_for_runs_history_and_pictures(server, run):
    status, found = server.ask("GET", "/graft/live")
    assert status == 200 and [each["run"] for each in found["runs"]] == [run.id]
    status, history = server.ask("GET", "/graft/live/{run}", run=run.id)
    assert status == 200 and history["points"] == [] and history["until_step"] == 5
    status, (kind, body, _) = server.ask("GET", "/graft/live/{run}/pictures/{step}/{index}", run=run.id, step="0", index="0")
    assert (status, kind, body) == (200, "image/jpeg", b"picture")


def test_wishes_are_accepted_while_it_runs(server, run):
    path = "/graft/live/{run}/wishes/{wish}"
    assert server.ask("POST", path, run=run.id, wish="stop") == (200, {"accepted": True}) and run.wishes() == ("stop",)
    assert server.ask("POST", path, run=run.id, wish="burn")[0] == 400
    run.end("stopped")
    assert server.ask("POST", path, run=run.id, wish="stop") == (409, {"accepted": False})


def test_what_is_unknown_is_not_found(server, run):
    assert server.ask("GET", "/graft/live/{run}", run="../secret") == (404, {"error": "unknown run"})
    assert server.ask("POST", "/graft/live/{run}/wishes/{wish}", run="0" * 16, wish="stop")[0] == 404
    assert server.ask("GET", "/graft/live/{run}/pictures/{step}/{index}", run=run.id, step="1", index="0")[0] == 404
