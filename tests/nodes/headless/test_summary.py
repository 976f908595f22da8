"""The last lines of a run name what is new, what it is for, and what to do next."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest
from graft.nodes.headless.summary import snapshot, summary


def safetensors(path, **tensors):
    """A file of zero-byte tensors: only its header matters."""
    header = {name: {"dtype": "BF16", "shape": [0], "data_offsets": [0, 0]} for name in tensors}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


@pytest.fixture
def output(tmp_path):
    (tmp_path / "old.png").write_bytes(b"old")
    (tmp_path / "same.png").write_bytes(b"same")
    return tmp_path


def test_only_new_and_changed_files_are_named(output):
    before = snapshot(output)
    (output / "old.png").write_bytes(b"newer")
    (output / "sub").mkdir()
    (output / "sub" / "new.png").write_bytes(b"x")
    lines = summary([], output, before).splitlines()
    assert lines == [f"Made in {output}:", "  old.png", "  sub/new.png", f"Next: look at {output / 'old.png'}."]


def test_a_run_that_makes_nothing_says_so(output):
    assert summary([], output, snapshot(output)) == f"Nothing new was made in {output}."
    assert snapshot(output / "gone") == {}


def test_what_nodes_say_comes_first(output):
    results = [SimpleNamespace(ui={"text": ["edge F1 rose"]}), SimpleNamespace(ui={"images": []})]
    assert summary(results, output, snapshot(output)).startswith("edge F1 rose\n")


def test_files_say_what_they_are_for(output):
    before = snapshot(output)
    (output / "net_diffusers").mkdir()
    (output / "net_diffusers" / "config.json").write_text("{}", encoding="utf-8")
    safetensors(output / "net_diffusers" / "model.safetensors", x=0)
    safetensors(output / "odd.safetensors", x=0)
    (output / "broken.safetensors").write_bytes(b"x")
    text = summary([], output, before)
    assert "model.safetensors  (for diffusers, not for ComfyUI)" in text
    assert "  odd.safetensors  (unknown unknown, unknown layout)" not in text and "ComfyUI/models" not in text


def test_a_report_s_figures_are_shown(output):
    before = snapshot(output)
    figures = {"edge_f1_after": 0.91234567, "train_steps": 1000, "seeds": {"a": 1}, "weights_changed": True}
    (output / "report.json").write_text(json.dumps(figures), encoding="utf-8")
    lines = summary([], output, before).splitlines()
    figures = lines[lines.index(f"Figures are in {os.path.join(output, 'report.json')}:") + 1 :]
    assert [line.split() for line in figures] == [["edge_f1_after", "0.9123"], ["train_steps", "1000"], ["weights_changed", "True"]]
