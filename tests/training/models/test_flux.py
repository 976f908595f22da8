"""FLUX against diffusers' FluxTransformer2DModel, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxPipeline
from graft.training.errors import InputError
from graft.training.files.names import flux_to_diffusers
from graft.training.models.control_residuals import ControlResiduals
from graft.training.models.flux import Flux, FluxConfig, image_ids, pack, text_ids, unpack


@pytest.mark.parametrize("guidance", [True, False], ids=["dev", "schnell"])
def test_output_and_gradients_equal_diffusers(guidance, random_flux, inputs, diffusers_flux, diffusers_inputs, assert_close, gradients) -> None:
    model = random_flux(guidance=guidance)
    _check_against_diffusers(model, inputs(model.config), None, {}, diffusers_flux, diffusers_inputs, assert_close, gradients)


@pytest.mark.parametrize("rule", ["modulo", "interval"])
def test_with_residuals_equal_diffusers(rule, random_flux, inputs, diffusers_flux, diffusers_inputs, assert_close, gradients) -> None:
    model = random_flux()
    given = inputs(model.config)
    single = 0 if rule == "modulo" else 2  # diffusers knows no modulo rule for single blocks
    residuals = [torch.randn(*given["image"].shape[:2], model.config.hidden_size) for _ in range(2 + single)]
    control = ControlResiduals(tuple(residuals[:2]), tuple(residuals[2:]), rule)
    extra = {"controlnet_block_samples": residuals[:2], "controlnet_blocks_repeat": rule == "modulo"}
    if single:
        extra["controlnet_single_block_samples"] = residuals[2:]
    _check_against_diffusers(model, given, control, extra, diffusers_flux, diffusers_inputs, assert_close, gradients)


def _check_against_diffusers(model, given, control, extra, diffusers_flux, diffusers_inputs, assert_close, gradients) -> None:
    reference = diffusers_flux(model)
    for name in ("image", "text", "pooled"):
        given[name].requires_grad_()
    results = []
    for network, call in (
        (model, lambda: model(**given, control=control)),
        (reference, lambda: reference(**diffusers_inputs(given, model.config), **extra).sample),
    ):
        output = call()
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
        found = gradients(network)
        found = flux_to_diffusers(found) if network is model else found
        for name in ("image", "text", "pooled"):
            found[f"input {name}"], given[name].grad = given[name].grad, None
        results.append({"output": output.detach(), **found})
    assert_close(*results)


def test_heads_of_128_equal_diffusers(random_flux, inputs, diffusers_flux, diffusers_inputs, assert_close) -> None:
    model = random_flux(hidden_size=256, head_dim=128, mlp_width=1024, axes=(16, 56, 56), double_depth=1, single_depth=1)
    given = inputs(model.config)
    with torch.no_grad():
        reference = diffusers_flux(model)(**diffusers_inputs(given, model.config)).sample
        assert_close({"output": model(**given)}, {"output": reference})


def test_tokens_and_positions_are_those_of_the_pipeline() -> None:
    latents = torch.randn(2, 16, 6, 10)
    packed = FluxPipeline._pack_latents(latents, 2, 16, 6, 10)
    assert torch.equal(pack(latents), packed)
    assert torch.equal(unpack(pack(latents), 6, 10), latents)
    assert torch.equal(unpack(packed, 6, 10), FluxPipeline._unpack_latents(packed, 48, 80, 8))
    assert torch.equal(image_ids(6, 10), FluxPipeline._prepare_latent_image_ids(2, 3, 5, "cpu", torch.float32))
    assert torch.equal(text_ids(7), torch.zeros(7, 3))


def test_a_residual_of_zero_changes_no_bit_and_its_strength_scales_it(random_flux, inputs) -> None:
    model = random_flux()
    given = inputs(model.config)
    residual = torch.randn(*given["image"].shape[:2], model.config.hidden_size)
    control = ControlResiduals((residual,), (residual,), "modulo")
    with torch.no_grad():
        plain = model(**given)
        assert torch.equal(model(**given, control=control.scaled(0.0)), plain)
        assert not torch.equal(model(**given, control=control), plain)
        doubled = ControlResiduals((2 * residual,), (2 * residual,), "modulo")
        assert torch.equal(model(**given, control=control.scaled(2.0)), model(**given, control=doubled))


def test_checkpointing_recomputes_and_gives_the_same_gradients(random_flux, inputs, gradients) -> None:
    model = random_flux()
    given = inputs(model.config)
    calls = []
    model.double_blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    results = []
    for model.checkpointing in (False, True):
        model.zero_grad()
        output = model(**given)
        output.square().sum().backward()
        results.append({"output": output.detach(), **{name: grad.clone() for name, grad in gradients(model).items()}})
    assert len(calls) == 3  # once, and once more in the backward pass
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("autocast", [True, False])
def test_runs_in_bfloat16(autocast, random_flux, inputs) -> None:
    model = random_flux()
    given = inputs(model.config)
    with torch.no_grad():
        expected = model(**given)
        if autocast:
            with torch.autocast("cpu", torch.bfloat16):
                found = model(**given)
        else:
            low = {name: tensor.bfloat16() if name in ("image", "text", "pooled") else tensor for name, tensor in given.items()}
            found = model.bfloat16()(**low)
    assert found.dtype == torch.bfloat16
    assert ((found - expected).norm() / expected.norm()).item() < 0.03


def test_from_weights_shares_storage_and_reads_all_sizes(random_flux) -> None:
    model = random_flux(guidance=False)
    weights = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    loaded = Flux.from_weights(weights, axes=(8, 12, 12))
    assert loaded.config == model.config
    assert all(tensor.data_ptr() == weights[name].data_ptr() for name, tensor in loaded.state_dict().items())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_from_weights_lists_every_missing_unexpected_and_wrong_tensor(random_flux) -> None:
    weights = dict(random_flux().state_dict())
    del weights["txt_in.bias"], weights["single_blocks.2.linear2.weight"]
    weights["extra.one"] = weights["extra.two"] = torch.zeros(1)
    weights["img_in.bias"] = torch.zeros(3)
    with pytest.raises(InputError) as caught:
        Flux.from_weights(weights, axes=(8, 12, 12))
    for text in (
        "missing txt_in.bias",
        "missing single_blocks.2.linear2.weight",
        "unexpected extra.one",
        "unexpected extra.two",
        "img_in.bias is (3,)",
    ):
        assert text in str(caught.value)


def _shapes(model: Flux) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_other_head_widths_need_explicit_axes(random_flux) -> None:
    with pytest.raises(InputError, match="axes explicitly"):
        FluxConfig.from_shapes(_shapes(random_flux()))
    with pytest.raises(InputError, match="whole heads"):
        FluxConfig.from_shapes(_shapes(random_flux()) | {"img_in.weight": (63, 64)}, (8, 12, 12))


@pytest.mark.parametrize(("name", "shape"), [("img_in.weight", None), ("txt_in.weight", (64,)), ("vector_in.in_layer.weight", ())])
def test_sizes_that_cannot_be_read_are_named(name, shape, random_flux) -> None:
    shapes = _shapes(random_flux())
    shapes.pop(name)
    with pytest.raises(InputError, match=name):
        FluxConfig.from_shapes(shapes if shape is None else {**shapes, name: shape}, (8, 12, 12))


def test_hostile_block_numbers_neither_hang_nor_crash(random_flux) -> None:
    weights = dict(random_flux().state_dict())
    weights["double_blocks.987654321987.img_mod.lin.weight"] = weights["double_blocks.x.img_mod.lin.weight"] = torch.zeros(1)
    with pytest.raises(InputError, match=r"unexpected double_blocks\.987654321987"):
        Flux.from_weights(weights, axes=(8, 12, 12))


def test_guidance_must_be_given_to_a_model_that_embeds_it(random_flux, inputs) -> None:
    model = random_flux()
    with pytest.raises(ValueError, match="guidance"):
        model(**{**inputs(model.config), "guidance": None})
