"""What a server tells while it runs our workflow, shown as if it ran here; and its end, whichever it is."""

from __future__ import annotations

import json
import re
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ...training.errors import InputError, StoppedTraining
from ..headless.graph import Graph
from ..headless.terminal import Reporter, TerminalProgress
from .client import ComfyServer, Refused
from .send import name_of
from .websocket import Message, WebSocket

LISTEN_SECONDS, QUIET_SECONDS, GONE_SECONDS, CANCEL_SECONDS = 0.25, 2.0, 60.0, 60.0
TEXT_EVENT = 3
"""Number of the binary message that carries the text on a node (protocol.BinaryEventTypes.TEXT)."""
_STANDING = re.compile(r"(\d+)/(\d+) (\w+?)s(?:, (.*))?")
_FIGURE = re.compile(r"([a-z][a-z ]*) (-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)")
_ENDS = ("execution_success", "execution_error", "execution_interrupted")


class RemoteError(StoppedTraining):
    """A node failed on the server, the run was stopped there, or the server is gone."""


class RemoteInputError(InputError):
    """A node on the server could not use what it was given."""

    def __init__(self, node: str, said: str) -> None:
        super().__init__(node, expected="what it can use", found=said, remedy="")
        self.args = (f"{node} failed on the server: {said}",)  # the server has said in the same way what was expected and found


class Display:
    """Turns the server's messages into the lines and the bar of a run in this terminal."""

    def __init__(self, graph: Graph, number: str, reporter: Reporter, clock: Callable[[], float] = time.monotonic) -> None:
        self._graph, self._number, self._reporter, self._clock = graph, number, reporter, clock
        self._node: str | None = None
        self._since, self._seen = 0.0, set[str]()
        self._bar: TerminalProgress | None = None
        self._total, self._unit, self._done = 0, "", 0
        self.may_have_ended = False

    def hear(self, message: Message) -> None:
        """Anything that is not understood, or about another run, is passed over: servers grow new messages."""
        kind, content = message
        with suppress(ValueError, KeyError, TypeError, AttributeError, struct.error):
            if kind == "text":
                event = json.loads(content)
                self._event(event["type"], event["data"])
            else:
                self._binary(content)

    def end(self) -> None:
        """Closes the last node's bar and line."""
        self._leave_node()

    def _event(self, kind: str, data: Mapping[str, Any]) -> None:
        if data.get("prompt_id") != self._number:
            return
        if kind == "execution_cached":
            self._seen |= {str(node) for node in data["nodes"]}
        elif kind == "executing":
            self._enter_node(data.get("display_node") or data["node"])
        elif kind == "progress":
            self._standing(int(data["value"]), int(data["max"]), self._unit or "step", {})
        self.may_have_ended = self.may_have_ended or kind in _ENDS

    def _binary(self, content: bytes) -> None:
        event, length = struct.unpack(">II", content[:8])
        if event == TEXT_EVENT and content[8 : 8 + length].decode("utf-8") == self._node:
            found = _STANDING.fullmatch(content[8 + length :].decode("utf-8"))
            if found:
                figures = {name.replace(" ", "_"): float(value) for name, value in _FIGURE.findall(found[4] or "")}
                self._standing(int(found[1]), int(found[2]), found[3], figures)

    def _enter_node(self, node: Any) -> None:
        if node is not None and str(node) == self._node:
            return
        self._leave_node()
        if node is None:
            self.may_have_ended = True
            return
        self._node, self._since = str(node), self._clock()
        self._seen.add(self._node)
        known = self._graph.nodes.get(self._node)
        name = f"{known.title} (node {known.id})" if known else f"node {self._node}"
        self._reporter.node_started(len(self._seen & set(self._graph.nodes)) or 1, len(self._graph.nodes), name)

    def _leave_node(self) -> None:
        self._close_bar()
        if self._node is not None:
            self._reporter.node_finished(self._clock() - self._since)
        self._node = None

    def _standing(self, done: int, total: int, unit: str, figures: Mapping[str, float]) -> None:
        """The bar and the text tell of the same work: a new one begins when the total or the unit is another, or when the count falls."""
        if self._bar is None or (total, unit) != (self._total, self._unit) or done < self._done:
            self._close_bar()
            self._bar = self._reporter.progress()
            self._total, self._unit = total, unit
            self._bar.start(total, unit)
        self._done = done
        self._bar.advance(done, **figures)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.finish()
        self._bar, self._unit = None, ""


