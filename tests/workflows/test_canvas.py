"""What a person sees who opens a shipped workflow: stages in groups with a note each, nothing on top of anything else, links that are whole."""

from __future__ import annotations

import json
from itertools import combinations, groupby, pairwise
from pathlib import Path
from typing import Any

import pytest
from graft.nodes.headless.declared import declared_inputs
from graft.nodes.registry import NODE_CLASS_MAPPINGS

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "workflows").glob("*.json"))
STORED = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "tests" / "nodes" / "core_definitions").glob("*.json"))]
NOTES = frozenset({"Note", "MarkdownNote"})
TITLE_PX, SLOT_PX, WIDGET_PX, GRID_PX = 30, 20, 24, 10
PANEL_PX = 620
"""The live panel of Train Steps with its pictures: without this room it would cover the nodes below, or they it."""
PICTURE_SHARE = 4
"""A thumbnail is looked at small: at least a fourth as high as it is wide."""

each_workflow = pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
Box = tuple[float, float, float, float]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def box(node: dict[str, Any]) -> Box:
    """Left, top (of the title), right, bottom."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_PX, x + width, y + height


def group_box(group: dict[str, Any]) -> Box:
    x, y, width, height = group["bounding"]
    return x, y, x + width, y + height


def overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def inside(inner: Box, outer: Box) -> bool:
    return inner[0] >= outer[0] and inner[1] >= outer[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def test_the_main_jobs_are_shipped():
    wanted = {"nano_canny_controlnet", "flux_dev_canny_controlnet", "continue_training", "export_controlnet", "nano_lora", "nano_lora_sweep"}
    assert wanted <= {path.stem for path in SHIPPED}


@each_workflow
def test_only_core_nodes_and_ours_are_used(path: Path):
    assert [stored["comfyui"] for stored in STORED] == ["0.3.64", "0.33.0"]
    known = set(STORED[0]["nodes"]) & set(STORED[1]["nodes"])
    assert {node["type"] for node in read(path)["nodes"]} <= known | set(NODE_CLASS_MAPPINGS) | NOTES


@each_workflow
def test_nothing_covers_anything_else(path: Path):
    content = read(path)
    for one, other in combinations(content["nodes"], 2):
        assert not overlap(box(one), box(other)), f"nodes {one['id']} and {other['id']}"
    for one, other in combinations(content["groups"], 2):
        assert not overlap(group_box(one), group_box(other)), f"{one['title']} and {other['title']}"


@each_workflow
def test_every_node_lies_in_one_stage_and_every_stage_is_explained(path: Path):
    content = read(path)
    for group in content["groups"]:
        held = [node for node in content["nodes"] if inside(box(node), group_box(group))]
        notes = [node for node in held if node["type"] in NOTES]
        assert len(notes) == 1 and len(notes[0]["widgets_values"][0]) > 80, group["title"]
        assert len(held) > 1, group["title"]
    for node in content["nodes"]:
        assert sum(inside(box(node), group_box(group)) for group in content["groups"]) == 1, node["id"]


@each_workflow
def test_columns_are_straight_and_stages_begin_on_one_line(path: Path):
    content = read(path)
    assert len({group["bounding"][1] for group in content["groups"]}) == 1
    nodes = sorted((node for node in content["nodes"] if node["type"] not in NOTES), key=lambda node: node["pos"][0])
    for _, column in groupby(nodes, key=lambda node: node["pos"][0]):
        assert len({node["size"][0] for node in column}) == 1
    assert all(value % GRID_PX == 0 for node in content["nodes"] for value in node["pos"])
    lefts = sorted({node["pos"][0] for node in nodes})
    assert all(right - left > SLOT_PX for left, right in pairwise(lefts))  # no two columns that are nearly one


@each_workflow
def test_nodes_have_room_for_what_they_show(path: Path):
    registry = known_classes(STORED[0])
    for node in (node for node in read(path)["nodes"] if node["type"] not in NOTES):
        declared = declared_inputs(registry[node["type"]]).values()
        sockets = sum(not entry.is_widget for entry in declared)
        widgets = sum(entry.is_widget + (entry.is_widget and entry.has_control) for entry in declared)
        needed = SLOT_PX * max(sockets, len(registry[node["type"]].RETURN_TYPES)) + WIDGET_PX * widgets
        needed += PANEL_PX if node["type"] == "GraftTrainSteps" else 0
        assert node["size"][1] >= needed, f"{node['type']} needs {needed}"


def known_classes(stored: dict[str, Any]) -> dict[str, Any]:
    """Our nodes, and the core's as far as a stored /object_info tells of them."""

    def core(described: dict[str, Any]) -> type:
        inputs = classmethod(lambda _: described["input"])
        return type("Core", (), {"INPUT_TYPES": inputs, "RETURN_TYPES": tuple(described["output"]), "OUTPUT_NODE": described["output_node"]})

    return {**{kind: core(described) for kind, described in stored["nodes"].items()}, **NODE_CLASS_MAPPINGS}


