from __future__ import annotations

import json

import pytest
import torch
from graft.training.errors import InputError
from graft.training.files.header import read_header
from graft.training.files.identify import identify
from graft.training.files.names import flux_to_diffusers
from graft.training.files.precision import load_transformer_weights, loaded_fingerprint
from graft.training.models.flux import Flux

FORMS = ["scaled", "comfy", "comfy by rows", "comfy by metadata"]
QKV = "double_blocks.0.img_attn.qkv"


def equal(found, expected) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == torch.bfloat16 and torch.equal(found[name], expected[name].bfloat16()) for name in expected
    )


def prefixed(weights, prefix: str):
    return {prefix + name: tensor for name, tensor in weights.items()}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model.", "transformer."])
def test_bf16_comes_out_as_it_lies_in_the_file(narrow_flux, save, prefix):
    weights = narrow_flux(torch.bfloat16, guidance=True)
    loaded = load_transformer_weights(save(prefixed(weights, prefix), {"a": "b"}))
    assert equal(loaded.weights, weights) and loaded.metadata == {"a": "b"}
    assert not loaded.report.changed and "Nothing was changed" in loaded.report.explanation()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_dtype_becomes_bf16(narrow_flux, save, dtype):
    weights = narrow_flux(dtype)
    loaded = load_transformer_weights(save(weights))
    expected = {name: tensor.float() if dtype != torch.float64 else tensor for name, tensor in weights.items()}
    assert equal(loaded.weights, expected) and loaded.report.changed


def test_a_loaded_file_is_known_by_its_content_and_not_read_again(narrow_flux, save, tmp_path, monkeypatch):
    from graft.training.files import fingerprint, precision

    path = save(narrow_flux())
    first = loaded_fingerprint(path, tmp_path / "notes")
    monkeypatch.setattr(precision, "CONVERSION_VERSION", 2)
    assert len(first) == 64 and loaded_fingerprint(path, tmp_path / "notes") != first
    monkeypatch.undo()
    monkeypatch.setattr(fingerprint, "_digest_file", lambda *_: pytest.fail("read again"))
    assert loaded_fingerprint(path, tmp_path / "notes") == first
    monkeypatch.undo()
    assert loaded_fingerprint(save({name: tensor + 1 for name, tensor in narrow_flux().items()}), tmp_path / "notes") != first


def test_diffusers_names_become_original_names_and_build_a_model(flux_weights, save):
    weights = flux_weights(dtype=torch.bfloat16)
    loaded = load_transformer_weights(save(flux_to_diffusers(weights)))
    assert equal(loaded.weights, weights)
    Flux.from_weights(loaded.weights)


def test_fp16_is_explained_with_what_it_has_cost(narrow_flux, save):
    weights = {name: tensor.abs().clamp(0.1).half() for name, tensor in narrow_flux().items()}
    part = weights[f"{QKV}.weight"].view(-1)
    part[:5], part[5:8], part[8:10] = 0, 2.0**-20, 65504
    report = load_transformer_weights(save(weights)).report
    counts = report.counts["F16"]
    assert (counts.zeros, counts.subnormals, counts.saturated, counts.non_finite) == (5, 3, 2, 0)
    text = report.explanation()
    for said in ("FP16 ends at 65504", "equals the initial one", "5 exact zeros", "3 subnormal", "2 at 65504", "prefer it"):
        assert said in text
    json.dumps(report.as_dict())


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("form", FORMS)
def test_scaled_8_bit_weights_are_multiplied_by_their_scales(narrow_flux, packed, save, form, prefix):
    stored, worth, metadata = packed(narrow_flux(torch.bfloat16), form, prefix)
    path = save(stored, metadata)
    loaded = load_transformer_weights(path)
    assert equal(loaded.weights, worth)
    assert identify(read_header(path)).fp8 == ("scaled" if form == "scaled" else "comfy")
    helpers = len(stored) - len(worth)
    assert (loaded.report.scaled, loaded.report.used_up) == (3, helpers)
    assert "3 weights were multiplied by their scales" in loaded.report.explanation()
    assert f"{helpers} scales and markers are no longer needed" in loaded.report.explanation()


