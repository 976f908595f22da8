"""`graft run --server` against a stand-in for ComfyUI: what is sent, what is shown, how it ends; the real one is in tests/integration."""

from __future__ import annotations

import json

import pytest
from graft.nodes.headless.cli import main
from graft.nodes.headless.graph import GraphError
from graft.nodes.headless.terminal import Reporter
from graft.nodes.server.follow import RemoteError
from graft.nodes.server.run import run_on_server
from graft.training.errors import InputError

SAVED = {"outputs": {"2": {"images": [{"filename": "a.png", "subfolder": "s", "type": "output"}]}}, "status": {"status_str": "success"}}


def test_a_ui_workflow_is_sent_in_api_format_with_the_servers_own_declarations(fake, workflow, reporter):
    run_on_server(fake.url, workflow, ["Keep.filename_prefix=other"], None, reporter)
    (path, body), *_ = fake.posted
    assert path == "/prompt" and body["client_id"] and body["extra_data"]["extra_pnginfo"]["workflow"]["version"] == 0.4
    assert body["prompt"]["1"] == {"class_type": "Source", "inputs": {"seed": 7, "kind": "blue"}, "_meta": {"title": "The Source"}}
    assert body["prompt"]["2"]["inputs"] == {"filename_prefix": "other", "images": ["1", 0]}


def test_api_format_keeps_lists_apart_from_links(fake, tmp_path, reporter):
    path = tmp_path / "api.json"
    inputs = {"images": ["1", 0], "filename_prefix": "x", "list": {"__value__": ["1", 0]}}
    nodes = {"1": {"class_type": "Source", "inputs": {"seed": 1, "kind": "red"}}, "2": {"class_type": "SaveImage", "inputs": inputs}}
    path.write_text(json.dumps(nodes), encoding="utf-8")
    run_on_server(fake.url, path, [], None, reporter)
    assert fake.posted[0][1]["prompt"]["2"]["inputs"] == inputs and "extra_data" not in fake.posted[0][1]


def test_progress_is_shown_as_in_a_run_of_our_own(fake, workflow, screen, events, reporter):
    text, node_text = events["text"], events["node_text"]
    fake.script = [
        text("execution_cached", nodes=["1"]), text("executing", node="2"), text("progress", node="2", value=1, max=4),
        node_text("2", "1/4 steps, loss 0.5, learning rate 0.0001"), text("progress", node="2", value=4, max=4),
        node_text("2", "4/4 steps, loss 0.25, learning rate 2e-05"), text("executing", node=None),
    ]  # fmt: skip
    fake.entry = SAVED
    said = run_on_server(fake.url, workflow, [], None, reporter)
    assert "[2/2] Keep (node 2)" in screen.getvalue()
    assert "[########################] 4/4 steps  loss 0.25  learning rate 2e-05" in screen.getvalue()
    assert f'node 2 "Keep" (SaveImage): output/s/a.png  {fake.url}/view?filename=a.png&subfolder=s&type=output' in said


def test_other_runs_and_unknown_messages_are_passed_over(fake, workflow, screen, events, reporter):
    frame = events["frame"]
    other = json.dumps({"type": "executing", "data": {"node": "1", "prompt_id": "somebody's"}}).encode()
    fake.script = [frame(1, other), frame(1, b"no json"), frame(2, b"\0"), frame(1, b'{"type": "status"}'), events["text"]("crystools.monitor")]
    run_on_server(fake.url, workflow, [], None, reporter)
    assert "node 1" not in screen.getvalue()


def test_pings_long_and_divided_messages_and_a_lost_connection(fake, workflow, screen, events, reporter):
    frame, text = events["frame"], events["text"]
    message = json.dumps({"type": "executing", "data": {"node": "1", "prompt_id": "11111111-2222-3333-4444-555555555555", "pad": "x" * 70_000}})
    fake.script = [
        frame(9, b"are you there"), frame(1, message[:300].encode(), False), frame(9, b""), frame(0, message[300:].encode()),
        b"hang up", text("executing", node="2"),
    ]  # fmt: skip
    run_on_server(fake.url, workflow, [], None, reporter)
    assert fake.connections == 2
    assert "The Source (node 1)" in screen.getvalue() and "Keep (node 2)" in screen.getvalue()


def test_pictures_are_downloaded_only_on_request(fake, workflow, reporter, tmp_path):
    fake.entry = SAVED
    assert "Downloaded" not in run_on_server(fake.url, workflow, [], None, reporter)
    said = run_on_server(fake.url, workflow, [], tmp_path / "here", reporter)
    assert (tmp_path / "here" / "s" / "a.png").read_bytes() == b"picture" and "Downloaded" in said


