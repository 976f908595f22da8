from __future__ import annotations

import pytest
import torch
from graft.training.errors import InputError
from graft.training.files.names import flux_from_diffusers, flux_to_diffusers, with_scale_names
from graft.training.models.flux import Flux, FluxConfig, image_ids, text_ids


def reference(guidance: bool):
    """diffusers' own transformer, small and random in every parameter."""
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=2, num_single_layers=3, attention_head_dim=128, num_attention_heads=2,
        joint_attention_dim=96, pooled_projection_dim=48, guidance_embeds=guidance,
    )  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.requires_grad_(False)


@pytest.mark.parametrize("guidance", [True, False])
def test_converted_weights_compute_what_the_diffusers_model_computes(guidance):
    theirs = reference(guidance)
    ours = Flux.from_weights(flux_from_diffusers(theirs.state_dict()))
    torch.manual_seed(1)
    image, text, t, pooled = torch.randn(2, 16, 64), torch.randn(2, 5, 96), torch.rand(2), torch.randn(2, 48)
    scale = torch.tensor([3.5, 1.0]) if guidance else None
    found = ours(image, image_ids(8, 8), text, text_ids(5), t, pooled, scale)
    expected = theirs(
        hidden_states=image, encoder_hidden_states=text, pooled_projections=pooled, timestep=t, img_ids=image_ids(8, 8),
        txt_ids=text_ids(5), guidance=scale,
    ).sample  # fmt: skip
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("guidance", [True, False])
def test_there_and_back_is_exact_and_complete(guidance):
    theirs = reference(guidance).state_dict()
    back = flux_to_diffusers(flux_from_diffusers(theirs))
    assert back.keys() == theirs.keys() and all(torch.equal(back[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("guidance", [True, False])
def test_back_and_there_is_exact_and_complete(flux_weights, guidance):
    ours = flux_weights(guidance=guidance)
    back = flux_from_diffusers(flux_to_diffusers(ours))
    assert back.keys() == ours.keys() and all(torch.equal(back[name], ours[name]) for name in ours)


def full_width_weights() -> dict[str, torch.Tensor]:
    """One double and one single block of full width (diffusers' converter knows no other), as bytes, with few columns where it may."""
    config = FluxConfig(
        hidden_size=3072, head_dim=128, double_depth=1, single_depth=1, in_channels=64, context_width=4096, vector_width=768,
        mlp_width=12288, guidance=True,
    )  # fmt: skip
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in Flux(config).state_dict().items()}
    needed = ("img_attn.qkv.weight", "txt_attn.qkv.weight", "linear1.weight")  # their columns tell the width
    generator = torch.Generator().manual_seed(0)
    thin = {name: shape if len(shape) == 1 or name.endswith(needed) else (shape[0], 3) for name, shape in shapes.items()}
    return {name: torch.randint(0, 255, shape, generator=generator, dtype=torch.uint8) for name, shape in thin.items()}


@pytest.mark.slow
def test_the_map_is_that_of_diffusers_own_converter():
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

    ours = full_width_weights()
    expected = convert_flux_transformer_checkpoint_to_diffusers(dict(ours))
    found = flux_to_diffusers(ours)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_unknown_and_missing_names_are_all_listed(flux_weights):
    weights = flux_to_diffusers(flux_weights())
    del weights["transformer_blocks.1.attn.to_k.weight"], weights["single_transformer_blocks.0.proj_mlp.bias"]
    weights |= {"stranger": torch.zeros(1), "transformer_blocks.0.odd": torch.zeros(1)}
    with pytest.raises(InputError) as caught:
        flux_from_diffusers(weights)
    for said in ("missing transformer_blocks.1.attn.to_k.weight", "missing single_transformer_blocks.0.proj_mlp.bias",
                 "unexpected stranger", "unexpected transformer_blocks.0.odd"):  # fmt: skip
        assert said in str(caught.value)
    with pytest.raises(InputError, match="unexpected stranger"):
        flux_to_diffusers(flux_weights() | {"stranger": torch.zeros(1)})


def test_a_part_of_a_model_converts_too(flux_weights):
    part = {name: tensor for name, tensor in flux_weights().items() if not name.startswith(("final_layer", "single_blocks.2"))}
    back = flux_from_diffusers(flux_to_diffusers(part))
    assert back.keys() == part.keys() and all(torch.equal(back[name], part[name]) for name in part)


def test_the_inputs_are_not_changed(flux_weights):
    ours = flux_weights()
    before = {name: tensor.clone() for name, tensor in ours.items()}
    converted = flux_to_diffusers(ours)
    flux_from_diffusers(converted)
    assert all(torch.equal(ours[name], before[name]) for name in before)


def test_newer_names_of_the_query_and_key_scales():
    assert with_scale_names("double_blocks.3.img_attn.norm.query_norm.weight") == "double_blocks.3.img_attn.norm.query_norm.scale"
    assert with_scale_names("single_blocks.3.norm.key_norm.weight") == "single_blocks.3.norm.key_norm.scale"
    assert with_scale_names("double_blocks.3.img_attn.qkv.weight") == "double_blocks.3.img_attn.qkv.weight"