def follow(server: ComfyServer, socket: WebSocket, graph: Graph, number: str, reporter: Reporter) -> dict[str, Any]:
    """Shows the run `number` until it has ended, and returns what the server remembers of it. Ctrl-C ends it there, too.

    Raises:
        RemoteInputError: a node could not use what it was given.
        RemoteError: a node failed otherwise, somebody stopped the run, or the server has gone.
        BaseException: what the reporter raises when the user asks to stop, after the server was told.
    """
    display, run = Display(graph, number, reporter), _Run(server, socket, number)
    try:
        entry = run.until_it_ends(display, reporter.check_interrupt)
    except RemoteError:
        raise
    except BaseException:
        run.cancel()
        raise
    finally:
        display.end()
        run.close()
    _require_success(graph, entry)
    return entry


class _Run:
    """A queued run: listens while the connection lives, and asks for its end when all is quiet."""

    def __init__(self, server: ComfyServer, socket: WebSocket, number: str) -> None:
        self._server, self._number = server, number
        self._socket: WebSocket | None = socket

    def until_it_ends(self, display: Display, check_interrupt: Callable[[], None]) -> dict[str, Any]:
        heard, answered = time.monotonic(), time.monotonic()
        while True:
            check_interrupt()
            message = self._listen()
            if message is not None:
                heard = time.monotonic()
                display.hear(message)
            if not display.may_have_ended and time.monotonic() - heard < QUIET_SECONDS:
                continue
            display.may_have_ended, heard = False, time.monotonic()
            with suppress(OSError, Refused, ValueError):
                entry = self._remembered()
                if entry is not None:
                    return entry
                answered = time.monotonic()
            if time.monotonic() - answered > GONE_SECONDS:
                raise RemoteError(f"The server at {self._server.url} no longer answers. What was trained there is kept: send the workflow again.")

    def cancel(self) -> None:
        """Takes the run out of the queue, or interrupts it if it is the one that runs, and waits a little for it to save."""
        with suppress(OSError, Refused, ValueError):
            self._server.post("/queue", {"delete": [self._number]})
            self._server.post("/interrupt", {"prompt_id": self._number})
            end = time.monotonic() + CANCEL_SECONDS
            while self._server.get(f"/history/{self._number}").get(self._number) is None and self._waits() and time.monotonic() < end:
                time.sleep(LISTEN_SECONDS)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def _listen(self) -> Message | None:
        """A lost connection is opened anew; meanwhile the history tells the end."""
        try:
            if self._socket is None:
                self._socket = self._server.listen()
            return self._socket.receive(LISTEN_SECONDS)
        except OSError:
            self._socket = None
            time.sleep(LISTEN_SECONDS)
            return None

    def _remembered(self) -> dict[str, Any] | None:
        """The run's entry in the server's history; None while it waits or runs."""
        entry = self._server.get(f"/history/{self._number}").get(self._number)
        if entry is None and not self._waits():
            entry = self._server.get(f"/history/{self._number}").get(self._number)  # it may have ended between the two questions
            if entry is None:
                raise RemoteError("The server no longer knows this run: it was restarted, or somebody took it out of the queue.")
        return entry

    def _waits(self) -> bool:
        queued = self._server.get("/queue")
        return any(self._number in item[:2] for name in ("queue_running", "queue_pending") for item in queued[name])


def _require_success(graph: Graph, entry: Mapping[str, Any]) -> None:
    status = entry.get("status") or {}
    if status.get("status_str") in (None, "success"):
        return
    events = dict(status.get("messages", ()))
    if "execution_error" in events:
        from ...training.data.shards import DamagedShardError  # not before it is needed: it imports torch

        error = events["execution_error"]
        kind, text = str(error.get("exception_type", "")).rpartition(".")[2], str(error.get("exception_message", "")).strip()
        node = name_of(graph, error.get("node_id"))
        if kind in (InputError.__name__, DamagedShardError.__name__):
            raise RemoteInputError(node, text)
        raise RemoteError(f"{node} failed on the server: {text} ({kind})")
    node = name_of(graph, events.get("execution_interrupted", {}).get("node_id"))
    raise RemoteError(f"The run was stopped on the server at {node}. What was trained is kept: send the workflow again to go on.")
