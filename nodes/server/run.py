"""`graft run --server URL`: sends a workflow to a running ComfyUI, follows it to its end, and tells where its results are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...training.errors import InputError
from ...training.files.write import require_writable_folder, write_bytes
from ..headless.graph import Graph
from ..headless.terminal import Reporter
from .client import NO_ANSWER_REMEDY, ComfyServer, Refused, require_comfyui
from .follow import follow
from .send import graph_for, name_of, queue, require_outputs

File = Mapping[str, Any]
"""As ComfyUI names a file that a node made: filename, subfolder, type (output, temp or input)."""


def run_on_server(url: str, path: Path, settings: Sequence[str], output: Path | None, reporter: Reporter) -> str:
    """Runs a workflow file there and returns what to tell the user at the end. Downloads pictures only if `output` names a folder.

    Raises:
        InputError: no ComfyUI answers, the workflow cannot run there, or one of its nodes cannot use what it was given.
        RemoteError: it began and did not end well.
    """
    server = ComfyServer(url)
    if output is not None:
        require_writable_folder(output, "--output")
    require_comfyui(server)
    try:
        graph = graph_for(server, path, settings)
        socket = server.listen()
        number, left_out = queue(server, graph)
    except (OSError, Refused) as error:
        raise InputError("--server", expected=f"ComfyUI's answers from {server.url}", found=error, remedy=NO_ANSWER_REMEDY) from error
    for problem in left_out:
        reporter.line(f"warning: left out, {problem}")
    entry = follow(server, socket, graph, number, reporter)
    reporter.clear()
    return "\n".join(_summary(server, graph, require_outputs(graph, entry.get("outputs", {})), output))


def _summary(server: ComfyServer, graph: Graph, outputs: Mapping[str, Any], output: Path | None) -> Iterator[str]:
    for table in outputs.values():
        yield from (str(text) for text in _listed(table, "text"))
    files = [(id, file) for id, table in outputs.items() for file in files_of(table)]
    yield f"Made by {server.url}:" if files else f"Nothing new was shown by {server.url} (nodes that had not changed show nothing)."
    for id, file in files:
        place = "/".join(str(file[part]) for part in ("type", "subfolder", "filename") if file.get(part))
        yield f"  {name_of(graph, id)}: {place}  {server.view_url(file)}"
    if output is not None:
        yield from (f"Downloaded: {_download(server, file, output)}" for _, file in files)


def files_of(table: Any) -> Iterator[File]:
    """The files that a node's output names, whatever it calls them (images, gifs, audio)."""
    for name in table if isinstance(table, dict) else ():
        yield from (entry for entry in _listed(table, name) if isinstance(entry, dict) and entry.get("filename"))


def _listed(table: Any, name: str) -> list[Any]:
    found = table.get(name) if isinstance(table, dict) else None
    return list(found) if isinstance(found, (list, tuple)) else []


def _download(server: ComfyServer, file: File, folder: Path) -> Path:
    """What the server calls a file is not trusted to stay within the folder."""
    target = (folder / str(file.get("subfolder") or "") / str(file["filename"])).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise InputError("--output", expected="files within the folder", found=f"one that the server calls {target}", remedy="Download by hand.")
    try:
        content = server.download(file)
    except (OSError, Refused) as error:
        raise InputError("--output", expected=f"{file['filename']} from {server.url}", found=error, remedy="Send the workflow again.") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, content)
    return target
