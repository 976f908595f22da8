"""The store as people see it."""

from __future__ import annotations

import json

import pytest
from graft.training.catalogue import catalogue, find, keep_picture, keep_workflow, kind_of
from graft.training.errors import InputError
from graft.training.in_use import mark_used
from graft.training.store import RunStore
from graft.training.store_size import remove_run


@pytest.fixture
def store(tmp_path) -> RunStore:
    """Two runs: `child` began from `first`, which has measured two steps."""
    store = RunStore(tmp_path / "runs")
    recipe = {"kind": "controlnet", "layout": "xlabs", "double_depth": 2, "single_depth": 0}
    for name, parent in (("first", None), ("child", {"run_key": "first", "step": 2})):
        folder = store.folder / name
        (folder / "step_00000002").mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"recipe": recipe, "parent": parent}), encoding="utf-8")
    lines = [
        {"step": 1, "loss": 0.5, "learning_rate": 1e-3, "gradient_norm": 1.0, "buckets": {}, "seconds": 0.1},
        {"step": 1, "held_out": 0.4, "by_time": [0.4], "samples": 2},
    ]
    (store.folder / "first" / "losses.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return store


def test_a_run_tells_what_it_is(store):
    entries = {entry.name: entry for entry in catalogue(store)}
    first = entries["first"]
    assert set(entries) == {"first", "child"} and (first.kind, first.steps, first.held_out) == ("controlnet xlabs 2+0", 2, 0.4)
    assert [record.loss for record in first.history.steps] == [0.5] and entries["child"].held_out is None and not first.has_workflow


def test_a_damaged_description_hides_no_run(store):
    (store.folder / "first" / "run.json").write_text("{", encoding="utf-8")
    assert find(store, "first").kind == "unknown"


def test_kinds_in_a_few_words():
    assert kind_of({"kind": "lora", "rank": 16}) == "lora rank 16" and kind_of({}) == "unknown"


def test_workflow_and_picture_are_kept_beside_it(store):
    keep_workflow(store.folder / "first", {"nodes": []})
    keep_picture(store.folder / "first", b"jpeg")
    keep_workflow(store.folder / "gone", {"nodes": []})
    found = find(store, "first")
    assert found.has_workflow and found.has_picture and not find(store, "child").has_workflow and not (store.folder / "gone").exists()
    assert json.loads((store.folder / "first" / "workflow.json").read_text(encoding="utf-8")) == {"nodes": []}


@pytest.mark.parametrize("name", ["", "..", "first/..", "../runs/first", "nobody"])
def test_no_other_name_is_found_or_removed(store, name):
    for ask in (find, remove_run):
        with pytest.raises(InputError, match="name of a run"):
            ask(store, name)
    assert len(catalogue(store)) == 2


def test_a_run_is_removed_unless_something_needs_it(store):
    with pytest.raises(InputError, match="child began"):
        remove_run(store, "first")
    remove_run(store, "child")
    mark_used(store.folder, ["first"])
    with pytest.raises(InputError, match="in use"):
        remove_run(store, "first")
    assert [entry.name for entry in catalogue(store)] == ["first"] and not (store.folder / "child").exists()
