"""A real ComfyUI server with the pack among its custom nodes, on a free port, with folders of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FAULTS = Path(__file__).with_name("faults.py")
PATIENCE = float(os.environ.get("GRAFT_TEST_PATIENCE") or 1)
"""How much longer than usual a test may wait, for machines that are busy with other work."""
START_SECONDS, RUN_SECONDS, ANSWER_SECONDS = 900 * PATIENCE, 900 * PATIENCE, 60 * PATIENCE
POLL_SECONDS, FORGET_SECONDS = 0.1, 2.0
OPTIONS = ("--cpu", "--use-pytorch-cross-attention", "--disable-auto-launch", "--disable-api-nodes", "--database-url", "sqlite:///:memory:")


class Server:
    """One ComfyUI process; `start` again after `kill` goes on with the same folders."""

    def __init__(self, comfyui: Path, folder: Path) -> None:
        self._comfyui, self.folder = comfyui, folder
        for name in ("custom_nodes", "input", "output", "temp", "user", "models"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "custom_nodes" / "graft").symlink_to(ROOT, target_is_directory=True)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self._url

    @property
    def checkout(self) -> Path:
        return self._comfyui

    @property
    def output(self) -> Path:
        return self.folder / "output"

    @property
    def runs(self) -> list[Path]:
        """The folders of the store that hold a training."""
        return sorted(file.parent for file in (self.output / "graft" / "runs").glob("*/losses.jsonl"))

    def trained_steps(self) -> int:
        """How often a step was done; one that was done again counts again."""
        return sum((run / "losses.jsonl").read_text(encoding="utf-8").count('"loss"') for run in self.runs)

    def add_faults(self) -> None:
        """Before `start`: lets `no_memory_after` act."""
        shutil.copy(FAULTS, self.folder / "custom_nodes" / FAULTS.name)

    def no_memory_after(self, backward_passes: int | None) -> None:
        """From now on memory runs out after so many backward passes (None: there is enough)."""
        flag = self.folder / "custom_nodes" / "no_memory_after"
        if backward_passes is None:
            flag.unlink(missing_ok=True)
        else:
            flag.write_text(str(backward_passes))

    def resident_bytes(self) -> int:
        """What the process holds in memory now (Linux)."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))

    def prompt(self, links: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
        """A workflow in API format from {id: (node type, inputs)}; what is not said has the value that its widget begins with."""
        return {id: {"class_type": kind, "inputs": {**self._defaults(kind), **given}} for id, (kind, given) in links.items()}

    def _defaults(self, kind: str) -> dict[str, Any]:
        required = self.get(f"/object_info/{kind}")[kind]["input"].get("required", {})
        found = {name: (entry[0], entry[1] if len(entry) > 1 else {}) for name, entry in required.items()}
        choices = {name: values if isinstance(values, list) else options.get("options") for name, (values, options) in found.items()}
        listed = {name: values[0] for name, values in choices.items() if values}
        return listed | {name: options["default"] for name, (_, options) in found.items() if "default" in options}

    def start(self, *options: str) -> None:
        """On a free port; `options` beside those of every server."""
        self._url = f"http://127.0.0.1:{_free_port()}"
        python, port = os.environ.get("COMFYUI_PYTHON") or sys.executable, self._url.rpartition(":")[2]
        command = [python, "main.py", "--listen", "127.0.0.1", "--port", port, "--base-directory", str(self.folder), *OPTIONS, *options]
        with (self.folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._comfyui, stdout=log, stderr=subprocess.STDOUT)
        self._wait_until_it_answers()

    def kill(self) -> None:
        """Without warning, as the system does when memory runs out."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def log(self) -> str:
        return (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self._url + path, timeout=ANSWER_SECONDS) as answer:
            return json.load(answer)

    def post(self, path: str, body: Any) -> Any:
        request = urllib.request.Request(self._url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode("utf-8", errors="replace")) from error

    def queue(self, prompt: dict[str, Any]) -> str:
        """The number of the queued run. AssertionError with the server's words if it refuses the workflow."""
        return self.post("/prompt", {"prompt": prompt})["prompt_id"]

    def finished(self, number: str) -> dict[str, Any]:
        """What the server remembers of a run, once it has ended in whichever way."""
        return self.wait_for(lambda: self.get(f"/history/{number}").get(number))

    def run(self, prompt: dict[str, Any]) -> Run:
        """Queues a workflow and waits for its good end."""
        found = Run(self.finished(self.queue(prompt)))
        assert found.status == "success", f"{found.messages}\n{self.log()[-3000:]}"
        return found

    def forget(self) -> None:
        """Empties ComfyUI's own cache, which its worker does as soon as it sees that it is asked to."""
        self.post("/free", {"unload_models": True, "free_memory": True})
        time.sleep(FORGET_SECONDS)

    def wait_for(self, condition: Any) -> Any:
        """The first true answer of `condition`."""
        end = time.monotonic() + RUN_SECONDS
        while time.monotonic() < end:
            if found := condition():
                return found
            time.sleep(POLL_SECONDS)
        raise TimeoutError(self.log()[-3000:])

    def _wait_until_it_answers(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            assert self._process is not None and self._process.poll() is None, self.log()[-3000:]
            try:
                self.get("/system_stats")
                return
            except OSError:
                time.sleep(5 * POLL_SECONDS)
        raise TimeoutError(self.log()[-3000:])


class Run:
    """A finished run of a workflow."""

    def __init__(self, remembered: dict[str, Any]) -> None:
        self.outputs: dict[str, Any] = remembered["outputs"]
        self.status: str = remembered["status"]["status_str"]
        self.messages: list[Any] = remembered["status"]["messages"]

    @property
    def cached(self) -> set[str]:
        """Nodes that ComfyUI did not run again."""
        return {node for kind, data in self.messages if kind == "execution_cached" for node in data["nodes"]}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
