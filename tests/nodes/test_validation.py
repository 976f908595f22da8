"""What is told on a node before anything runs, and that nothing is lost by a node checking inputs itself: ComfyUI then leaves their range to it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from graft.nodes.headless.host import HeadlessHost
from graft.nodes.host import use_host
from graft.nodes.registry import NODE_CLASS_MAPPINGS
from graft.training.files.write import write_safetensors
from torch import zeros

CHECKING = {id: node for id, node in NODE_CLASS_MAPPINGS.items() if hasattr(node, "VALIDATE_INPUTS")}


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("GRAFT_INPUT", str(tmp_path / "input"))
    monkeypatch.setenv("GRAFT_MODELS", str(tmp_path / "models"))
    with use_host(HeadlessHost(tmp_path / "out")):
        yield


def inputs_of(node: Any) -> dict[str, Any]:
    declared = node.INPUT_TYPES()
    return {**declared.get("required", {}), **declared.get("optional", {})}


def named(node: Any) -> list[str]:
    return list(inspect.signature(node.VALIDATE_INPUTS).parameters)


def defaults(node: Any) -> dict[str, Any]:
    return {name: inputs_of(node)[name][1].get("default") for name in named(node)}


def absurd(node: Any) -> list[tuple[str, Any]]:
    """Values beyond the declared range, or not among the choices, of every input that the node checks itself."""
    found: list[tuple[str, Any]] = []
    for name in named(node):
        kind, options = inputs_of(node)[name][:2]
        if isinstance(kind, list):
            found.append((name, "no such choice"))
        elif kind in ("INT", "FLOAT"):
            found += [(name, options["min"] - 1), (name, options["max"] + 1)]
    return found


@pytest.mark.parametrize("node_id", sorted(CHECKING))
def test_named_inputs_exist_and_none_hides_behind_two_stars(node_id: str):
    """With **kwargs ComfyUI would show one error at every input of the node."""
    node = CHECKING[node_id]
    assert set(named(node)) <= set(inputs_of(node))
    assert all(each.kind is each.POSITIONAL_OR_KEYWORD for each in inspect.signature(node.VALIDATE_INPUTS).parameters.values())


@pytest.mark.parametrize("node_id", sorted(CHECKING))
def test_linked_inputs_break_nothing(node_id: str):
    node = CHECKING[node_id]
    assert node.VALIDATE_INPUTS(**dict.fromkeys(named(node))) is True
    for linked in named(node):
        assert node.VALIDATE_INPUTS(**{**defaults(node), linked: None}) is not False


@pytest.mark.parametrize(("node_id", "name", "value"), [(id, *case) for id, node in sorted(CHECKING.items()) for case in absurd(node)])
def test_what_comfyui_leaves_to_the_node_is_checked(node_id: str, name: str, value: Any):
    node = CHECKING[node_id]
    for others in (defaults(node), dict.fromkeys(named(node))):  # alone as well, with all others linked
        answer = node.VALIDATE_INPUTS(**{**others, name: value})
        assert isinstance(answer, str) and answer, f"{value} passes"


SETTINGS_PAIRS = {
    "learning_rate": 2e-5, "schedule": "cosine", "warmup_steps": 5, "horizon_steps": 1000, "ema_decay": 0.0, "guidance_low": 1.0,
    "guidance_high": 7.0, "optimiser": "adamw",
}  # fmt: skip
CANNY = {"low": 100, "high": 200, "low_to": 0, "high_to": 0}
BATCH = {"captions": ["a"], "resolution_px": [512], "held_out": [16], "missing_captions": ["stop"]}


@pytest.mark.parametrize(
    ("node_id", "values", "said"),
    [
        ("GraftSettings", {**SETTINGS_PAIRS, "warmup_steps": 1000}, "warm-up"),
        ("GraftSettings", {**SETTINGS_PAIRS, "guidance_low": 8.0}, "Swap the two ends"),
        ("GraftSettings", {**SETTINGS_PAIRS, "optimiser": "prodigy"}, "set learning_rate to 1"),
        ("GraftSettings", {**SETTINGS_PAIRS, "learning_rate": 1.0}, "learning rate"),
        ("GraftSettings", {**SETTINGS_PAIRS, "optimiser": "schedule_free"}, "Choose constant"),
        ("GraftCannyHint", {**CANNY, "low": 300}, "canny thresholds"),
        ("GraftCannyHint", {**CANNY, "low_to": 250}, "canny thresholds"),
        ("GraftImageFolder", {"folder": "", "resolution_px": 512}, "no name"),
        ("GraftImageFolder", {"folder": "nowhere", "resolution_px": 512}, "nothing there"),
        ("GraftImageFolder", {"folder": None, "resolution_px": 520}, "multiple of 16"),
        ("GraftValidationGrid", {"start": 0.6, "end": 0.5}, "start <= end"),
        ("GraftExportControlNet", {"file_name": "../elsewhere"}, "file name"),
        ("GraftReport", {"file_name": ""}, "file name"),
        ("GraftLoadTransformer", {"transformer": "gone.safetensors"}, "none"),
        ("GraftLoadControlNet", {"controlnet": "gone.safetensors"}, "none"),
        ("GraftImageBatch", {**BATCH, "resolution_px": [520]}, "multiple of 16"),
        ("GraftImageBatch", {**BATCH, "held_out": -1}, "expected 0 to"),
        ("GraftImageBatch", {**BATCH, "captions": [" \n"]}, "captions: expected a caption for each picture"),
    ],
)
def test_what_does_not_fit_together_is_told(node_id: str, values: dict[str, Any], said: str):
    assert said in NODE_CLASS_MAPPINGS[node_id].VALIDATE_INPUTS(**values)  # type: ignore[attr-defined]


def test_what_fits_passes():
    assert CHECKING["GraftSettings"].VALIDATE_INPUTS(**SETTINGS_PAIRS) is True  # type: ignore[attr-defined]
    assert CHECKING["GraftSettings"].VALIDATE_INPUTS(**{**SETTINGS_PAIRS, "schedule": "constant", "warmup_steps": 2000}) is True  # type: ignore[attr-defined]
    assert CHECKING["GraftCannyHint"].VALIDATE_INPUTS(**{**CANNY, "low_to": 150, "high_to": 300}) is True  # type: ignore[attr-defined]
    assert CHECKING["GraftImageBatch"].VALIDATE_INPUTS(**BATCH) is True  # type: ignore[attr-defined]
    assert CHECKING["GraftImageBatch"].VALIDATE_INPUTS(**{**BATCH, "captions": [""], "missing_captions": ["empty"]}) is True  # type: ignore[attr-defined]


def test_a_folder_is_looked_into_but_no_picture_is_opened(tmp_path: Path):
    folder = tmp_path / "input" / "mine"
    folder.mkdir(parents=True)
    check = CHECKING["GraftImageFolder"].VALIDATE_INPUTS  # type: ignore[attr-defined]
    assert "found none" in check("mine", 512)
    (folder / "photo.png").write_bytes(b"no picture at all")
    assert check("mine", 512) is True


def test_another_kind_of_model_file_is_named_by_its_header(tmp_path: Path):
    for kind in ("diffusion_models", "controlnet"):
        write_safetensors(tmp_path / "models" / kind / "wrong.safetensors", {"taesd_encoder.0.weight": zeros(64, 3, 3, 3)})
    assert "expected a FLUX ControlNet" in CHECKING["GraftLoadControlNet"].VALIDATE_INPUTS("wrong.safetensors")  # type: ignore[attr-defined]
    assert "expected a FLUX transformer" in CHECKING["GraftLoadTransformer"].VALIDATE_INPUTS("wrong.safetensors")  # type: ignore[attr-defined]


def test_every_setting_that_comfyui_lets_through_is_a_setting_of_the_engine():
    """The widgets' ranges lie within what the engine accepts; what has to fit together is `VALIDATE_INPUTS`' part."""
    from graft.nodes.settings import settings_of

    node: Any = NODE_CLASS_MAPPINGS["GraftSettings"]
    begin = {name: entry[1]["default"] for name, entry in inputs_of(node).items()}
    for name, (kind, options) in inputs_of(node).items():
        ends = kind if isinstance(kind, list) else [options[end] for end in ("min", "max") if end in options]
        for value in ends:
            values = {**begin, name: value}
            if node.VALIDATE_INPUTS(**{each: values[each] for each in named(node)}) is True:
                settings_of(**values)
