"""Runs in ComfyUI's Python with ComfyUI as a library on the CPU, and writes what it measures: inside_comfyui.py COMFYUI_FOLDER RESULT_FOLDER

It only measures; test_objects.py judges. The pack is imported as ComfyUI does it: its folder, under a name of its own.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from as_library import Case, difference, engine_flux, host, import_pack, in_fp32, nano, seeded, start_comfyui, use_folders

MEASUREMENTS: dict[str, Callable[[], Any]] = {}


def measurement(function: Callable[[], Any]) -> Callable[[], Any]:
    MEASUREMENTS[function.__name__] = function
    return function


# ---------------------------------------------------------------- measurements


@measurement
def version() -> str:
    import comfyui_version

    return comfyui_version.__version__


@measurement
def forward() -> Any:
    """The engine's transformer beside ComfyUI's on the same weights, at two guidance numbers."""
    weights = in_fp32(nano().transformer)
    patcher, engine = host().make_model(weights), engine_flux(weights)
    cases = [Case(3.5), Case(1.0)]
    found = [(case.by_comfyui(patcher), case.by_engine(engine)) for case in cases]
    return {
        "class": type(patcher.model.diffusion_model).__module__,
        "differences": [difference(a, b) for a, b in found],
        "spread": float(found[0][0].std()),
        "guidance_matters": difference(found[0][0], found[1][0]),
    }


CONTROLS = (("xlabs", 2, 0), ("xlabs", 1, 1), ("xlabs", 2, 4), ("instantx", 1, 0), ("instantx", 1, 1))


@measurement
def control_nets() -> Any:
    """Base and ControlNet together, for each layout."""
    weights = in_fp32(nano().transformer)
    patcher, engine = host().make_model(weights), engine_flux(weights)
    return {f"{layout} {double}+{single}": one_control_net(patcher, engine, layout, double, single) for layout, double, single in CONTROLS}


def random_control_net(engine: Any, layout: str, double: int, single: int) -> Any:
    """A network whose residuals are not zero."""
    import torch
    from graft.training.models.flux_controlnet import build_controlnet

    network = build_controlnet(engine, layout, double, single, seed=0).requires_grad_(False)
    with torch.no_grad():
        for number, (name, parameter) in enumerate(network.named_parameters()):
            if name.startswith(("controlnet_", "input_hint_block.14")):
                parameter.copy_(seeded(*parameter.shape, seed=number) / parameter[0].numel() ** 0.5)
    return network


def exported(network: Any) -> dict[str, Any]:
    from graft.training.files.controlnet_names import to_diffusers_names

    tensors = dict(network.state_dict())
    return to_diffusers_names(tensors, "instantx") if network.layout == "instantx" else tensors


def one_control_net(patcher: Any, engine: Any, layout: str, double: int, single: int) -> Any:
    case, network = Case(), random_control_net(engine, layout, double, single)
    hints = (case.pixels * 2 - 1, case.pixels) if layout == "xlabs" else (case.hint_latents, case.hint_latents)
    own = network(case.tokens, hints[0], case.ids[0], case.text, case.ids[1], case.t, case.pooled, case.guidance)
    control_net = host().make_control_net(exported(network), layout)
    theirs = control_net.control_model(case.latents, case.t, case.text, y=case.pooled, guidance=case.guidance, hint=hints[1])
    control = {"input": list(theirs["input"]), "output": list(theirs.get("output", ()))}
    plain, with_control = case.by_engine(engine), case.by_engine(engine, own)
    return {"difference": difference(case.by_comfyui(patcher, control), with_control), "effect": difference(plain, with_control)}


@measurement
def weights_read_back() -> Any:
    """What goes into a MODEL comes out of it, also from a MODEL whose fingerprint nobody remembers."""
    import torch
    from graft.nodes import comfy_weights
    from graft.training.files.fingerprint import fingerprint
    from graft.training.models.flux import Flux

    known = nano()
    model = host().make_model(known.transformer, fingerprint=known.transformer_fingerprint)
    comfy_weights._FINGERPRINTS.clear()
    weights, found = host().model_weights(model)
    own = {tensor.untyped_storage().data_ptr() for tensor in model.model.diffusion_model.state_dict().values()}
    trained_on = Flux.from_weights(weights).state_dict().values()
    return {
        "model_bytes": sum(tensor.nbytes for tensor in trained_on),
        "copied_bytes": sum(tensor.nbytes for tensor in trained_on if tensor.untyped_storage().data_ptr() not in own),
        "same_names": list(weights) == list(known.transformer) or sorted(weights) == sorted(known.transformer),
        "same_bits": all(torch.equal(tensor, known.transformer[name]) for name, tensor in weights.items()),
        "fingerprints": [found, fingerprint(weights), known.transformer_fingerprint],
        "shared": weights["img_in.weight"].data_ptr() == model.model.diffusion_model.img_in.weight.data_ptr(),
    }


@measurement
def patches() -> Any:
    """A patched MODEL gives patched weights, loaded or not, and the one that it was cloned from stays as it was."""
    import comfy.model_management
    import torch

    known, key = nano(), "diffusion_model.double_blocks.0.img_attn.qkv.weight"
    model = host().make_model(known.transformer)
    before, before_print = host().model_weights(model)
    change = seeded(*before["double_blocks.0.img_attn.qkv.weight"].shape) * 0.1
    patched = model.clone()
    patched.add_patches({key: ("diff", (change,))}, 0.5)
    expected = (before["double_blocks.0.img_attn.qkv.weight"].float() + 0.5 * change).bfloat16()
    unloaded, patched_print = host().model_weights(patched)
    comfy.model_management.load_models_gpu([patched], force_patch_weights=True)
    loaded, loaded_print = host().model_weights(patched)
    computed_with = dict(patched.model.named_parameters())[key]
    original, original_print = host().model_weights(model)
    host().free_memory()
    name = "double_blocks.0.img_attn.qkv.weight"
    return {
        "unloaded": difference(unloaded[name], expected),
        "loaded": difference(loaded[name], expected),
        "as_comfyui_computes": difference(loaded[name], computed_with),
        "original_kept": torch.equal(original[name], known.transformer[name]),
        "others_kept": all(torch.equal(unloaded[other], known.transformer[other]) for other in unloaded if other != name),
        "prints": [before_print, original_print, patched_print, loaded_print],
    }


@measurement
def text() -> Any:
    """The stock node on our CLIP, a clone of it, and captions for a data set, beside the engine's encoder."""
    import torch

    import nodes

    known, captions = nano(), ["a red circle on blue", "", "a small green square"]
    clip = host().make_clip(known.text_encoder, known.text_encoder_fingerprint)
    tokens, pooled = known.text_encoder.encode(captions[:1])
    (conditioning,) = nodes.CLIPTextEncode().encode(clip.clone(), captions[0])
    batch, engine_batch = host().encode_text(clip, captions), known.text_encoder.encode(captions)
    return {
        "conditioning": [difference(conditioning[0][0], tokens), difference(conditioning[0][1]["pooled_output"], pooled)],
        "bitwise": all(torch.equal(a, b) for a, b in zip(batch, engine_batch, strict=True)),
        "fingerprint_kept": host().clip_fingerprint(clip) == known.text_encoder_fingerprint,
        "layer_counts": host().clip_fingerprint(with_layer(clip)) != known.text_encoder_fingerprint,
    }