@each_workflow
def test_there_are_no_more_values_than_widgets(path: Path):
    """One too many gives its value to the wrong widget one day. Widgets that came later may be missing: they take their defaults."""
    registry = known_classes(STORED[0])
    for node in (node for node in read(path)["nodes"] if node["type"] not in NOTES):
        widgets = [entry for entry in declared_inputs(registry[node["type"]]).values() if entry.is_widget]
        assert len(node["widgets_values"]) <= len(widgets) + sum(entry.has_control for entry in widgets), node["type"]


@each_workflow
def test_links_are_whole_and_of_the_declared_types(path: Path):
    content = read(path)
    nodes, registry = {node["id"]: node for node in content["nodes"]}, known_classes(STORED[0])
    assert len({link[0] for link in content["links"]}) == len(content["links"]) and content["last_node_id"] == max(nodes)
    for id, source, slot, target, place, type_name in content["links"]:
        assert id in nodes[source]["outputs"][slot]["links"] and nodes[target]["inputs"][place]["link"] == id
        assert registry[nodes[source]["type"]].RETURN_TYPES[slot] == type_name
        name = nodes[target]["inputs"][place]["name"]
        assert declared_inputs(registry[nodes[target]["type"]])[name].accepts(type_name), name


@each_workflow
def test_the_thumbnail_is_a_picture_fit_for_the_template_browser(path: Path):
    import cv2

    picture = cv2.imread(str(path.with_suffix(".jpg")))
    assert picture is not None, "missing or unreadable"
    height, width = picture.shape[:2]
    assert min(height, width) >= 256 and width <= PICTURE_SHARE * height and path.with_suffix(".jpg").stat().st_size < 400_000


@pytest.mark.parametrize("stored", STORED, ids=lambda stored: stored["comfyui"])
@each_workflow
def test_both_versions_of_comfyui_would_take_it(path: Path, stored: dict[str, Any], user_files: None):
    """All links, types, ranges and choices against the node definitions of the real servers, with the files that the workflow names."""
    from graft.nodes.headless.check import checked
    from graft.nodes.headless.ui_format import graph_from_ui

    registry = {kind: with_files(node) for kind, node in known_classes(stored).items()}
    plan = checked(graph_from_ui(path.stem, read(path), registry, {}), registry)
    assert set(plan.order) == set(plan.graph.nodes)  # nothing that no output needs


USUAL_FILES = ("clip_l.safetensors", "t5xxl_fp16.safetensors", "ae.safetensors")


def with_files(node: Any) -> Any:
    """A loader whose lists of files are empty, in the hands of a user who has the usual ones."""

    def filled(entries: dict[str, Any]) -> dict[str, Any]:
        return {name: (list(USUAL_FILES), {}) if entry[0] == [] else entry for name, entry in entries.items()}

    inputs = classmethod(lambda _: {group: filled(entries) for group, entries in node.INPUT_TYPES().items()})
    return type(node.__name__, (node,), {"INPUT_TYPES": inputs})


@pytest.fixture
def user_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transformer under FLUX.1-dev's usual name, and a folder with a picture."""
    weights = ROOT / "training" / "models" / "nano" / "weights" / "nano_flux.safetensors"
    for folder in ("models/diffusion_models", "input/training_pictures"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "models" / "diffusion_models" / "flux1-dev.safetensors").symlink_to(weights)
    (tmp_path / "input" / "training_pictures" / "photo.jpg").touch()
    monkeypatch.setenv("GRAFT_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("GRAFT_INPUT", str(tmp_path / "input"))