def test_a_file_is_never_written_outside_the_folder(fake, workflow, reporter, tmp_path):
    fake.entry = {"outputs": {"2": {"images": [{"filename": "../../a.png", "subfolder": "", "type": "output"}]}}, "status": {}}
    with pytest.raises(InputError, match="files within the folder"):
        run_on_server(fake.url, workflow, [], tmp_path / "here", reporter)
    assert not (tmp_path.parent / "a.png").exists()


def test_what_the_server_refuses_is_told_with_id_and_title(fake, workflow, reporter):
    reasons = [{"type": "x", "message": "Value not in list", "details": "kind: 'green' not in ['red', 'blue']"}]
    fake.refusal = 400, {"error": {"message": "Prompt outputs failed validation"}, "node_errors": {"1": {"errors": reasons, "class_type": "Source"}}}
    with pytest.raises(GraphError, match=r'node 1 "The Source" \(Source\): Value not in list: kind: .green. not in') as caught:
        run_on_server(fake.url, workflow, [], None, reporter)
    assert len(caught.value.problems) == 1
    fake.refusal = 400, {"error": {"type": "prompt_no_outputs", "message": "Prompt has no outputs", "details": ""}, "node_errors": []}
    with pytest.raises(GraphError, match="Prompt has no outputs"):
        run_on_server(fake.url, workflow, [], None, reporter)


def test_a_node_that_fails_is_named(fake, workflow, reporter):
    error = {"node_id": "1", "exception_message": "steps: expected 1 or more\n", "exception_type": "graft.training.errors.InputError"}
    fake.entry = {"outputs": {}, "status": {"status_str": "error", "messages": [["execution_start", {}], ["execution_error", error]]}}
    with pytest.raises(InputError, match=r'^node 1 "The Source" \(Source\) failed on the server: steps: expected 1 or more$'):
        run_on_server(fake.url, workflow, [], None, reporter)
    error |= {"exception_message": "edge F1: expected at least 0.90", "exception_type": "graft.training.errors.NotPassedError"}
    with pytest.raises(RemoteError, match=r"failed on the server: edge F1: expected at least 0.90 \(NotPassedError\)"):
        run_on_server(fake.url, workflow, [], None, reporter)


def test_nodes_that_the_server_lacks_or_that_only_the_page_understands(fake, tmp_path, reporter):
    path = tmp_path / "flow.json"
    nodes = [{"id": 1, "type": "Nowhere"}, {"id": 2, "type": "Growing", "widgets_values": [1, 2]}, {"id": 3, "type": "Growin"}]
    path.write_text(json.dumps({"nodes": nodes, "links": []}), encoding="utf-8")
    with pytest.raises(GraphError, match=r"no nodes of type Nowhere") as caught:
        run_on_server(fake.url, path, [], None, reporter)
    nowhere, near, growing = caught.value.problems
    assert nowhere.endswith("brings them there") and near.endswith("Did you mean Growing?") and "Export (API)" in growing and not fake.posted


def test_ctrl_c_interrupts_there_and_waits_for_the_end(fake, workflow, screen, events):
    class Stop(KeyboardInterrupt): ...

    looked = []

    def check() -> None:
        looked.append(1)
        if len(looked) > 3:
            raise Stop

    fake.script, fake.entry = [events["text"]("executing", node="1")], None
    with pytest.raises(Stop):
        run_on_server(fake.url, workflow, [], None, Reporter(screen, check))
    number = "11111111-2222-3333-4444-555555555555"
    assert fake.posted[1:] == [("/queue", {"delete": [number]}), ("/interrupt", {"prompt_id": number})]


def test_a_run_that_was_stopped_there(fake, workflow, reporter):
    fake.script, fake.entry = [lambda: fake.post("/interrupt", {})], None
    with pytest.raises(RemoteError, match=r'stopped on the server at node 1 "The Source"'):
        run_on_server(fake.url, workflow, [], None, reporter)


def test_a_run_that_was_forgotten_there(fake, workflow, reporter):
    fake.script, fake.entry = [lambda: fake.waiting.clear()], None
    with pytest.raises(RemoteError, match="no longer knows this run"):
        run_on_server(fake.url, workflow, [], None, reporter)


def test_the_command_line(fake, workflow, capsys):
    assert main(["run", str(workflow), "--server", fake.url.removeprefix("http://")]) == 0
    assert "Nothing new was shown" in capsys.readouterr().out
    assert main(["run", str(workflow), "--server", "http://127.0.0.1:9"]) == 2
    assert "expected a running ComfyUI at http://127.0.0.1:9; found" in capsys.readouterr().err
    assert main(["run", str(workflow), "--server", "ftp://x"]) == 2
    assert "expected an address such as" in capsys.readouterr().err
