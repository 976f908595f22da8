"""What a running ComfyUI shows of the pack: workflows that it accepts and runs, templates, help pages, translations, tooltips."""

from __future__ import annotations

import importlib.util
import inspect
import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from graft.nodes.headless.cli import main
from graft.nodes.registry import NODE_CLASS_MAPPINGS
from graft.nodes.server.client import ComfyServer
from graft.nodes.server.send import graph_for, prompt_of
from graft.nodes.words import LANGUAGES

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
PACK = "graft"
"""The folder among custom_nodes (server.py)."""
USERS_FILES = {"text_encoders": ("clip_l.safetensors", "t5xxl_fp16.safetensors"), "vae": ("ae.safetensors",)}
SMALL = (
    "GraftDrawShapes.folder=a_few", "GraftDrawShapes.count=12", "GraftImageFolder.held_out=2", "GraftSettings.warmup_steps=0",
    "GraftSettings.horizon_steps=3", "GraftSettings.batch_size=2", "GraftSettings.evaluate_samples=2", "GraftTrainSteps.steps=3",
    "GraftValidationGrid.pictures=2", "GraftValidationGrid.columns=2", "GraftValidationGrid.steps=2", "EmptySD3LatentImage.batch_size=1",
    "Without ControlNet.steps=2", "With the trained ControlNet.steps=2", "GraftReport.required_edge_f1=0",
)  # fmt: skip
"""The shipped workflow with little to do."""
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def definitions() -> Any:
    """definitions.py, which lies beside the tests and in no package."""
    specification = importlib.util.spec_from_file_location("graft_definitions", Path(__file__).with_name("definitions.py"))
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def server(comfyui: Path, new_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The server of a user who has files of the usual names, and a folder of pictures."""
    folder = tmp_path_factory.mktemp("native")
    running = new_server(comfyui, folder)
    transformer = folder / "models" / "diffusion_models" / "flux1-dev.safetensors"
    transformer.parent.mkdir(parents=True, exist_ok=True)
    transformer.symlink_to(ROOT / "training" / "models" / "nano" / "weights" / "nano_flux.safetensors")
    empty = [folder / "models" / kind / name for kind, names in USERS_FILES.items() for name in names]
    for file in (*empty, folder / "input" / "training_pictures" / "photo.jpg"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    running.start()
    yield running
    running.kill()


def read(server: Any, path: str) -> bytes:
    with urllib.request.urlopen(server.url + urllib.parse.quote(path), timeout=60) as answer:
        return answer.read()


def stop(server: Any) -> None:
    """Leaves nothing running: whether a workflow is accepted is all that is asked here."""
    server.post("/queue", {"clear": True})

    def idle() -> bool:
        server.post("/interrupt", {})
        return not server.get("/queue")["queue_running"]

    server.wait_for(idle)


@each_workflow
def test_the_server_accepts_the_workflow_as_it_stands(server: Any, path: Path):
    graph = graph_for(ComfyServer(server.url), path, [])
    answer = server.post("/prompt", {"prompt": prompt_of(graph)})
    stop(server)
    assert answer["node_errors"] == {} and answer["prompt_id"]


def test_the_stored_definitions_are_those_of_this_version(server: Any, definitions: Any):
    """Those that tests/workflows checks the workflows against, without a ComfyUI; definitions.py writes them."""
    version = definitions.stored_version(server)
    stored = json.loads((definitions.STORED / f"{version}.json").read_text(encoding="utf-8"))
    kinds = definitions.core_kinds(WORKFLOWS)
    assert stored["comfyui"] == version and set(kinds) <= set(stored["nodes"])
    assert definitions.read_definitions(server, kinds) == {kind: stored["nodes"][kind] for kind in kinds}


def test_every_node_arrives_with_its_words(server: Any):
    known = server.get("/object_info")
    for id, node in NODE_CLASS_MAPPINGS.items():
        told: Any = known[id]
        assert told["display_name"] == node.DISPLAY_NAME and told["description"] == node.DESCRIPTION  # type: ignore[attr-defined]
        assert tuple(told["output_tooltips"]) == node.OUTPUT_TOOLTIPS  # type: ignore[attr-defined]
        assert told.get("search_aliases", list(node.SEARCH_ALIASES)) == list(node.SEARCH_ALIASES)  # type: ignore[attr-defined]
        inputs = [entry for group in ("required", "optional") for entry in told["input"].get(group, {}).values()]
        assert all(entry[1]["tooltip"] for entry in inputs), id


def test_translations_reach_the_page(server: Any):
    translations = server.get("/i18n")
    for language in LANGUAGES:
        found = translations[language.code]["nodeDefs"]
        assert {id: found[id] for id in NODE_CLASS_MAPPINGS} == language.words()


def test_help_pages_lie_where_the_page_looks(server: Any):
    """First in the user's language, then in English."""
    for id in NODE_CLASS_MAPPINGS:
        english, chinese = (language.help_page(id).read_bytes() for language in LANGUAGES)
        assert read(server, f"/extensions/{PACK}/docs/{id}.md") == english
        assert read(server, f"/extensions/{PACK}/docs/{id}/zh.md") == chinese


@each_workflow
def test_templates_are_listed_with_their_thumbnails(server: Any, path: Path):
    assert path.stem in server.get("/workflow_templates")[PACK]
    assert read(server, f"/api/workflow_templates/{PACK}/{path.name}") == path.read_bytes()
    assert read(server, f"/api/workflow_templates/{PACK}/{path.stem}.jpg") == path.with_suffix(".jpg").read_bytes()


def test_an_error_is_shown_at_the_inputs_that_it_is_about_and_nowhere_else(server: Any):
    graph = graph_for(ComfyServer(server.url), ROOT / "workflows" / "continue_training.json", [])
    prompt = prompt_of(graph)
    settings = next(id for id, node in prompt.items() if node["class_type"] == "GraftSettings")
    prompt[settings]["inputs"]["warmup_steps"] = 5000
    problems = server.post("/prompt", {"prompt": prompt})["node_errors"]  # accepted: one picture needs no training
    stop(server)
    assert set(problems) == {settings}
    named = {error["extra_info"]["input_name"] for error in problems[settings]["errors"]}
    asked: Any = NODE_CLASS_MAPPINGS["GraftSettings"].VALIDATE_INPUTS  # type: ignore[attr-defined]
    assert named == set(inspect.signature(asked).parameters) >= {"schedule", "warmup_steps", "horizon_steps"}
    assert {"batch_size", "seed", "clip_norm"}.isdisjoint(named)  # those that have to fit with no other
    assert all("a warm-up shorter than the horizon" in error["details"] for error in problems[settings]["errors"])


def test_the_shipped_workflow_trains_the_same_bits_here_and_headless(server: Any, tmp_path: Path, comfyui_python: Any):
    """In one Python with one number of threads; sampled, measured and exported in both."""
    workflow, sets = str(ROOT / "workflows" / "nano_canny_controlnet.json"), [part for setting in SMALL for part in ("--set", setting)]
    assert main(["run", workflow, "--server", server.url, "--output", str(tmp_path / "here"), *sets]) == 0
    (tmp_path / PACK).symlink_to(ROOT, target_is_directory=True)  # ComfyUI's Python has no installed pack
    places = {"PYTHONPATH": str(tmp_path), "GRAFT_INPUT": str(tmp_path / "input"), "GRAFT_RUNS": str(tmp_path / "runs")}
    headless = comfyui_python("-m", PACK, "run", workflow, "--output", str(tmp_path / "headless"), *sets, **places)
    assert headless.returncode == 0, headless.stderr
    (outside,) = (file.parent for file in (tmp_path / "runs").glob("*/losses.jsonl"))
    inside = {run.name: run for run in server.runs}[outside.name]  # found under the same key
    steps = [path.name for path in sorted(outside.glob("step_*"))]
    assert steps[-1] == "step_00000003"
    assert (inside / steps[-1] / "weights.safetensors").read_bytes() == (outside / steps[-1] / "weights.safetensors").read_bytes()
