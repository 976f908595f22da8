"""Exported ControlNets: names, round trips, and loading in diffusers."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from diffusers import FluxControlNetModel
from graft.training.errors import InputError
from graft.training.files.header import read_header
from graft.training.files.tensors import read_tensors
from graft.training.files.write import write_safetensors
from graft.training.models.flux import image_ids, pack, text_ids
from graft.training.models.flux_controlnet import FluxControlNet, controlnet_from_weights
from graft.training.trainable.controlnet import ControlNetRecipe
from graft.training.trainable.controlnet_export import export_diffusers_folder, exported_tensors

SHAPES = [("xlabs", 2, 0), ("xlabs", 1, 1), ("instantx", 1, 0), ("instantx", 3, 2)]


@pytest.fixture
def trained(base, randomise):
    def make(layout: str, double: int = 1, single: int = 0) -> FluxControlNet:
        module = ControlNetRecipe(layout=layout, double_depth=double, single_depth=single).build(base).module
        randomise(module)
        return module.requires_grad_(False)  # torch takes other kernels for weights that learn: the same numbers but for their last bits

    return make


def _outputs(module: FluxControlNet, batch: dict) -> list[torch.Tensor]:
    conditions = batch["conditions"]
    with torch.no_grad():
        control = module(
            pack(batch["x_t"]), conditions.hint, image_ids(8, 12), conditions.text, text_ids(5), batch["t"], conditions.pooled, batch["guidance"]
        )
    return [*control.double, *control.single]


@pytest.mark.parametrize(("layout", "double", "single"), SHAPES)
def test_the_flat_file_gives_the_cast_weights_outputs(layout, double, single, trained, batch, tmp_path) -> None:
    module = trained(layout, double, single)
    weights, metadata, _ = exported_tensors(module, layout)
    assert all(tensor.dtype == torch.bfloat16 for tensor in weights.values())
    path = tmp_path / "net.safetensors"
    write_safetensors(path, weights, metadata)
    read = controlnet_from_weights(read_tensors(path)).float()
    for parameter in module.parameters():
        parameter.data = parameter.data.bfloat16().float()
    cast = module.state_dict()
    assert all(torch.equal(tensor, cast[name]) for name, tensor in read.state_dict().items())
    for found, expected in zip(_outputs(read, batch(layout)), _outputs(module, batch(layout)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # a product's last bit may depend on where in memory its factors lie
    assert read_header(path).metadata["graft.layout"] == layout
    assert read_header(path).metadata["modelspec.architecture"] == "flux-1-dev/controlnet"


def test_the_flat_files_have_the_names_by_which_comfyui_tells_the_layouts_apart(trained) -> None:
    """comfy/controlnet.py: both have controlnet_blocks.0.weight; these decide."""
    xlabs, _, _ = exported_tensors(trained("xlabs"), "xlabs")
    instantx, _, _ = exported_tensors(trained("instantx", 1, 1), "instantx")
    assert {"double_blocks.0.img_attn.norm.key_norm.scale", "img_in.weight", "controlnet_blocks.0.weight", "input_hint_block.14.bias"} <= xlabs.keys()
    assert "controlnet_x_embedder.weight" not in xlabs
    assert {"controlnet_x_embedder.weight", "controlnet_blocks.0.weight", "controlnet_single_blocks.0.weight"} <= instantx.keys()
    assert not any(name.startswith(("double_blocks", "single_blocks", "img_in")) for name in instantx)


@pytest.mark.parametrize(("layout", "other"), [("xlabs", "instantx"), ("instantx", "xlabs")])
def test_another_layout_than_its_own_is_an_error(layout, other, trained) -> None:
    with pytest.raises(InputError, match="different networks"):
        exported_tensors(trained(layout), other)


def test_a_state_dict_exports_like_its_module(trained) -> None:
    module = trained("instantx", 1, 1)
    of_module, of_state = exported_tensors(module, "instantx")[0], exported_tensors(module.state_dict(), "instantx")[0]
    assert of_module.keys() == of_state.keys()
    assert all(torch.equal(tensor, of_state[name]) for name, tensor in of_module.items())


def test_a_state_with_heads_of_another_width(make_base, tmp_path) -> None:
    base = make_base(head_dim=32, axes=(8, 12, 12))
    state = ControlNetRecipe(layout="xlabs", double_depth=1).build(base).module.state_dict()
    assert exported_tensors(state, "xlabs")[0].keys() == state.keys()
    with pytest.raises(InputError, match="axes"):
        export_diffusers_folder(tmp_path / "net", state)
    export_diffusers_folder(tmp_path / "net", state, axes=(8, 12, 12), notes=["Mind the gap."])
    assert json.loads((tmp_path / "net" / "config.json").read_text("utf-8"))["axes_dims_rope"] == [8, 12, 12]
    assert "Mind the gap." in (tmp_path / "net" / "README.txt").read_text("utf-8")


def test_what_is_frozen_is_in_the_file_all_the_same(trained) -> None:
    weights, _, _ = exported_tensors(trained("xlabs", 2), "xlabs")
    assert {"double_blocks.1.txt_mlp.0.weight", "double_blocks.1.txt_attn.proj.bias"} <= weights.keys()


@pytest.mark.parametrize(("layout", "double", "single"), SHAPES)
def test_the_folder_loads_in_diffusers_and_gives_the_same_outputs(layout, double, single, trained, batch, tmp_path) -> None:
    module = trained(layout, double, single)
    files = export_diffusers_folder(tmp_path / "net", module, torch.float32, {"graft.steps": "200"})
    reference, info = FluxControlNetModel.from_pretrained(tmp_path / "net", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    given = batch(layout)
    conditions = given["conditions"]
    with torch.no_grad():
        samples = reference(
            hidden_states=pack(given["x_t"]), controlnet_cond=conditions.hint, encoder_hidden_states=conditions.text,
            pooled_projections=conditions.pooled, timestep=given["t"], img_ids=image_ids(8, 12), txt_ids=text_ids(5), guidance=given["guidance"],
        )  # fmt: skip
    expected = [*samples.controlnet_block_samples, *(samples.controlnet_single_block_samples or ())]
    for found, wanted in zip(_outputs(module, given), expected, strict=True):
        assert ((found - wanted).abs().max() / wanted.abs().max()).item() < 1e-5
    assert {file.name for file in files} == {"config.json", "diffusion_pytorch_model.safetensors", "README.txt"}
    assert read_header(files[0]).metadata["graft.steps"] == "200"
    read_back = controlnet_from_weights(read_tensors(files[0]))
    assert all(torch.equal(tensor, read_back.state_dict()[name]) for name, tensor in module.state_dict().items())


def test_the_config_is_the_one_diffusers_itself_would_save(trained, tmp_path) -> None:
    export_diffusers_folder(tmp_path / "ours", trained("xlabs", 2))
    FluxControlNetModel.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    ours, theirs = (json.loads((tmp_path / name / "config.json").read_text("utf-8")) for name in ("ours", "theirs"))
    assert {name: value for name, value in theirs.items() if name not in ("_diffusers_version", "_name_or_path")} == ours


def test_the_readme_warns_comfyui_users_and_names_the_rule(trained, tmp_path) -> None:
    texts = {}
    for layout in ("xlabs", "instantx"):
        export_diffusers_folder(tmp_path / layout, trained(layout, 3))
        texts[layout] = (tmp_path / layout / "README.txt").read_text("utf-8")
    assert texts["xlabs"].startswith("NOT FOR COMFYUI") and "controlnet_blocks_repeat=True" in texts["xlabs"]
    assert "NOT FOR COMFYUI" not in texts["instantx"] and "control block 1, 2 is never used there" in texts["instantx"]
    assert "x-flux" in texts["xlabs"]


def test_bad_dtypes_and_values_are_refused(trained, tmp_path) -> None:
    module = trained("xlabs")
    with pytest.raises(InputError, match="bfloat16"):
        exported_tensors(module, "xlabs", torch.float16)
    with torch.no_grad():
        module.img_in.bias[0] = float("inf")
    with pytest.raises(InputError, match=r"img_in\.bias"):
        exported_tensors(module, "xlabs")
    with pytest.raises(InputError, match=r"img_in\.bias"):
        export_diffusers_folder(tmp_path / "net", module)
    assert not (tmp_path / "net").exists()


def test_a_folder_that_cannot_be_written_is_refused(trained, tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="diffusers folder"):
        export_diffusers_folder(tmp_path / "file", trained("xlabs"))


def test_no_room_is_said_before_anything_is_written(trained, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match=r"diffusers folder.* free in "):
        export_diffusers_folder(tmp_path / "net", trained("xlabs"))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_export_is_not_taken_for_a_whole_one(trained, tmp_path, monkeypatch) -> None:
    """Over an earlier export of another depth: its config and the new weights do not belong together."""
    export_diffusers_folder(tmp_path / "net", trained("xlabs", 1))

    def interrupted(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("graft.training.trainable.controlnet_export.write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_diffusers_folder(tmp_path / "net", trained("xlabs", 2))
    assert [path.name for path in (tmp_path / "net").iterdir() if path.suffix == ".json"] == []
    with pytest.raises(OSError, match=r"config\.json"):
        FluxControlNetModel.from_pretrained(tmp_path / "net")


def test_an_mlp_of_another_width_has_no_diffusers_layout(make_base, tmp_path) -> None:
    module = ControlNetRecipe(layout="xlabs", double_depth=1).build(make_base(mlp_width=384)).module
    with pytest.raises(InputError, match="4 times the hidden width"):
        export_diffusers_folder(tmp_path / "net", module)
