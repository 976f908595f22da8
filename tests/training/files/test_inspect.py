from __future__ import annotations

import json

import pytest
import torch
from graft.training.errors import InputError
from graft.training.files.header import read_header
from graft.training.files.inspect import alphas, inspect_as_dict, inspect_file


def test_a_transformer_in_words(narrow_flux, save):
    text = inspect_file(save(narrow_flux(torch.float16, guidance=True), {"modelspec.title": "a\x1b[2Jb"}))
    for said in ("flux transformer, BFL names", "dev (guidance is embedded)", "hidden width 8", "double blocks 1", "F16:", "none",
                 "FP16 is a trap", "modelspec.title: a?[2Jb"):  # fmt: skip
        assert said in text
    assert "\x1b" not in text and "Values:" not in text


@pytest.mark.parametrize(("form", "said"), [("scaled", "`scaled_fp8`"), ("comfy", "`.comfy_quant`")])
def test_8_bit_forms_are_named(narrow_flux, packed, save, form, said):
    stored, _, metadata = packed(narrow_flux(torch.bfloat16), form)
    text = inspect_file(save(stored, metadata))
    assert said in text and "3 scales" in text and "dequantised to BF16" in text


def test_plain_8_bit_files_are_named(narrow_flux, save):
    assert "plain e4m3fn" in inspect_file(save(narrow_flux(torch.float8_e4m3fn)))
    assert "plain e5m2" in inspect_file(save(narrow_flux(torch.float8_e5m2)))


def test_sizes_are_in_units_that_fit(save):
    text = inspect_file(save({"a": torch.zeros(500), "b": torch.zeros(7, dtype=torch.bfloat16)}))
    assert "500 numbers, 2.00 kB\n" in text and "7 numbers, 14 bytes\n" in text and "0.000" not in text


def test_what_cannot_be_read_is_said(narrow_flux, save):
    nf4 = narrow_flux(torch.bfloat16) | {"img_in.weight.quant_state.bitsandbytes__nf4": torch.zeros(3, dtype=torch.uint8)}
    assert "cannot be read here: 4 bits by bitsandbytes (nf4)" in inspect_file(save(nf4))
    orphan = narrow_flux(torch.bfloat16) | {"gone.scale_weight": torch.ones(1)}
    assert "1 scales WITHOUT a weight" in inspect_file(save(orphan))


def test_values_are_read_only_when_asked(narrow_flux, save):
    weights = narrow_flux(torch.float16)
    weights["img_in.bias"][0] = float("nan")
    text = inspect_file(save(weights), values=True)
    assert "1 tensors with infinities or NaN" in text and "img_in.bias: 1 of 8" in text


def test_unknown_files_show_what_is_in_them(save):
    assert "unknown; it begins with odd.one" in inspect_file(save({"odd.one": torch.zeros(1)}))
    assert "no tensors at all" in inspect_file(save({}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_loras_alphas_are_read(save, dtype):
    layers = {f"lora_unet_double_blocks_{index}_img_attn_qkv": alpha for index, alpha in enumerate([8, 0.5, 8])}
    tensors = {f"{name}.alpha": torch.tensor(alpha, dtype=dtype) for name, alpha in layers.items()}
    tensors |= {f"{name}.lora_down.weight": torch.zeros(4, 8, dtype=dtype) for name in layers}
    path = save(tensors)
    assert alphas(read_header(path)) == (0.5, 8.0)
    assert "Alpha:        0.5, 8" in inspect_file(path) and "rank 4" in inspect_file(path)


def test_json_holds_the_same(narrow_flux, save):
    path = save(narrow_flux(torch.float16), {"a": "b"})
    found = json.loads(json.dumps(inspect_as_dict(path, values=True)))
    assert (found["kind"], found["layout"], found["fp8"], found["sizes"]["hidden_width"]) == ("transformer", "BFL", "none", 8)
    assert found["metadata"] == {"a": "b"} and found["values"]["by_dtype"]["F16"]["non_finite"] == 0
    assert found["parameters"] == sum(tensor.numel() for tensor in narrow_flux().values())
    assert "values" not in inspect_as_dict(path)


def test_a_damaged_file_is_an_error(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\0" * 4)
    with pytest.raises(InputError):
        inspect_file(tmp_path / "x.safetensors")
