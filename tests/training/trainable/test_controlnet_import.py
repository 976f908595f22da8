"""ControlNet files come back as the tensors that were written, whatever names and dtypes they use; other files are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import FluxControlNetModel
from graft.training.errors import InputError
from graft.training.files.controlnet_names import from_any_names
from graft.training.files.write import write_safetensors
from graft.training.models.flux_controlnet import FluxControlNet
from graft.training.trainable.controlnet import ControlNetRecipe
from graft.training.trainable.controlnet_export import exported_tensors
from graft.training.trainable.controlnet_import import load_controlnet_file
from torch import Tensor

SHAPES = [("xlabs", 2, 0), ("xlabs", 1, 1), ("instantx", 1, 0), ("instantx", 3, 2)]
Weights = dict[str, Tensor]


@pytest.fixture
def trained(base, randomise) -> Callable[..., FluxControlNet]:
    def make(layout: str, double: int = 1, single: int = 0) -> FluxControlNet:
        module = ControlNetRecipe(layout=layout, double_depth=double, single_depth=single).build(base).module
        randomise(module)
        return module.requires_grad_(False)

    return make


@pytest.fixture
def exported(trained) -> Callable[..., Weights]:
    return lambda layout, *depths, dtype=torch.bfloat16: exported_tensors(trained(layout, *depths), layout, dtype)[0]


def same(found: Weights, expected: Weights) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def written(weights: Weights, folder: Path) -> Path:
    write_safetensors(folder / "net.safetensors", weights)
    return folder / "net.safetensors"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("layout", "double", "single"), SHAPES)
def test_an_exported_file_gives_exactly_its_tensors(layout, double, single, dtype, exported, tmp_path) -> None:
    weights = exported(layout, double, single, dtype=dtype)
    loaded = load_controlnet_file(written(weights, tmp_path))
    assert same(loaded.weights, weights) and loaded.layout == layout and loaded.weights["controlnet_blocks.0.weight"].dtype == dtype
    assert loaded.report.sizes["double_blocks"] == double and loaded.report.sizes["hidden_width"] == 128


@pytest.mark.parametrize("layout", ["xlabs", "instantx"])
def test_a_prefix_is_taken_off(layout, exported, tmp_path) -> None:
    weights = exported(layout)
    prefixed = {f"module.{name}": tensor for name, tensor in weights.items()}
    assert same(load_controlnet_file(written(prefixed, tmp_path)).weights, weights)


def test_instantx_in_the_original_names_gets_those_of_diffusers(trained, tmp_path) -> None:
    module = trained("instantx", 1, 1)
    expected, _, _ = exported_tensors(module, "instantx", torch.float32)
    assert same(load_controlnet_file(written(module.state_dict(), tmp_path)).weights, expected)


def test_xlabs_out_of_diffusers_gets_its_own_names(tmp_path) -> None:
    """A network that diffusers itself made and named."""
    torch.manual_seed(0)
    theirs = FluxControlNetModel(
        patch_size=2, in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=128, num_attention_heads=1,
        joint_attention_dim=24, pooled_projection_dim=20, guidance_embeds=True, conditioning_embedding_channels=16,
    )  # fmt: skip
    loaded = load_controlnet_file(written(dict(theirs.state_dict()), tmp_path))
    assert loaded.layout == "xlabs" and from_any_names(loaded.weights)[0] == "xlabs"
    assert torch.equal(loaded.weights["pos_embed_input.weight"], theirs.state_dict()["controlnet_x_embedder.weight"])


def test_scales_under_comfyuis_newer_name(exported, tmp_path) -> None:
    weights = exported("xlabs")
    renamed = {name.replace("_norm.scale", "_norm.weight"): tensor for name, tensor in weights.items()}
    assert renamed.keys() != weights.keys() and same(load_controlnet_file(written(renamed, tmp_path)).weights, weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn])
def test_fp16_and_fp8_become_bf16(dtype, exported, tmp_path) -> None:
    packed = {name: tensor.to(dtype) for name, tensor in exported("xlabs").items()}
    assert same(load_controlnet_file(written(packed, tmp_path)).weights, {name: tensor.bfloat16() for name, tensor in packed.items()})


def test_values_that_are_not_finite_are_named(exported, tmp_path) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        weights = {name: tensor.to(dtype) for name, tensor in exported("xlabs").items()}
        weights["img_in.bias"][3] = float("inf")
        with pytest.raises(InputError, match=r"net\.safetensors: expected finite values.*img_in\.bias"):
            load_controlnet_file(written(weights, tmp_path))


def test_missing_and_strange_tensors_are_named(exported, tmp_path) -> None:
    weights = exported("xlabs")
    with pytest.raises(InputError, match=r"missing.* txt_in\.bias"):
        load_controlnet_file(written({name: tensor for name, tensor in weights.items() if name != "txt_in.bias"}, tmp_path))
    with pytest.raises(InputError, match=r"extra\.weight"):
        load_controlnet_file(written({**weights, "extra.weight": torch.zeros(1)}, tmp_path))


def lora(exported: Callable[..., Weights]) -> Weights:
    name = "double_blocks.0.img_attn.qkv"
    return {f"diffusion_model.{name}.lora_A.weight": torch.zeros(4, 128), f"diffusion_model.{name}.lora_B.weight": torch.zeros(384, 4)}


WRONG: dict[str, tuple[Callable[..., Weights], str]] = {
    "union": (
        lambda exported: {**exported("instantx"), "controlnet_mode_embedder.weight": torch.zeros(6, 128)},
        r"found flux controlnet \(InstantX Union\)\. Load it with ComfyUI's own",
    ),
    "sdxl": (
        lambda exported: {"controlnet_cond_embedding.conv_in.weight": torch.zeros(16, 3, 3, 3), "attn2.to_k.weight": torch.zeros(8, 2048)},
        r"found sdxl controlnet \(diffusers\)",
    ),
    "lora": (lora, r"found flux lora .*Put it into loras"),
    "unknown": (lambda exported: {"some.weight": torch.zeros(2)}, r"found unknown tensors: some\.weight\. Look at it with `graft inspect`"),
    "vae": (
        lambda exported: {"decoder.conv_in.weight": torch.zeros(8, 16, 3, 3), "decoder.conv_out.weight": torch.zeros(3, 8, 3, 3)},
        r"found flux autoencoder .*Put it into vae",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_other_files_are_named(kind, exported, tmp_path) -> None:
    make, told = WRONG[kind]
    with pytest.raises(InputError, match=r"net\.safetensors: expected a FLUX ControlNet in the XLabs or InstantX layout; " + told):
        load_controlnet_file(written(make(exported), tmp_path))


def test_a_base_model_is_named(base, tmp_path) -> None:
    with pytest.raises(InputError, match=r"found flux transformer \(BFL\)\. It is a base model: put it into diffusion_models"):
        load_controlnet_file(written(dict(base.state_dict()), tmp_path))


def test_no_safetensors_file(tmp_path) -> None:
    (tmp_path / "net.safetensors").write_bytes(b"PK\x03\x04 a pickle")
    with pytest.raises(InputError, match=r"net\.safetensors"):
        load_controlnet_file(tmp_path / "net.safetensors")
