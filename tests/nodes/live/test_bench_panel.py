"""The panel's price: measured, and within its limit."""

from __future__ import annotations

import json

import pytest
from graft.nodes.live.bench_panel import LIMIT_SHARE, describe, run_bench_panel
from graft.training.errors import InputError


def test_the_panel_costs_at_most_its_share_of_the_step_time(tmp_path):
    """In processor time, which other programs' load does not change much."""
    figures = run_bench_panel(tmp_path / "panel.json", seconds=2.0)
    assert 0 < figures["share_of_step_time"] < LIMIT_SHARE == 0.005
    assert 5 <= figures["events"] <= 15 and figures["longest_event_bytes"] < 1500, "five events a second of bounded size"
    assert json.loads((tmp_path / "panel.json").read_text(encoding="utf-8")) == figures
    assert "at 20 steps/s (limit 0.5%)" in describe(figures)


def test_a_file_that_cannot_be_written_is_told_first(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--json"):
        run_bench_panel(tmp_path / "file" / "panel.json")
