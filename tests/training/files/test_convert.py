from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch
from graft.training.errors import InputError
from graft.training.files import convert as room
from graft.training.files import dequantise
from graft.training.files.convert import convert_to_bf16
from graft.training.files.names import flux_to_diffusers
from graft.training.files.precision import load_transformer_weights
from safetensors import safe_open
from safetensors.torch import load_file


def folder_of(path) -> list[str]:
    return sorted(child.name for child in path.parent.iterdir())


def metadata_of(path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


@pytest.mark.parametrize("names", ["original", "diffusers", "prefixed"])
def test_fp16_becomes_bf16_under_the_same_names(narrow_flux, save, tmp_path, names):
    weights = narrow_flux(torch.float16)
    stored = {"original": weights, "diffusers": flux_to_diffusers(weights),
              "prefixed": {f"model.diffusion_model.{name}": tensor for name, tensor in weights.items()}}[names]  # fmt: skip
    source, target = save(stored, {"modelspec.title": "t", "modelspec.hash_sha256": "0x1"}), tmp_path / "new" / "bf16.safetensors"
    report = convert_to_bf16(source, target)
    found = load_file(target)
    assert found.keys() == stored.keys() and all(torch.equal(found[name], stored[name].bfloat16()) for name in stored)
    assert report.tensors == {"F16": len(stored)} and "FP16" in report.explanation()
    metadata = metadata_of(target)
    assert metadata["modelspec.title"] == "t" and "modelspec.hash_sha256" not in metadata and metadata["graft.converted_to"] == "BF16"
    assert json.loads(metadata["graft.converted_from"])["dtypes"] == ["F16"]
    assert folder_of(target) == ["bf16.safetensors"]


@pytest.mark.parametrize("form", ["scaled", "comfy", "comfy by rows", "comfy by metadata"])
def test_8_bit_forms_are_unpacked_and_their_scales_go(narrow_flux, packed, save, tmp_path, form):
    stored, worth, metadata = packed(narrow_flux(torch.bfloat16), form)
    source, target = save(stored, metadata), tmp_path / "bf16.safetensors"
    report = convert_to_bf16(source, target)
    found = load_file(target)
    assert found.keys() == worth.keys() and all(torch.equal(found[name], worth[name]) for name in worth)
    assert "_quantization_metadata" not in metadata_of(target) and json.loads(metadata_of(target)["graft.converted_from"])["scales"] == 3
    assert report.as_dict() == load_transformer_weights(source).report.as_dict()
    assert not load_transformer_weights(target).report.changed


def test_pieces_of_any_size_give_the_same_file_and_stay_small(narrow_flux, packed, save, tmp_path, monkeypatch):
    stored, _, metadata = packed(narrow_flux(torch.bfloat16), "comfy by rows")
    source = save(stored, metadata)
    convert_to_bf16(source, tmp_path / "whole")
    pieces, as_bytes = [], room.tensor_bytes

    def noted(tensor):
        pieces.append(tensor.numel())
        return as_bytes(tensor)

    monkeypatch.setattr(dequantise, "CHUNK_BYTES", 14)
    monkeypatch.setattr(room, "tensor_bytes", noted)
    convert_to_bf16(source, tmp_path / "pieces")
    assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole").read_bytes() and max(pieces) <= 14


def test_other_models_in_the_file_stay_byte_for_byte(narrow_flux, packed, save, tmp_path):
    stored, worth, metadata = packed(narrow_flux(torch.bfloat16), "comfy by metadata", "model.diffusion_model.")
    others = {
        "vae.decoder.conv_in.weight": torch.randn(4, 4), "text_encoders.t5.a.weight": torch.ones(4, 4).to(torch.float8_e4m3fn),
        "text_encoders.t5.a.weight_scale": torch.tensor(0.5), "text_encoders.t5.ids": torch.arange(3),
    }  # fmt: skip
    declared = json.loads(metadata["_quantization_metadata"])
    declared["layers"]["text_encoders.t5.a"] = {"format": "float8_e4m3fn"}
    target = tmp_path / "bf16.safetensors"
    convert_to_bf16(save(stored | others, {"_quantization_metadata": json.dumps(declared)}), target)
    found = load_file(target)
    assert found.keys() == {f"model.diffusion_model.{name}" for name in worth} | others.keys()
    for name, tensor in others.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name].float(), tensor.float())
    assert json.loads(metadata_of(target)["_quantization_metadata"])["layers"] == {"text_encoders.t5.a": {"format": "float8_e4m3fn"}}


