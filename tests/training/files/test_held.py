"""Weights in 8 bits: what they stand for, what stays in 8 bits on loading, and what a BF16 base loses when it is put into 8 bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from graft.training.errors import InputError
from graft.training.files.fingerprint import fingerprint
from graft.training.files.held import (
    FORMS,
    Held,
    HeldWeights,
    gathered,
    held_again,
    held_on_request,
    in_8_bits,
    placed,
    requested_fingerprint,
    shapes_of,
    stored_of,
)
from graft.training.files.lora_apply import with_lora
from graft.training.files.names import flux_to_diffusers
from graft.training.files.precision import load_transformer_weights

QKV = "double_blocks.0.img_attn.qkv.weight"


def bits_of_bf16(numbers: np.ndarray) -> np.ndarray:
    """fp32 rounded to BF16, to nearest and to even: by the bits alone."""
    bits = numbers.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def e4m3(code: int) -> float:
    """By the format's definition: 1 sign, 4 exponent bits with bias 7, 3 bits of fraction."""
    exponent, fraction = (code >> 3) & 15, code & 7
    size = fraction / 8 * 2.0**-6 if exponent == 0 else (1 + fraction / 8) * 2.0 ** (exponent - 7)
    return -size if code & 128 else size


@pytest.mark.parametrize("by_row", [False, True])
def test_a_held_weight_stands_for_the_product_rounded_once(by_row: bool):
    codes = np.array([code for code in range(256) if code & 127 != 127], np.uint8).reshape(2, 127)
    scale = np.array([[0.0123], [7.7]] if by_row else [[0.0123]], np.float32)
    true = np.vectorize(e4m3)(codes).astype(np.float32) * scale
    held = Held(torch.from_numpy(codes).view(torch.float8_e4m3fn), torch.from_numpy(scale))
    assert np.array_equal(held.numbers().view(torch.uint16).numpy(), bits_of_bf16(true))


def test_known_numbers_of_the_other_forms():
    ints = Held(torch.tensor([[-127, 3], [64, 0]], dtype=torch.int8), torch.tensor([[0.5], [2.0]]))
    assert ints.numbers().tolist() == [[-63.5, 1.5], [128.0, 0.0]]
    wide = Held(torch.tensor([[0x3C, 0x7B]], dtype=torch.uint8).view(torch.float8_e5m2))  # 1 and 57344
    assert wide.numbers().tolist() == [[1.0, 57344.0]]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_what_is_saved_in_8_bits_stays_so_in_the_blocks_alone(narrow_flux, save, dtype):
    weights = {name: tensor.to(dtype) if tensor.ndim == 2 else tensor for name, tensor in narrow_flux(torch.bfloat16).items()}
    loaded = load_transformer_weights(save(weights)).weights
    assert isinstance(loaded, HeldWeights) and loaded.keys() == weights.keys()
    held = {name for name, value in loaded.stored.items() if isinstance(value, Held)}
    assert held == {name for name, tensor in weights.items() if tensor.ndim == 2 and name.startswith(("double_", "single_"))} and QKV in held
    assert all(torch.equal(loaded[name], tensor.to(torch.bfloat16)) for name, tensor in weights.items())
    assert loaded.stored[QKV].stored.dtype == dtype and loaded.stored[QKV].scale is None
    assert shapes_of(loaded) == {name: tuple(tensor.shape) for name, tensor in weights.items()}
    assert fingerprint(loaded) == fingerprint({name: tensor.to(torch.bfloat16) for name, tensor in weights.items()})


def test_fused_weights_keep_the_scale_of_each_part(narrow_flux, save):
    stored = {name: tensor.clone() for name, tensor in flux_to_diffusers(narrow_flux(torch.bfloat16)).items()}
    parts = []
    for letter, scale in (("q", 0.5), ("k", None), ("v", 3.0)):
        name = f"transformer_blocks.0.attn.to_{letter}.weight"
        stored[name] = stored[name].to(torch.float8_e4m3fn)
        parts.append(stored[name].float() * (scale or 1))
        if scale:
            stored[name.replace(".weight", ".scale_weight")] = torch.tensor(scale)
    loaded = load_transformer_weights(save(stored)).weights
    kept = stored_of(loaded)[QKV]
    assert isinstance(kept, Held) and kept.scale.tolist() == [[0.5]] * 8 + [[1.0]] * 8 + [[3.0]] * 8
    assert torch.equal(loaded[QKV], torch.cat(parts).bfloat16())


def test_a_fused_weight_of_two_dtypes_becomes_bf16(narrow_flux, save):
    stored = {name: tensor.clone() for name, tensor in flux_to_diffusers(narrow_flux(torch.bfloat16)).items()}
    stored["transformer_blocks.0.attn.to_q.weight"] = stored["transformer_blocks.0.attn.to_q.weight"].to(torch.float8_e4m3fn)
    assert isinstance(load_transformer_weights(save(stored)).weights, dict)