def with_layer(clip: Any) -> Any:
    other = clip.clone()
    other.clip_layer(-2)
    return other


@measurement
def pictures() -> Any:
    """The stock nodes on our VAE, and pictures for a data set, beside the engine's autoencoder."""
    import torch

    import nodes

    known = nano()
    vae = host().make_vae(known.autoencoder, known.autoencoder_fingerprint)
    pixels = seeded(2, 128, 128, 3).sigmoid()
    engine_latents = known.autoencoder.encode(pixels.movedim(-1, 1))
    engine_pixels = known.autoencoder.decode(engine_latents).movedim(1, -1)
    (latents,) = nodes.VAEEncode().encode(vae, pixels)
    (decoded,) = nodes.VAEDecode().decode(vae, {"samples": engine_latents})
    return {
        "latents": difference(latents["samples"], engine_latents),
        "pixels": difference(decoded, engine_pixels),
        "bitwise": torch.equal(host().encode_images(vae, pixels), engine_latents)
        and torch.equal(host().decode_latents(vae, engine_latents), engine_pixels),
        "fingerprint_kept": host().vae_fingerprint(vae) == known.autoencoder_fingerprint,
        "spread": float(engine_latents.std()),
    }


@measurement
def sampling() -> Any:
    """The stock KSampler on the nano as it is shipped (BF16), with and without Apply ControlNet, beside the engine's sampler in fp32, from the
    same noise: so pictures do not depend on the version of ComfyUI either."""
    import torch
    from graft.training.sample import sample

    import nodes

    known, engine = nano(), engine_flux(in_fp32(nano().transformer))
    model, clip = host().make_model(known.transformer), host().make_clip(known.text_encoder)
    vae = host().make_vae(known.autoencoder)
    network = random_control_net(engine, "xlabs", 2, 0)
    control_net = host().make_control_net(exported(network), "xlabs")
    pixels = seeded(1, 128, 128, 3).sigmoid()
    (positive,) = nodes.CLIPTextEncode().encode(clip, "a red circle")
    controlled, negative = nodes.ControlNetApplyAdvanced().apply_controlnet(positive, positive, control_net, pixels, 0.4, 0.0, 1.0, vae)
    empty = {"samples": torch.zeros(1, 16, 16, 16)}
    noise = torch.randn(1, 16, 16, 16, generator=torch.manual_seed(7))
    tokens, pooled = known.text_encoder.encode(["a red circle"])
    hint = pixels.movedim(-1, 1) * 2 - 1
    results = {}
    for name, conditions, extra in (
        ("plain", (positive, positive), {}),
        ("controlled", (controlled, negative), {"controlnet": network, "hint": hint, "strength": 0.4}),
    ):
        (latent,) = nodes.common_ksampler(model, 7, 6, 1.0, "euler", "simple", *conditions, empty, denoise=1.0)
        own = sample(engine, tokens, pooled, noise, steps=6, **extra)
        results[name] = {"difference": difference(latent["samples"], own), "spread": float(latent["samples"].std())}
    results["effect"] = difference(results_of(model, positive, empty), results_of(model, controlled, empty))
    return results


