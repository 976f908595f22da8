"""The LoRA nodes without ComfyUI: what they say before training, and that graph and file are one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from graft.nodes.headless.host import HeadlessHost
from graft.nodes.host import use_host
from graft.nodes.lora import BuildLora, ExportLora, LoadLora, TrainedLora
from graft.training.errors import InputError
from graft.training.files.fingerprint import fingerprint
from graft.training.files.header import read_header
from graft.training.files.lora_apply import with_lora
from graft.training.files.tensors import read_tensors
from graft.training.files.write import write_safetensors
from graft.training.models.flux import Flux, FluxConfig

WIDGETS = {"rank": 4, "alpha": 2.0, "layers": "attention", "blocks": "", "guidance": 1.0, "dropout": 0.0, "rslora": False, "dora": False, "seed": 0}
LAYER = "single_blocks.0.linear1"


def make_weights(seed: int = 0, guidance: bool = True, **changes: int) -> dict[str, torch.Tensor]:
    sizes = {
        "hidden_size": 128, "head_dim": 128, "double_depth": 1, "single_depth": 1, "in_channels": 64, "context_width": 8, "vector_width": 8,
        "mlp_width": 256,
    }  # fmt: skip
    torch.manual_seed(seed)
    return {name: tensor.bfloat16() for name, tensor in Flux(FluxConfig(**{**sizes, **changes}, guidance=guidance)).state_dict().items()}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRAFT_MODELS", str(tmp_path / "models"))
    with use_host(HeadlessHost(tmp_path / "out")) as chosen:
        yield chosen


@pytest.fixture
def model(host: HeadlessHost) -> Any:
    return host.make_model(make_weights())


@pytest.fixture
def state(model: Any) -> Any:
    """What Train Steps would give, for one layer."""
    generator = torch.Generator().manual_seed(1)
    weights = {
        f"{LAYER}.lora_A.weight": torch.randn(4, 128, generator=generator), f"{LAYER}.lora_B.weight": torch.randn(640, 4, generator=generator),
        f"{LAYER}.alpha": torch.tensor(2.0),
    }  # fmt: skip
    settings = {
        "optimiser": {"name": "adamw", "learning_rate": 1e-4}, "schedule": {"shape": "constant", "warmup_steps": 0}, "seed": 5, "clip_norm": 1.0,
        "objective": {"density": "uniform", "caption_dropout": 0.0}, "batch_size": 1, "accumulation": 1,
    }  # fmt: skip
    inputs = {
        "recipe": {"kind": "lora", "dropout": 0.0, "guidance": 1.0}, "settings": settings, "notes": [], "base_fingerprint": model.fingerprint,
        "base_sizes": {"guidance": True}, "data_key": "d", "compute": "float32", "resolution_px": 128,
    }  # fmt: skip
    return SimpleNamespace(weights=lambda: weights, ema_weights=lambda: None, inputs=lambda: inputs, step=9, run_key="r")


def test_the_size_and_nothing_else_is_said_of_an_ordinary_lora(model):
    recipe, notes = BuildLora().execute(model, **WIDGETS)
    layers, parameters = 5, 4 * (2 * (512 + 256) + 128 + 640)  # qkv and proj of both streams, linear1; an alpha in FP32 each
    size = f"{(parameters * 2 + layers * 4) / 1000:.1f} kB"
    assert notes == f"{layers} layers, {parameters:,} parameters, about {size} as a BF16 file" and recipe.guidance == 1.0


def test_a_high_training_guidance_is_warned_of(model, host, caplog):
    _, notes = BuildLora().execute(model, **{**WIDGETS, "guidance": 3.5})
    assert "Warning: guidance 3.5 on a base that embeds guidance" in notes and "guidance 3.5" in caplog.text
    without = host.make_model(make_weights(guidance=False))
    zeroed = host.make_model({name: tensor * 0 if name.startswith("guidance_in.out_layer") else tensor for name, tensor in make_weights().items()})
    for base in (without, zeroed):
        _, notes = BuildLora().execute(base, **{**WIDGETS, "guidance": 3.5})
        assert "embeds no guidance" in notes and "true CFG" in notes and "Warning" not in notes


def test_bad_widgets_are_said_early():
    assert BuildLora.VALIDATE_INPUTS(rank=4, alpha=4.0, dropout=0.1) is True and BuildLora.VALIDATE_INPUTS(rank=None, alpha=4.0, dropout=0.0) is True
    assert "rank" in BuildLora.VALIDATE_INPUTS(rank=0, alpha=4.0, dropout=0.0)


def test_patterns_of_no_layer_are_refused(model):
    with pytest.raises(InputError, match="LoRA blocks"):
        BuildLora().execute(model, **{**WIDGETS, "blocks": "single_blocks.7"})


def test_the_graph_applies_what_the_file_holds(model, state, tmp_path):
    (file,) = ExportLora().execute(state, "mine", "trained", "kohya", "", model)
    assert Path(file) == tmp_path / "out" / "mine.safetensors"
    used, where, lora = TrainedLora().execute(model, state, "trained", 0.8)
    expected = with_lora(model.weights, read_tensors(file), 0.8)
    assert fingerprint(used.weights) == fingerprint(expected) == used.fingerprint != model.fingerprint
    assert where == "Applied to the transformer that it was trained on."
    assert read_header(file).metadata["graft.used_on_fingerprint"] == model.fingerprint
    assert fingerprint(lora) == fingerprint(read_tensors(file)), "as a LORA_MODEL it is the file, at full strength"
    assert TrainedLora().execute(model, state, "trained", 0.0)[0] is model


def test_another_base_is_taken_if_it_has_the_same_shape(host, state):
    used, where, _ = TrainedLora().execute(host.make_model(make_weights(seed=3)), state, "trained", 1.0)
    assert where.startswith("Trained on another transformer of the same shape") and used.weights[f"{LAYER}.weight"].dtype == torch.bfloat16
    with pytest.raises(InputError, match=r"single_blocks\.0\.linear1 \(640, 128\) instead of \(768, 128\)"):
        TrainedLora().execute(host.make_model(make_weights(mlp_width=384)), state, "trained", 1.0)


def test_the_whole_difference_needs_the_model(model, state):
    with pytest.raises(InputError, match="Connect the transformer"):
        ExportLora().execute(state, "mine", "trained", "difference", "")
    (file,) = ExportLora().execute(state, "mine", "trained", "difference", "", model)
    changed = with_lora(model.weights, read_tensors(file), 1.0)[f"{LAYER}.weight"].float()
    expected = with_lora(model.weights, read_tensors(ExportLora().execute(state, "low", "trained", "kohya", "")[0]), 1.0)[f"{LAYER}.weight"].float()
    assert (changed - expected).abs().max() <= 2**-6 * expected.abs().max()


def test_the_workflow_is_written_only_if_asked(model, state):
    page = {"workflow": {"nodes": [], "version": 0.4}}
    (file,) = ExportLora().execute(state, "with", "trained", "kohya", "", model, workflow=True, extra_pnginfo=page)
    assert read_header(file).metadata["workflow"] == '{"nodes":[],"version":0.4}'
    for given in ({"workflow": False, "extra_pnginfo": page}, {"workflow": True}):  # without a page there is no workflow
        assert "workflow" not in read_header(ExportLora().execute(state, "without", "trained", "kohya", "", model, **given)[0]).metadata


def test_a_plain_lora_near_the_change_is_written(model, state, caplog):
    caplog.set_level("INFO")
    (file,) = ExportLora().execute(state, "near", "trained", "extracted", "", model, extracted_rank=3)
    assert read_header(file).metadata["ss_network_dim"] == "3" and "Extracted: a plain LoRA of rank 3 that loses" in caplog.text


def test_a_file_is_trained_further_and_named_by_its_content(model, host, tmp_path):
    folder = tmp_path / "models" / "loras"
    folder.mkdir(parents=True)
    name = "transformer.single_transformer_blocks.0.attn.to_{}.lora_{}.weight"
    parts = {name.format(part, side): torch.ones((3, 128) if side == "A" else (128, 3)) for part in "qk" for side in "AB"}
    parts[name.format("k", "A")] = torch.zeros(3, 128)
    write_safetensors(folder / "theirs.safetensors", parts)
    assert LoadLora.INPUT_TYPES()["required"]["lora"][0] == ["theirs.safetensors"] and LoadLora.IS_CHANGED(lora="theirs.safetensors")
    recipe, notes = LoadLora().execute(model, "theirs.safetensors", 1.0, 0.0)
    assert notes.startswith("1 layers, 4,608 parameters") and "summed rank (6)" in notes
    assert recipe.key_fields()["weights"] == fingerprint(parts)
