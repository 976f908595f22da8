"""One ComfyUI server: its HTTP API, and its WebSocket for whoever queued something."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from ...training.errors import InputError
from .websocket import WebSocket

HTTP_SECONDS = 60.0
NO_ANSWER_REMEDY = "Start ComfyUI there (with --listen if it is another machine), and check address and port."


class Refused(RuntimeError):  # noqa: N818 (the server's answer, not a fault of the program)
    """The server answered with an error; `answer` is what it said, as JSON where it was some."""

    def __init__(self, status: int, answer: Any) -> None:
        self.status, self.answer = status, answer
        super().__init__(f"HTTP {status}: {answer}")


class ComfyServer:
    """The server at `url`, and who we are to it.

    Raises:
        InputError: `url` is none.
    """

    def __init__(self, url: str) -> None:
        self.url, self.client_id = _base_url(url), uuid.uuid4().hex

    def get(self, path: str) -> Any:
        """JSON from a path such as "/queue". Raises OSError (nobody answers) or Refused."""
        return json.loads(self._answer(urllib.request.Request(self.url + path)))

    def post(self, path: str, body: Any) -> Any:
        """Sends JSON and returns the answer's, or None if it is empty. Raises OSError or Refused."""
        request = urllib.request.Request(self.url + path, json.dumps(body).encode("utf-8"), {"Content-Type": "application/json"})
        answer = self._answer(request)
        return json.loads(answer) if answer.strip() else None

    def view_url(self, file: Mapping[str, Any]) -> str:
        """Where a file that a node made can be seen."""
        query = {name: str(file.get(name) or "") for name in ("filename", "subfolder", "type")}
        return f"{self.url}/view?{urlencode(query, quote_via=quote)}"

    def download(self, file: Mapping[str, Any]) -> bytes:
        """The bytes of such a file. Raises OSError or Refused."""
        return self._answer(urllib.request.Request(self.view_url(file)))

    def listen(self) -> WebSocket:
        """What the server tells about what we queue. Raises OSError."""
        return WebSocket(f"ws{self.url.removeprefix('http')}/ws?clientId={self.client_id}")

    def _answer(self, request: urllib.request.Request) -> bytes:
        try:
            with urllib.request.urlopen(request, timeout=HTTP_SECONDS) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise Refused(error.code, _json_or_text(error.read())) from error


def require_comfyui(server: ComfyServer) -> None:
    """Raises InputError unless a ComfyUI answers there."""
    try:
        stats = server.get("/system_stats")
        found = "something else that answers there" if not isinstance(stats, dict) or "system" not in stats else ""
    except (OSError, ValueError, Refused) as error:
        found = str(getattr(error, "reason", error)) or type(error).__name__
    if found:
        raise InputError("--server", expected=f"a running ComfyUI at {server.url}", found=found, remedy=NO_ANSWER_REMEDY)


def _base_url(url: str) -> str:
    full = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(full)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0 and not parts.query
    except ValueError:
        usable = False
    if not usable:
        raise InputError("--server", expected="an address such as http://127.0.0.1:8188", found=url or "nothing", remedy="Give ComfyUI's.")
    return full.rstrip("/")


def _json_or_text(answer: bytes) -> Any:
    try:
        return json.loads(answer)
    except ValueError:
        return answer.decode("utf-8", errors="replace").strip()