def test_known_8_bit_numbers(narrow_flux, save):
    weights = narrow_flux(torch.bfloat16)
    raw = torch.zeros(24, 8, dtype=torch.uint8)
    raw[0, :4] = torch.tensor([0x38, 0x7E, 0x01, 0xB8], dtype=torch.uint8)  # 1, 448, 2^-9, -1 by the format's definition
    weights[f"{QKV}.weight"] = raw.view(torch.float8_e4m3fn)
    weights[f"{QKV}.scale_weight"] = torch.tensor(0.25)
    found = load_transformer_weights(save(weights)).weights[f"{QKV}.weight"]
    assert found[0, :5].tolist() == [0.25, 112.0, 2.0**-11, -0.25, 0.0]


def test_scales_on_diffusers_names(narrow_flux, save):
    weights = narrow_flux(torch.bfloat16)
    stored = {name: tensor.clone() for name, tensor in flux_to_diffusers(weights).items()}
    key = "transformer_blocks.0.attn.to_k"
    stored[f"{key}.weight"] = torch.ones(8, 8).to(torch.float8_e4m3fn)
    stored[f"{key}.weight_scale"] = torch.tensor(3.0)
    weights[f"{QKV}.weight"][8:16] = 3
    assert equal(load_transformer_weights(save(stored)).weights, weights)


def test_scales_are_found_in_pieces_of_any_size(narrow_flux, packed, save, monkeypatch):
    from graft.training.files import dequantise

    monkeypatch.setattr(dequantise, "CHUNK_BYTES", 5)
    stored, worth, metadata = packed(narrow_flux(torch.bfloat16), "comfy by rows")
    assert equal(load_transformer_weights(save(stored, metadata)).weights, worth)


def test_names_out_of_a_newer_comfyuis_memory(narrow_flux, save):
    weights = narrow_flux(torch.bfloat16)
    renamed = {name.replace("_norm.scale", "_norm.weight"): tensor for name, tensor in weights.items()}
    assert equal(load_transformer_weights(save(renamed)).weights, weights)


def test_other_models_in_the_file_are_left_out_and_told(narrow_flux, save):
    weights = narrow_flux(torch.bfloat16)
    others = {"vae.decoder.x": torch.full((2,), float("nan")), "text_encoders.t5.scaled_fp8": torch.zeros(2),
              "text_encoders.t5.weight": torch.zeros(4, 4, dtype=torch.uint8)}  # fmt: skip
    declared = {"_quantization_metadata": json.dumps({"layers": {"text_encoders.t5": {"format": "nvfp4"}}})}
    loaded = load_transformer_weights(save(prefixed(weights, "model.diffusion_model.") | others, declared))
    assert equal(loaded.weights, weights)
    assert loaded.report.other_parts == {"vae.": 1, "text_encoders.": 2} and "vae.* (1 tensors)" in loaded.report.explanation()
    assert (loaded.report.used_up, loaded.report.packing) == (0, "none")


def test_values_that_are_not_finite_are_refused_and_all_listed(narrow_flux, save):
    weights = narrow_flux(torch.float16)
    weights["img_in.bias"][2] = float("inf")
    weights[f"{QKV}.weight"][1, :3] = float("nan")
    with pytest.raises(InputError) as caught:
        load_transformer_weights(save(weights))
    assert "2 tensors" in str(caught.value) and "img_in.bias (1)" in str(caught.value) and f"{QKV}.weight (3)" in str(caught.value)


@pytest.mark.parametrize("case", ["8-bit NaN", "scale is infinite", "product beyond the range", "FP32 beyond BF16"])
def test_values_that_become_infinite_are_refused(narrow_flux, save, case):
    weights, eight = narrow_flux(torch.bfloat16), torch.ones(24, 8).to(torch.float8_e4m3fn)
    if case == "FP32 beyond BF16":
        weights["img_in.bias"] = torch.full((8,), 3.4028e38)
    else:
        weights[f"{QKV}.weight"] = eight if case != "8-bit NaN" else torch.full((24, 8), float("nan")).to(torch.float8_e4m3fn)
        scale = {"scale is infinite": float("inf"), "product beyond the range": 3.4028e38}.get(case, 1.0)
        weights[f"{QKV}.scale_weight"] = torch.tensor(scale)
    with pytest.raises(InputError, match="infinities or NaN in 1 tensors"):
        load_transformer_weights(save(weights))


