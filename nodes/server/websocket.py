"""A WebSocket client (RFC 6455) of what is needed to listen to a server: text and binary messages, pings, closing."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import ssl
import struct
from typing import Literal
from urllib.parse import urlsplit

ACCEPT_SUFFIX = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
READ_BYTES = 1 << 16
LARGEST_MESSAGE_BYTES = 1 << 28
LARGEST_HEAD_BYTES = 1 << 16

Message = tuple[Literal["text", "binary"], bytes]


class WebSocketError(ConnectionError):
    """The connection was refused, broke, or ended."""


class WebSocket:
    """A connection to ws:// or wss://, opened by `__init__`.

    Args:
        url: with path and query.
        timeout_seconds: for connecting.

    Raises:
        OSError: nobody answers there. WebSocketError (one of them): whoever answers speaks no WebSocket.
    """

    def __init__(self, url: str, timeout_seconds: float = 30.0) -> None:
        parts = urlsplit(url)
        secure = parts.scheme == "wss"
        host, port = parts.hostname or "", parts.port or (443 if secure else 80)
        self._buffer, self._message, self._kind = bytearray(), bytearray(), TEXT
        connection = socket.create_connection((host, port), timeout_seconds)
        try:
            self._socket = ssl.create_default_context().wrap_socket(connection, server_hostname=host) if secure else connection
            self._shake_hands(parts.netloc, f"{parts.path or '/'}?{parts.query}")
        except BaseException:
            connection.close()
            raise

    def receive(self, timeout_seconds: float) -> Message | None:
        """The next message, or None if none has come whole within about that time; what has come of it is kept for the next call.

        Raises:
            WebSocketError: the connection has ended.
        """
        while True:
            frame = self._next_frame()
            if frame is None:
                if not self._read_more(timeout_seconds):
                    return None
                continue
            message = self._taken(*frame)
            if message is not None:
                return message

    def close(self) -> None:
        """Says goodbye and ends the connection; a server that is gone already is left in peace."""
        try:
            self._send(CLOSE, struct.pack(">H", 1000))
        except OSError:
            pass
        finally:
            self._socket.close()

    # ------------------------------------------------------------ opening

    def _shake_hands(self, host: str, target: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode("ascii")
        lines = [
            f"GET {target} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        ]  # fmt: skip
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
        status, headers = self._answer()
        expected = base64.b64encode(hashlib.sha1((key + ACCEPT_SUFFIX).encode("ascii")).digest()).decode("ascii")
        if " 101 " not in f"{status} " or headers.get("sec-websocket-accept") != expected:
            raise WebSocketError(f"the server opens no WebSocket there: {status}")

    def _answer(self) -> tuple[str, dict[str, str]]:
        while b"\r\n\r\n" not in self._buffer:
            data = self._socket.recv(READ_BYTES)
            if not data or len(self._buffer) > LARGEST_HEAD_BYTES:
                raise WebSocketError("the server ended the connection while it was being opened")
            self._buffer += data
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        self._buffer = bytearray(rest)
        status, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return status, {name.strip().lower(): value.strip() for name, _, value in pairs}

    # ------------------------------------------------------------ frames

    def _read_more(self, timeout_seconds: float) -> bool:
        self._socket.settimeout(timeout_seconds)
        try:
            data = self._socket.recv(READ_BYTES)
        except TimeoutError:
            return False
        except OSError as error:
            raise WebSocketError(f"the connection broke: {error}") from error
        if not data:
            raise WebSocketError("the server ended the connection")
        self._buffer += data
        return True

    def _next_frame(self) -> tuple[bool, int, bytes] | None:
        """(last of its message, kind, content) of the first frame that has come whole; a server masks nothing."""
        if len(self._buffer) < 2:
            return None
        first, second = self._buffer[0], self._buffer[1]
        extra = {126: 2, 127: 8}.get(second & 0x7F, 0)
        if len(self._buffer) < 2 + extra:
            return None
        size = int.from_bytes(self._buffer[2 : 2 + extra], "big") if extra else second & 0x7F
        if second & 0x80 or size > LARGEST_MESSAGE_BYTES:
            raise WebSocketError("the server broke the WebSocket protocol")
        end = 2 + extra + size
        if len(self._buffer) < end:
            return None
        content = bytes(self._buffer[2 + extra : end])
        del self._buffer[:end]
        return bool(first & 0x80), first & 0x0F, content

    def _taken(self, last: bool, kind: int, content: bytes) -> Message | None:
        """Answers what is for the connection itself, gathers the rest into messages."""
        if kind == CLOSE:
            raise WebSocketError("the server ended the connection")
        if kind == PING:
            self._send(PONG, content)
        if kind in (PING, PONG):
            return None
        if kind != CONTINUATION:
            self._kind, self._message = kind, bytearray()
        self._message += content
        return ("text" if self._kind == TEXT else "binary", bytes(self._message)) if last else None

    def _send(self, kind: int, content: bytes) -> None:
        """A client masks what it sends; ours is short (pongs, goodbye)."""
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(content[:125]))
        self._socket.settimeout(5.0)
        self._socket.sendall(bytes([0x80 | kind, 0x80 | len(masked)]) + mask + masked)