def test_int8_rounds_to_the_nearest_step_of_each_row():
    weight = torch.randn(40, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 3, 40)[:, None]
    weight[7] = 0
    held = in_8_bits(weight.bfloat16(), "int8")
    steps = weight.bfloat16().double() / held.scale.double()
    assert (steps - held.stored.double()).abs().max() <= 0.5 + 1e-4 and held.stored.abs().amax(1)[weight.abs().amax(1) > 0].eq(127).all()
    assert held.scale.shape == (40, 1) and held.numbers()[7].eq(0).all()


def test_fp8_on_request_uses_its_whole_range():
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(1)).bfloat16() * 1e-3
    held = in_8_bits(weight, "fp8 e4m3fn")
    assert held.stored.float().abs().amax(1).eq(448).all()
    large = weight.abs() > 2.0**-6 / 448 * weight.abs().amax(1, keepdim=True)  # normal numbers of the format: half a step is 1/16
    assert ((held.numbers() - weight).abs()[large] <= weight.abs()[large] * (1 / 16 + 1 / 128)).all()


def test_only_matrices_of_blocks_are_put_into_8_bits(narrow_flux):
    weights = narrow_flux(torch.bfloat16)
    requested = held_on_request(weights, "int8")
    held = {name for name in requested if isinstance(requested.stored[name], Held)}
    assert held == {name for name, tensor in weights.items() if tensor.ndim == 2 and name.startswith(("double_", "single_"))}
    assert requested.stored["img_in.weight"] is weights["img_in.weight"] and len(requested) == len(weights)
    again = held_on_request(requested, "fp8 e4m3fn")
    assert again.stored[QKV].stored.dtype == torch.int8, "what is in 8 bits already is not rounded twice"
    with pytest.raises(KeyError):
        requested["stranger"]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
@pytest.mark.parametrize("scale", [None, torch.tensor([[0.0371]]), torch.tensor([[3e-5], [1.9]])])
def test_the_8_bits_are_found_again_from_their_numbers(dtype: torch.dtype, scale: torch.Tensor | None):
    codes = torch.arange(256).to(torch.uint8)
    codes = codes[Held(codes.view(dtype)[None]).numbers()[0].isfinite()]
    stored = codes.view(dtype).repeat(2, 1)
    again = held_again(Held(stored, scale).numbers(), dtype, scale)
    assert isinstance(again, Held) and torch.equal(again.stored.float(), stored.float())


def test_numbers_that_8_bits_do_not_give_are_kept_as_they_are():
    weight = torch.tensor([[1.0, 1.0078125]]).bfloat16()
    assert held_again(weight, torch.float8_e4m3fn, None) is weight
    assert held_again(weight * 1000, torch.float8_e4m3fn, None).dtype == torch.bfloat16


def test_held_weights_stay_held_where_they_are_placed_and_where_a_lora_leaves_them_alone(narrow_flux):
    base = held_on_request(narrow_flux(torch.bfloat16), "int8")
    moved = placed(base, "cpu", torch.float32)
    assert isinstance(moved.stored[QKV], Held) and moved["img_in.weight"].dtype == torch.float32
    delta = torch.full((8, 8), 0.25)
    changed = with_lora(base, {"diffusion_model.double_blocks.0.img_attn.proj.diff": delta}, 1.0)
    name = "double_blocks.0.img_attn.proj.weight"
    assert isinstance(changed.stored[QKV], Held) and torch.equal(changed[name], (base[name].float() + delta).bfloat16())


def test_plain_weights_stay_a_plain_mapping(narrow_flux):
    weights = narrow_flux(torch.bfloat16)
    assert gathered(weights) == weights and stored_of(weights) is weights and isinstance(placed(weights, "cpu", torch.bfloat16), dict)


def test_a_base_in_8_bits_is_another_base():
    prints = {requested_fingerprint(base, form) for base in ("a", "b") for form in FORMS} | {"a", "b"}
    assert len(prints) == 6 and requested_fingerprint("a", "int8") == requested_fingerprint("a", "int8")


def test_what_cannot_be_put_into_8_bits_is_refused_and_named(narrow_flux):
    with pytest.raises(InputError, match=r"8-bit form: expected int8 or fp8 e4m3fn; found nf4"):
        held_on_request(narrow_flux(), "nf4")
    weights = narrow_flux()
    weights[QKV][2, 1] = float("inf")
    with pytest.raises(InputError, match=f"{QKV}: expected finite values"):
        held_on_request(weights, "int8")[QKV]