def spoilt(weights, case: str):
    """The weights with one thing wrong, and what the error must say."""
    layer, integers, one = QKV, torch.zeros(24, 4, dtype=torch.uint8), torch.ones(1)

    def declared(text: bytes):
        return {f"{layer}.comfy_quant": torch.tensor(list(text), dtype=torch.uint8)}

    return {
        "missing": ({name: tensor for name, tensor in weights.items() if name != "img_in.bias"}, "missing img_in.bias"),
        "unknown": (weights | {"double_blocks.0.stranger": one}, "unexpected double_blocks.0.stranger"),
        "scale without weight": (weights | {"gone.scale_weight": one}, "gone.scale_weight"),
        "two scales": (weights | {f"{layer}.scale_weight": one, f"{layer}.weight_scale": one}, "scales without one"),
        "nf4": (weights | {f"{layer}.weight.quant_state.bitsandbytes__nf4": integers, f"{layer}.weight.absmax": one}, "bitsandbytes"),
        "int8": (weights | {f"{layer}.weight": integers.to(torch.int8), f"{layer}.weight_scale": one}, "packed in I8"),
        "nvfp4": (weights | {f"{layer}.weight": integers, f"{layer}.weight_scale_2": one}, "NVFP4|packed in U8"),
        "gguf blocks": (weights | {f"{layer}.weight": integers}, "GGUF"),
        "mx blocks": (weights | {f"{layer}.weight_scale": torch.ones(24, 2)}, "block-scaled"),
        "integer bias": (weights | {"img_in.bias": torch.zeros(8, dtype=torch.int32)}, r"img_in.bias \(I32\)"),
        "other format declared": (weights | declared(b'{"format":"mxfp8"}'), "mxfp8"),
        "rotated": (weights | declared(b'{"format":"float8_e4m3fn","convrot":true}'), "convrot"),
        "declared in no JSON": (weights | declared(b"\1\2"), "JSON object"),
    }[case]


@pytest.mark.parametrize("case", [
    "missing", "unknown", "scale without weight", "two scales", "nf4", "int8", "nvfp4", "gguf blocks", "mx blocks", "integer bias",
    "other format declared", "rotated", "declared in no JSON"])  # fmt: skip
def test_what_cannot_be_read_is_refused_and_named(narrow_flux, save, case):
    weights, said = spoilt(narrow_flux(torch.bfloat16), case)
    with pytest.raises(InputError, match=said):
        load_transformer_weights(save(weights))


@pytest.mark.parametrize("text", ["{", "[]", '{"layers": 3}', '{"layers": {"a": {"format": "nvfp4"}}}', '{"layers": {"a": 3}}'])
def test_what_the_metadata_declares_counts_too(narrow_flux, save, text):
    with pytest.raises(InputError):
        load_transformer_weights(save(narrow_flux(torch.bfloat16), {"_quantization_metadata": text}))


def test_strangers_beside_a_prefixed_model_are_refused(narrow_flux, save):
    with pytest.raises(InputError, match="stranger"):
        load_transformer_weights(save(prefixed(narrow_flux(torch.bfloat16), "diffusion_model.") | {"stranger": torch.zeros(1)}))


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.zeros(2, 2)}, "flux lora"),
        ({"controlnet_cond_embedding.conv_in.weight": torch.zeros(2, 3, 1, 1)}, "controlnet"),
        ({"something.else": torch.zeros(1)}, "unknown tensors: something.else"),
        ({}, "none at all"),
    ],
)
def test_other_files_are_refused_and_named(save, weights, said):
    with pytest.raises(InputError, match=f"expected a FLUX transformer; found .*{said}"):
        load_transformer_weights(save(weights))


def test_progress_is_told_and_can_interrupt(narrow_flux, save, listener):
    path = save(narrow_flux())
    load_transformer_weights(path, listener)
    total = len(narrow_flux())
    assert listener.calls[0] == ("start", total, "tensor") and listener.calls[-2:] == [("advance", total), ("finish",)]
    listener.interrupt_at = listener.questions + 3
    with pytest.raises(KeyboardInterrupt):
        load_transformer_weights(path, listener)
    assert listener.calls[-1] == ("finish",)
