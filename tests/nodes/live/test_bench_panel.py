"""The panel's price: measured, and within its limit."""

from __future__ import annotations

import json

import pytest
from graft.nodes.live.bench_panel import LIMIT_SHARE, describe, run_bench_panel
from graft.training.errors import InputError


@pytest.mark.slow
def test_the_panels_cost_is_measured_and_its_events_are_small(tmp_path):
    figures = run_bench_panel(tmp_path / "panel.json", seconds=0.5)
    assert figures["share_of_step_time"] >= 0 and figures["limit"] == LIMIT_SHARE == 0.005
    assert figures["events"] >= 1 and 0 < figures["longest_event_bytes"] < 1500
    assert json.loads((tmp_path / "panel.json").read_text(encoding="utf-8")) == figures
    assert "at 20 steps/s (limit 0.5%)" in describe(figures)


def test_a_file_that_cannot_be_written_is_told_first(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--json"):
        run_bench_panel(tmp_path / "file" / "panel.json")
