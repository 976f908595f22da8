"""The core stand-ins have ComfyUI's ids, input names, order, defaults and ranges (facts read in ComfyUI v0.3.64)."""

from __future__ import annotations

import pytest
from graft.nodes.headless.core_registry import CORE_CLASSES
from graft.nodes.headless.declared import declared_inputs

COMFYUI = {
    "CLIPTextEncode": ([("text", "STRING"), ("clip", "CLIP")], [], ("CONDITIONING",)),
    "VAEEncode": ([("pixels", "IMAGE"), ("vae", "VAE")], [], ("LATENT",)),
    "VAEDecode": ([("samples", "LATENT"), ("vae", "VAE")], [], ("IMAGE",)),
    "EmptySD3LatentImage": (
        [("width", "INT", 1024, 16, 16384), ("height", "INT", 1024, 16, 16384), ("batch_size", "INT", 1, 1, 4096)], [], ("LATENT",),
    ),
    "KSampler": (
        [
            ("model", "MODEL"), ("seed", "INT", 0, 0, 2**64 - 1), ("steps", "INT", 20, 1, 10000), ("cfg", "FLOAT", 8.0, 0.0, 100.0),
            ("sampler_name", "COMBO"), ("scheduler", "COMBO"), ("positive", "CONDITIONING"), ("negative", "CONDITIONING"),
            ("latent_image", "LATENT"), ("denoise", "FLOAT", 1.0, 0.0, 1.0),
        ], [], ("LATENT",),
    ),
    "ControlNetApplyAdvanced": (
        [
            ("positive", "CONDITIONING"), ("negative", "CONDITIONING"), ("control_net", "CONTROL_NET"), ("image", "IMAGE"),
            ("strength", "FLOAT", 1.0, 0.0, 10.0), ("start_percent", "FLOAT", 0.0, 0.0, 1.0), ("end_percent", "FLOAT", 1.0, 0.0, 1.0),
        ], [("vae", "VAE")], ("CONDITIONING", "CONDITIONING"),
    ),
    "FluxGuidance": ([("conditioning", "CONDITIONING"), ("guidance", "FLOAT", 3.5, 0.0, 100.0)], [], ("CONDITIONING",)),
    "ImageBatch": ([("image1", "IMAGE"), ("image2", "IMAGE")], [], ("IMAGE",)),
    "LoadImage": ([("image", "COMBO")], [], ("IMAGE", "MASK")),
    "PreviewImage": ([("images", "IMAGE")], [], ()),
    "SaveImage": ([("images", "IMAGE"), ("filename_prefix", "STRING", "ComfyUI", None, None)], [], ()),
}  # fmt: skip


def test_all_and_only_these_are_known():
    assert set(CORE_CLASSES) == set(COMFYUI)


@pytest.mark.parametrize("id", COMFYUI)
def test_inputs_and_outputs(id):
    required, optional, outputs = COMFYUI[id]
    found = list(declared_inputs(CORE_CLASSES[id]).values())
    assert [(each.name, each.type) for each in found] == [entry[:2] for entry in [*required, *optional]]
    assert [each.required for each in found] == [True] * len(required) + [False] * len(optional)
    for each, entry in zip(found, required, strict=False):
        assert tuple(each.options.get(key) for key in ("default", "min", "max")) == (entry[2:] or (None, None, None))
    assert outputs == CORE_CLASSES[id].RETURN_TYPES


def test_the_sampler_s_seed_is_followed_by_control_after_generate_in_files():
    assert declared_inputs(CORE_CLASSES["KSampler"])["seed"].has_control


def test_outputs_are_what_comfyui_calls_outputs():
    assert {id for id, each in CORE_CLASSES.items() if getattr(each, "OUTPUT_NODE", False)} == {"SaveImage", "PreviewImage"}
