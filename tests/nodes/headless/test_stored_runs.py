"""What `graft runs` prints."""

from __future__ import annotations

import io
import json

import pytest
from graft.nodes.headless.cli import main
from graft.nodes.headless.stored_runs import describe_runs, printable_blocks, sparkline


def test_a_small_curve_rises_and_falls_with_its_values():
    assert sparkline([0.0, 1.0, 0.5], "abc") == "acb" and sparkline([], "abc") == "" and sparkline([2.0], "abc") == "a"
    assert sparkline([3.0, 3.0], "abc") == "aa"
    assert sparkline([float(value) for value in range(2400)], "0123456789") == "001122233444555667778899"


def test_a_line_per_run(tmp_path):
    folder = tmp_path / "0123456789abcdef0123456789abcdef"
    (folder / "step_00000002").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"recipe": {"kind": "lora", "rank": 8}}), encoding="utf-8")
    records = [{"step": s, "loss": 1 / s, "learning_rate": 1e-3, "gradient_norm": 1.0, "buckets": {}, "seconds": 0.1} for s in (1, 2)]
    (folder / "losses.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n", encoding="utf-8")
    _, header, line = describe_runs(tmp_path).splitlines()
    assert line[header.index("workflow") :] == "-"
    named = {"recipe": {"kind": "lora", "rank": 8}, "workflow": "my cats\x1b[2J"}
    (folder / "run.json").write_text(json.dumps(named), encoding="utf-8")
    _, header, line = describe_runs(tmp_path).splitlines()
    assert line[header.index("workflow") :] == "my cats?[2J"
    assert line.startswith(folder.name) and "lora rank 8" in line and "█▁" in line and "#_" not in line


def test_terminals_that_know_no_blocks_get_plain_characters():
    assert printable_blocks(io.TextIOWrapper(io.BytesIO(), encoding="cp1252")) == "_.-=+*#@"
    assert printable_blocks(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")) == "▁▂▃▄▅▆▇█"


@pytest.mark.parametrize(("runs", "cache"), [("graft/runs", "graft/cache"), (".graft_runs", ".graft_runs/cache")])
def test_a_named_store_is_counted_with_its_own_encoded_data(tmp_path, capsys, runs, cache):
    """ComfyUI's lie beside its runs, those of `graft run` among them."""
    (tmp_path / runs).mkdir(parents=True)
    (tmp_path / cache / "encoded").mkdir(parents=True)
    (tmp_path / cache / "encoded" / "pictures-0.safetensors").write_bytes(b"x" * 5000)
    assert main(["store", "--folder", str(tmp_path / runs)]) == 0
    assert f"encoded data in {tmp_path / cache}: 5.00 kB" in capsys.readouterr().out
