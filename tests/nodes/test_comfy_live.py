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
from graft.training.store import RunStore


class Server:
    """As much of ComfyUI's PromptServer as is used."""

    def __init__(self) -> None:
        self.sent, self.handlers, self.client_id, self.sockets = [], {}, "page 1", {}
        self.routes = SimpleNamespace(get=self._adder("GET"), post=self._adder("POST"), delete=self._adder("DELETE"))

    def send_sync(self, event, data, sid=None):
        self.sent.append((event, data, sid))

    def _adder(self, method):
        return lambda path: lambda handler: self.handlers.setdefault((method, path), handler)

    def ask(self, method, path, **names):
        """(status, body) of a route's answer."""
        return asyncio.run(self.handlers[method, path](SimpleNamespace(match_info=names)))


@pytest.fixture
def store(tmp_path) -> RunStore:
    """A run with a workflow and a picture."""
    folder = tmp_path / "runs" / "abc"
    (folder / "step_00000001").mkdir(parents=True)
    inputs = {"recipe": {"kind": "lora", "rank": 4}, "base_fingerprint": "f" * 64, "base_sizes": {"double_depth": 19, "single_depth": 38}}
    (folder / "run.json").write_text(json.dumps(inputs), encoding="utf-8")
    record = {"step": 1, "loss": 0.5, "learning_rate": 1e-3, "gradient_norm": 1.0, "buckets": {}, "seconds": 0.1}
    (folder / "losses.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    (folder / "workflow.json").write_text('{"nodes": []}', encoding="utf-8")
    (folder / "picture.jpg").write_bytes(b"picture")
    return RunStore(tmp_path / "runs")


@pytest.fixture
def server(monkeypatch, store) -> Server:
    made = Server()
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=made)))
    web = SimpleNamespace(
        json_response=lambda data, status=200: (status, json.loads(json.dumps(data))),
        Response=lambda body, content_type, headers: (200, (content_type, body, headers)),
    )
    monkeypatch.setitem(sys.modules, "aiohttp", SimpleNamespace(web=web))
    monkeypatch.setattr(comfy_live, "BOARD", Board())
    monkeypatch.setattr(comfy_live, "_PAGES", {})
    monkeypatch.setattr(comfy_live, "current_host", lambda: SimpleNamespace(runs_folder=lambda: store.folder))
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


def test_events_go_to_the_pages_that_understand_them_or_to_the_script_that_queued_it(server):
    server.sockets = {"page 1": object(), "page 2": object(), "a script": object()}
    for page in ("page 1", "page 2"):
        assert server.ask("POST", "/graft/pages/{page}", page=page) == (200, {"listening": True})
    send = comfy_live.event_sender()
    send("graft.training", {"workflow": "w"})
    send("graft.training", {"workflow": None})
    assert [(data["workflow"], page) for _, data, page in server.sent] == [("w", "page 1"), ("w", "page 2"), (None, "page 1")]


def test_a_page_that_is_being_loaded_again_gets_no_events_before_it_asks(server):
    server.sockets = {"page 1": object()}
    server.ask("POST", "/graft/pages/{page}", page="page 1")
    server.sockets = {"page 1": object()}
    send = comfy_live.event_sender()
    send("graft.training", {"workflow": "w"})
    assert server.sent == []
    server.ask("POST", "/graft/pages/{page}", page="page 1")
    send("graft.training", {"workflow": "w"})
    assert len(server.sent) == 1
    assert server.ask("POST", "/graft/pages/{page}", page="page 9") == (404, {"error": "unknown page"})


def test_pages_that_have_gone_are_forgotten(server):
    for number in range(100):
        server.sockets = {f"page {number}": object()}
        server.ask("POST", "/graft/pages/{page}", page=f"page {number}")
    assert len(comfy_live._PAGES) == 1


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


def test_the_runs_browser_lists_and_opens_runs(server):
    status, found = server.ask("GET", "/graft/runs")
    (run,) = found["runs"]
    assert status == 200 and (run["name"], run["kind"], run["steps"]) == ("abc", "lora rank 4", 1)
    assert (run["base"], run["base_blocks"]) == ("ffffff", "19+38")
    status, opened = server.ask("GET", "/graft/runs/{name}", name="abc")
    assert status == 200 and opened["points"] == [[1, 1, 0.5, 0.5, 0.5, 0.001]] and opened["inputs"]["recipe"] == {"kind": "lora", "rank": 4}
    assert server.ask("GET", "/graft/runs/{name}/workflow", name="abc") == (200, {"nodes": []})
    assert server.ask("GET", "/graft/runs/{name}/picture", name="abc")[1][1] == b"picture"


def test_the_runs_browser_removes_only_what_is_there(server, store):
    for name in ("..", "../runs/abc", "nobody"):
        for method, path in (("GET", "/graft/runs/{name}"), ("GET", "/graft/runs/{name}/picture"), ("DELETE", "/graft/runs/{name}")):
            status, answer = server.ask(method, path, name=name)
            assert status == 409 and "name of a run" in answer["error"]
    assert server.ask("DELETE", "/graft/runs/{name}", name="abc")[0] == 200 and not (store.folder / "abc").exists()


def test_what_a_run_does_not_have_is_not_found(server, store):
    (store.folder / "abc" / "workflow.json").unlink()
    assert server.ask("GET", "/graft/runs/{name}/workflow", name="abc")[0] == 404
