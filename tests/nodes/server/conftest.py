"""A stand-in for ComfyUI's server: its HTTP paths and its WebSocket, run by a script of events."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from graft.nodes.headless.terminal import Reporter

NUMBER = "11111111-2222-3333-4444-555555555555"
INFO = {
    "Source": {
        "input": {"required": {"seed": ["INT", {"default": 3}], "kind": [["red", "blue"], {}]}},
        "output": ["IMAGE"], "output_node": False, "display_name": "The Source",
    },
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE", {}], "filename_prefix": ["STRING", {"default": "ComfyUI"}]}, "optional": {"list": ["LIST"]}},
        "output": [], "output_node": True, "display_name": "Save Image",
    },
    "Growing": {"input": {"required": {"values": ["COMFY_AUTOGROW_V3", {}]}}, "output": [], "output_node": True, "display_name": "Growing"},
}  # fmt: skip


def frame(kind: int, content: bytes, last: bool = True) -> bytes:
    """A server's frame, written by RFC 6455's own picture."""
    size = len(content)
    head = bytes([(0x80 if last else 0) | kind])
    head += bytes([size]) if size < 126 else b"\x7e" + struct.pack(">H", size) if size < 65536 else b"\x7f" + struct.pack(">Q", size)
    return head + content


def text(kind: str, **data: Any) -> bytes:
    return frame(1, json.dumps({"type": kind, "data": {"prompt_id": NUMBER, **data}}).encode())


def node_text(node: str, words: str) -> bytes:
    """ComfyUI's text on a node: event 3, length of the node's id, id, text."""
    return frame(2, struct.pack(">II", 3, len(node)) + node.encode() + words.encode())


SUCCESS = {"outputs": {}, "status": {"status_str": "success", "messages": []}}


class FakeComfyUI:
    """What it is asked and what it is told is kept; `script` is sent when something is queued, then `entry` is in the history."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, Any]] = []
        self.script: list[bytes | Callable[[], None]] = []
        self.entry: dict[str, Any] | None = SUCCESS
        self.refusal: tuple[int, Any] | None = None
        self.history: dict[str, Any] = {}
        self.waiting: list[str] = []
        self.files = {"a.png": b"picture"}
        self.connections = 0
        self._queued = threading.Event()
        handler = type("Handler", (_Handler,), {"fake": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def get(self, path: str) -> Any:
        if path.startswith("/history/"):
            return self.history
        queue = {"queue_running": [[0, number] for number in self.waiting], "queue_pending": []}
        return {"/system_stats": {"system": {}}, "/object_info": INFO, "/queue": queue}[path]

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        self.posted.append((path, body))
        if path == "/prompt" and self.refusal:
            return self.refusal
        if path == "/prompt":
            self.waiting = [NUMBER]
            self._queued.set()
            return 200, {"prompt_id": NUMBER, "node_errors": {}}
        if path == "/interrupt":
            self.end({"outputs": {}, "status": {"status_str": "error", "messages": [["execution_interrupted", {"node_id": "1"}]]}})
        return 200, None

    def end(self, entry: dict[str, Any]) -> None:
        self.history, self.waiting = {NUMBER: entry}, []

    def play(self, send: Callable[[bytes], Any]) -> None:
        """The events of a run, over a fresh WebSocket."""
        self.connections += 1
        self._queued.wait(10)
        while self.script:
            step = self.script.pop(0)
            if step == b"hang up":
                time.sleep(0.3)  # what was sent before is read first
                return
            step() if callable(step) else send(step)
        if self.entry is not None:
            self.end(self.entry)
            send(text("execution_success"))
            time.sleep(0.3)


class _Handler(BaseHTTPRequestHandler):
    fake: FakeComfyUI
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/ws":
            return self._web_socket()
        if parts.path == "/view":
            return self._answer(200, self.fake.files[parse_qs(parts.query)["filename"][0]])
        self._answer(200, json.dumps(self.fake.get(parts.path)).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, answer = self.fake.post(self.path, body)
        self._answer(status, b"" if answer is None else json.dumps(answer).encode())

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _web_socket(self) -> None:
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        head = f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        self.wfile.write(head.encode())
        self.close_connection = True
        self.fake.play(self.wfile.write)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def fake() -> Iterator[FakeComfyUI]:
    server = FakeComfyUI()
    yield server
    server.close()


@pytest.fixture
def events() -> dict[str, Callable[..., bytes]]:
    """How the stand-in's events are written: frame(kind, bytes, last), text(kind, **data), node_text(node, words)."""
    return {"frame": frame, "text": text, "node_text": node_text}


@pytest.fixture
def screen() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def patience() -> Callable[[], None]:
    """Nobody interrupts; a test that hangs fails."""
    end = time.monotonic() + 30

    def check() -> None:
        assert time.monotonic() < end, "the run has no end"

    return check


@pytest.fixture
def reporter(screen: io.StringIO, patience: Callable[[], None]) -> Reporter:
    """Writes plain lines."""
    return Reporter(screen, patience)


@pytest.fixture
def workflow(tmp_path: Any) -> Any:
    """In UI format: a source and a node that saves, with a seed's extra widget value."""
    nodes = [
        {"id": 1, "type": "Source", "outputs": [{"type": "IMAGE"}], "widgets_values": [7, "randomize", "blue"]},
        {
            "id": 2, "type": "SaveImage", "title": "Keep", "inputs": [{"name": "images", "type": "IMAGE", "link": 1}],
            "widgets_values": ["out"],
        },
    ]  # fmt: skip
    path = tmp_path / "flow.json"
    path.write_text(json.dumps({"nodes": nodes, "links": [[1, 1, 0, 2, 0, "IMAGE"]], "version": 0.4}), encoding="utf-8")
    return path
