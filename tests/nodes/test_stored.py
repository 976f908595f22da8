"""The node that lists the store: the same as `graft store`, anew whenever something has changed."""

from __future__ import annotations

from graft.nodes.headless.host import HeadlessHost
from graft.nodes.host import use_host
from graft.nodes.stored import StoredTrainings


def test_the_list_follows_the_store(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFT_RUNS", str(tmp_path / "runs"))
    with use_host(HeadlessHost(tmp_path)):
        before = StoredTrainings.IS_CHANGED()
        assert "No trainings are kept in" in before
        (tmp_path / "runs" / "abc").mkdir(parents=True)
        (tmp_path / "runs" / "abc" / "run.json").write_text("{}")
        made = StoredTrainings().execute()
        assert StoredTrainings.IS_CHANGED() == made["result"][0] != before
    assert made["ui"]["text"] == list(made["result"]) and "abc" in made["result"][0] and "1 run in" in made["result"][0]