def results_of(model: Any, conditions: Any, empty: Any) -> Any:
    import nodes

    (latent,) = nodes.common_ksampler(model, 7, 6, 1.0, "euler", "simple", conditions, conditions, empty, denoise=1.0)
    return latent["samples"]


@measurement
def quantised() -> Any:
    """A MODEL in scaled fp8, as ComfyUI loads it, is read as what its numbers stand for, and stays in 8 bits for a training."""
    import torch
    from graft.training.files.held import stored_of

    weights, name = dict(nano().transformer), "double_blocks.1.img_mlp.0"
    packed = (weights[f"{name}.weight"].float() / 0.25).to(torch.float8_e4m3fn)
    expected = (packed.float() * 0.25).bfloat16()
    scaled = {f"{name}.weight": packed, f"{name}.scale_weight": torch.tensor(0.25), "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    model = stock_model({**weights, **scaled})
    found, _ = host().model_weights(model)
    held = dict(model.model.named_parameters())[f"diffusion_model.{name}.weight"]
    plain = stock_model(weights, torch.float8_e4m3fn)
    return {
        "held_as": type(held).__name__ if type(held).__name__ == "QuantizedTensor" else str(held.dtype),
        "read_as": str(found[f"{name}.weight"].dtype),
        "difference": difference(found[f"{name}.weight"], expected),
        "lost": difference(found[f"{name}.weight"], weights[f"{name}.weight"]),
        "names": sorted(found) == sorted(weights),
        "stays_in_8_bits": type(stored_of(found)[f"{name}.weight"]).__name__,
        "plain_stays_in_8_bits": type(stored_of(host().model_weights(plain)[0])[f"{name}.weight"]).__name__,
        "plain_fp8": difference(host().model_weights(plain)[0]["img_in.weight"], weights["img_in.weight"].to(torch.float8_e4m3fn).float()),
    }


@measurement
def bases_in_8_bits() -> Any:
    """Models of our own loader in 8 bits, and models put into 8 bits on request."""
    import torch
    from graft.nodes.hold import HoldIn8Bit
    from graft.training.files.held import Held, HeldWeights, stored_of

    weights, name = dict(nano().transformer), "double_blocks.1.img_mlp.0.weight"
    scale = torch.full((len(weights[name]), 1), 0.02)
    held = Held((weights[name].float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn), scale)
    stored = {**weights, name: held}
    loaded = host().make_model(HeldWeights(stored, {key: tuple(value.shape) for key, value in stored.items()}), fingerprint="known")
    again = stored_of(host().model_weights(loaded)[0])[name]
    patched = loaded.clone()
    patched.add_patches({f"diffusion_model.{name}": ("diff", (torch.ones_like(weights[name]),))})
    of_patched = stored_of(host().model_weights(patched)[0])[name]
    (requested,) = HoldIn8Bit().execute(host().make_model(weights, fingerprint="nano"), "int8")
    of_requested, fingerprint = host().model_weights(requested)
    return {
        "again": type(again).__name__, "bytes": int((again.stored.view(torch.uint8) != held.stored.view(torch.uint8)).sum()),
        "read_by_comfyui": difference(dict(loaded.model.named_parameters())[f"diffusion_model.{name}"], held.numbers()),
        "patched": difference(of_patched, (held.numbers().float() + 1).bfloat16()) if isinstance(of_patched, torch.Tensor) else "held",
        "requested": str(stored_of(of_requested)[name].stored.dtype), "error": difference(of_requested[name], weights[name]),
        "another_base": fingerprint != "nano" and fingerprint == host().model_fingerprint(requested.clone()),
        "sampled_as_before": difference(dict(requested.model.named_parameters())[f"diffusion_model.{name}"], weights[name]),
    }  # fmt: skip


def stock_model(weights: Any, dtype: Any = None) -> Any:
    """By the stock loader; at this size v0.3.64 has to be told the sizes, which changes nothing about how it holds them."""
    from unittest.mock import patch

    import comfy.model_detection
    import comfy.sd
    from graft.nodes.comfy_sizes import true_sizes

    true, detect = true_sizes(engine_flux(nano().transformer).config), comfy.model_detection.detect_unet_config
    with patch.object(comfy.model_detection, "detect_unet_config", lambda *given, **named: {**detect(*given, **named), **true}):
        return comfy.sd.load_diffusion_model_state_dict(dict(weights), model_options={"dtype": dtype} if dtype else {})


STEPS = {"learning_rate": 1e-3, "schedule": "constant", "horizon_steps": 3, "batch_size": 4, "density": "uniform"}


@measurement
def training() -> Any:
    """The nodes as ComfyUI calls them, and headless in the same process: the same trained bits; the MODEL stays as it was."""
    import torch
    from graft.nodes.headless.host import HeadlessHost
    from graft.nodes.host import use_host

    inside = trained_in_graph()
    before, after = inside.pop("prints")
    with use_host(HeadlessHost(Path(host().output_folder()))):
        outside = trained_in_graph()
    return {
        "bitwise": all(torch.equal(tensor, outside["weights"][name]) for name, tensor in inside["weights"].items()),
        "changed": max(difference(tensor, inside["initial"][name]) for name, tensor in inside["weights"].items() if name in inside["initial"]),
        "model_kept": before == after,
        "losses": [inside["losses"], outside["losses"]],
        "keys": [inside["key"], outside["key"]],
    }


def trained_in_graph() -> dict[str, Any]:
    """Three steps through our nodes, under the host that is current."""
    from graft.nodes.host import current_host
    from graft.nodes.registry import NODE_CLASS_MAPPINGS as NODES
    from graft.training.files.fingerprint import fingerprint

    def node(id: str, *values: Any, **named: Any) -> Any:
        defaults = {key: entry[1].get("default", entry[0][0]) for key, entry in NODES[id].INPUT_TYPES()["required"].items() if len(entry) > 1 and
                    ("default" in entry[1] or isinstance(entry[0], list))}  # fmt: skip
        return NODES[id]().execute(*values, **({**defaults, **named} if not values else named))

    model, clip, vae = node("GraftNanoFlux")
    before = fingerprint(current_host().model_weights(model)[0])
    (folder,) = node("GraftDrawShapes", folder="drawn", count=8, size_px=128)
    (dataset,) = node("GraftImageFolder", folder=folder, resolution_px=128, held_out=2)
    trainable, _ = node("GraftBuildControlNet", model=model, layout="xlabs", double_blocks=2, single_blocks=0)
    (data,) = node("GraftEncodeDataset", dataset=dataset, clip=clip, vae=vae, trainable=trainable)
    (settings,) = node("GraftSettings", **STEPS)
    state, losses, _ = node("GraftTrainSteps", model=model, trainable=trainable, data=data, settings=settings, steps=3)
    weights, _ = current_host().model_weights(model)
    return {"weights": state.weights(), "initial": weights, "losses": losses["loss"], "key": state.key, "prints": (before, fingerprint(weights))}


@measurement
def folders() -> Any:
    """Where things lie, by the host."""
    import folder_paths
    from graft.training.errors import InputError

    found, message = host(), ""
    try:
        found.model_path("diffusion_models", "no such file.safetensors")
    except InputError as error:
        message = str(error)
    output = Path(folder_paths.get_output_directory())
    return {
        "input": found.input_folder() == Path(folder_paths.get_input_directory()),
        "runs_below_output": output in found.runs_folder().parents and output in found.cache_folder().parents,
        "missing_file": message,
        "lists": found.model_files("diffusion_models"),
        "device": str(found.device()),
    }


def as_a_node(function: Callable[[], Any]) -> Any:
    """ComfyUI runs every node under inference mode, in a thread of its own."""
    import torch

    with torch.inference_mode():
        return function()


def outcome(function: Callable[[], Any]) -> Any:
    """What was measured, or what went wrong as a text: one failed measurement is not to hide the others."""
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(as_a_node, function)
        error = running.exception()
    return running.result() if error is None else "".join(traceback.format_exception(error))


def main(comfyui: str, folder: str) -> None:
    start_comfyui(comfyui)
    import_pack()
    use_folders(Path(folder))
    results = {name: outcome(function) for name, function in MEASUREMENTS.items()}
    Path(folder, "results.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