def test_single_numbers_and_integers_keep_their_dtype(save, tmp_path):
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    lora = {f"{name}.lora_down.weight": torch.randn(4, 8).half(), f"{name}.lora_up.weight": torch.randn(8, 4).half(),
            f"{name}.alpha": torch.tensor(0.3), "count": torch.arange(2)}  # fmt: skip
    convert_to_bf16(save(lora), tmp_path / "new")
    found = load_file(tmp_path / "new")
    assert {key: str(tensor.dtype) for key, tensor in found.items()} == {
        f"{name}.lora_down.weight": "torch.bfloat16", f"{name}.lora_up.weight": "torch.bfloat16", f"{name}.alpha": "torch.float32",
        "count": "torch.int64"}  # fmt: skip
    assert found[f"{name}.alpha"] == lora[f"{name}.alpha"]


def test_values_that_are_not_finite_leave_no_file_and_are_all_listed(narrow_flux, save, tmp_path):
    weights = narrow_flux(torch.float16)
    weights["img_in.bias"][0], weights["txt_in.bias"][1] = float("nan"), float("inf")
    source = save(weights)
    with pytest.raises(InputError, match="2 tensors") as caught:
        convert_to_bf16(source, tmp_path / "new.safetensors")
    assert "img_in.bias (1)" in str(caught.value) and "txt_in.bias (1)" in str(caught.value)
    assert folder_of(source) == ["file.safetensors"]


def test_an_existing_target_is_kept_unless_asked(narrow_flux, save, tmp_path):
    source, target = save(narrow_flux(torch.float16)), tmp_path / "there.safetensors"
    target.write_bytes(b"precious")
    with pytest.raises(InputError, match="exists"):
        convert_to_bf16(source, target)
    assert target.read_bytes() == b"precious"
    convert_to_bf16(source, target, overwrite=True)
    assert len(load_file(target)) == len(narrow_flux())


def test_the_source_itself_may_be_replaced_only_when_asked(narrow_flux, save):
    weights = narrow_flux(torch.float16)
    source = save(weights)
    with pytest.raises(InputError, match="the source itself"):
        convert_to_bf16(source, source)
    convert_to_bf16(source, source, overwrite=True)
    assert all(torch.equal(tensor, weights[name].bfloat16()) for name, tensor in load_file(source).items())


def test_a_bad_target_is_told_before_any_work(narrow_flux, save, tmp_path, monkeypatch):
    source = save(narrow_flux(torch.float16))
    with pytest.raises(InputError, match="the folder"):
        convert_to_bf16(source, tmp_path)
    with pytest.raises(InputError, match="expected a folder"):
        convert_to_bf16(source, source / "below a file")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 1000, 10))
    with pytest.raises(InputError, match=r"free in .* found 10 bytes"):
        convert_to_bf16(source, tmp_path / "new")
    assert folder_of(source) == ["file.safetensors"]


def test_files_of_no_known_kind_and_damaged_ones_are_refused(save, raw_file, tmp_path):
    with pytest.raises(InputError, match="unknown tensors: a"):
        convert_to_bf16(save({"a": torch.zeros(2)}), tmp_path / "new")
    with pytest.raises(InputError, match="cut off"):
        convert_to_bf16(raw_file({"a": {"dtype": "F16", "shape": [9], "data_offsets": [0, 18]}}, b"\0" * 5), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_interrupt_leaves_nothing(narrow_flux, save, tmp_path, listener):
    source = save(narrow_flux(torch.float16))
    convert_to_bf16(source, tmp_path / "new", listener)
    total = len(narrow_flux())
    assert listener.calls[0] == ("start", total, "tensor") and listener.calls[-2:] == [("advance", total), ("finish",)]
    listener.interrupt_at = listener.questions + 5
    with pytest.raises(KeyboardInterrupt):
        convert_to_bf16(source, tmp_path / "another", listener)
    assert folder_of(source) == ["file.safetensors", "new"] and listener.calls[-1] == ("finish",)


@pytest.mark.slow
def test_a_large_file_takes_little_memory(hollow_model, tmp_path):
    pytest.importorskip("resource")
    names = {"img_in.weight": (8, 4), "txt_in.weight": (8, 4), "final_layer.linear.weight": (4, 8),
             "double_blocks.0.img_attn.norm.key_norm.scale": (8,), "double_blocks.0.img_attn.qkv.weight": (30_000, 20_000)}  # fmt: skip
    source = hollow_model(names, dtype="F16")
    code = f"""import resource
from graft.training.files.convert import convert_to_bf16
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert_to_bf16({str(source)!r}, {str(tmp_path / "new")!r})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)"""
    grown_mb = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert source.stat().st_size > 1.2e9 and grown_mb < 400
