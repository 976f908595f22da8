"""Stored steps, the LoRA grid and the exam as the graph calls them: real trainings of a tiny FLUX, drawn by the headless host."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from graft.nodes import export
from graft.nodes.export import Report
from graft.nodes.headless.host import HeadlessHost
from graft.nodes.host import use_host
from graft.nodes.lora_check import LoraExam, LoraGrid, StoredStep
from graft.training.errors import InputError, NotPassedError
from graft.training.models.flux import Flux, FluxConfig

LAYER = "single_blocks.0.linear1"
GRID = {"weights": "trained", "stored_steps": "", "strengths": "0, 1", "resolution_px": 64, "steps": 1, "guidance": 3.5, "seed": 3}


class Drawing(HeadlessHost):
    """Encodes and decodes without networks, and notes what is asked."""

    def __init__(self, output: Path) -> None:
        super().__init__(output)
        self.captions: list[list[str]] = []
        self.latents: list[torch.Tensor] = []

    def encode_text(self, clip: Any, texts: Any) -> tuple[torch.Tensor, torch.Tensor]:
        self.captions.append(list(texts))
        return torch.ones(len(texts), 4, 8), torch.ones(len(texts), 8)

    def decode_latents(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        self.latents.append(latents)
        return latents[:, :3].permute(0, 2, 3, 1).repeat_interleave(8, 1).repeat_interleave(8, 2).sigmoid()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRAFT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("GRAFT_DEVICE", "cpu")
    with use_host(Drawing(tmp_path / "out")) as chosen:
        yield chosen


@pytest.fixture
def model(host: Drawing) -> Any:
    config = FluxConfig(
        hidden_size=128, head_dim=128, double_depth=1, single_depth=1, in_channels=64, context_width=8, vector_width=8, mlp_width=64, guidance=True,

    )  # fmt: skip
    torch.manual_seed(0)
    return host.make_model({name: tensor.bfloat16() for name, tensor in Flux(config).state_dict().items()})


def state_of(model: Any, step: int = 9, **changes: Any) -> Any:
    """What Train Steps would give, for one layer; each step has changed it more."""
    weights = {
        f"{LAYER}.lora_A.weight": torch.ones(2, 128), f"{LAYER}.lora_B.weight": torch.full((448, 2), 0.1 * step), f"{LAYER}.alpha": torch.tensor(2.0)
    }  # fmt: skip
    inputs = {"recipe": {"kind": "lora"}, "base_fingerprint": model.fingerprint}
    return SimpleNamespace(**{"weights": lambda: weights, "inputs": lambda: inputs, "step": step, **changes})


def test_rows_differ_by_the_lora_and_by_nothing_else(host: Drawing, model: Any):
    (grid,) = LoraGrid().execute(model, None, None, state_of(model), captions="a\n\n  b  \n", **GRID)
    assert grid.ndim == 4 and grid.shape[0] == 1 and host.captions == [["a", "b"]] * 2
    without, trained = host.latents
    assert without.shape == (2, 16, 8, 8) and not torch.equal(without, trained)
    host.latents.clear()
    LoraGrid().execute(model, None, None, state_of(model), captions="a\nb", **{**GRID, "strengths": "1, 0"})
    assert torch.equal(host.latents[0], without) and torch.equal(host.latents[1], trained), "the row without the LoRA comes first"


def test_the_grid_takes_stored_steps(host: Drawing, model: Any, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr("graft.nodes.lora_check.chosen_steps", lambda state, text: asked.append(text) or [state_of(model, 2), state_of(model, 4)])
    LoraGrid().execute(model, None, None, state_of(model), captions="a", **{**GRID, "stored_steps": "2, 4", "strengths": "1"})
    assert asked == ["2, 4"] and len(host.latents) == 2 and not torch.equal(*host.latents)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"captions": " \n"}, "captions"), ({"stored_steps": "x"}, "stored steps"), ({"strengths": "99"}, "strengths"), ({"resolution_px": 70}, "16")],
)
def test_what_cannot_be_drawn_is_told_before_anything_runs(model: Any, changes: dict[str, Any], said: str):
    named = {"captions": "a", **{name: GRID[name] for name in ("stored_steps", "strengths", "resolution_px")}}
    assert LoraGrid.VALIDATE_INPUTS(**named) is True
    assert said in LoraGrid.VALIDATE_INPUTS(**{**named, **changes})
    with pytest.raises(InputError, match=said):
        LoraGrid().execute(model, None, None, state_of(model), **{"captions": "a", **GRID, **changes})


def test_the_exam_draws_both_kinds_of_captions_with_both_models(host: Drawing, model: Any):
    data = SimpleNamespace(train=[SimpleNamespace(caption="a red star on a blue background, framed")], held_out=[], resolution_px=64)
    grid, measures = LoraExam().execute(model, None, None, data, state_of(model), "trained", 1.0, 3, 2, 1, 3.5, 5, "framed")
    new, old, new_after, old_after = host.captions
    assert new == [f"{caption}, framed" for caption in old] and (new, old) == (new_after, old_after) and len(old) == 3
    assert measures["exam_pictures"] == 3 and measures["new_word_rate_before"] == 0.0 and measures["old_caption_moved"] > 0
    assert torch.equal(host.latents[0], host.latents[1]), "without a text that differs, equal noise gives equal pictures"
    assert measures["new_word"] == "framed" and "word" in LoraExam.INPUT_TYPES()["required"]
    assert grid.shape[0] == 1 and grid.dtype == torch.float32


def test_a_stored_step_is_a_state(host: Drawing, monkeypatch: pytest.MonkeyPatch):
    state, used = SimpleNamespace(), []
    monkeypatch.setattr("graft.nodes.lora_check.at_step", lambda given, step: ("state", step) if given is state else None)
    monkeypatch.setattr("graft.nodes.lora_check.kept_steps", lambda given: [100, 200])
    monkeypatch.setattr("graft.nodes.lora_check.RunStore", lambda folder: SimpleNamespace(use=lambda chosen: used.append((folder, chosen))))
    assert StoredStep().execute(state, 100) == (("state", 100), "100, 200")
    assert used == [(host.runs_folder(), ("state", 100))], "it is protected from clean-up"


# ---------------------------------------------------------------- the report's bars

MEASURES = {"new_word_rate_after": 0.8, "old_caption_rate_before": 1.0, "old_caption_rate_after": 0.95}


@pytest.fixture
def report(host: Drawing, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(export, "training_report", lambda state, measures: {"train_steps": 1, **(measures or {})})
    return lambda measures, **bars: Report().execute(None, "report", 0.0, measures, **bars)


def test_a_lora_at_its_bars_passes_and_one_below_them_fails_after_writing(report, tmp_path: Path):
    bars = {"required_new_word_rate": 0.8, "largest_old_caption_fall": 0.05}
    assert json.loads(report(MEASURES, **bars)[0])["new_word_rate_after"] == 0.8
    for name, value, said in (("new_word_rate_after", 0.79, "new word rate"), ("old_caption_rate_after", 0.94, "old captions kept")):
        with pytest.raises(NotPassedError, match=said):
            report({**MEASURES, name: value}, **bars)
        assert json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))[name] == value
    with pytest.raises(InputError, match="no measures") as caught:
        report(None, **bars)
    assert not isinstance(caught.value, NotPassedError)
    report(None)
    report({**MEASURES, "new_word_rate_after": 0.0, "old_caption_rate_after": 0.0})
