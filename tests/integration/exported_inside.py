"""In-graph results beside their exported files, in ComfyUI's Python with ComfyUI as a library: exported_inside.py COMFYUI RESULTS PART

It only measures; test_exported.py judges. PART is `nano`, or `full_width`: FLUX.1's own width at the depth of one block each.
"""

from __future__ import annotations

import gc
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from as_library import host, import_pack, nano, seeded, start_comfyui, use_folders

SETTINGS = {"learning_rate": 1e-3, "schedule": "constant", "horizon_steps": 4, "batch_size": 4, "density": "uniform", "evaluate_every": 0}
STEPS = 4
CASES = (("xlabs", 1, 0), ("xlabs", 1, 1), ("instantx", 1, 0), ("instantx", 1, 1))


def node(id: str, **given: Any) -> tuple[Any, ...]:
    """One of our nodes, with the values that its widgets begin with."""
    from graft.nodes.registry import NODE_CLASS_MAPPINGS

    declared = NODE_CLASS_MAPPINGS[id].INPUT_TYPES().get("required", {})
    widgets = {name: entry[1].get("default", entry[0][0] if isinstance(entry[0], list) and entry[0] else None) for name, entry in declared.items()}
    return NODE_CLASS_MAPPINGS[id]().execute(**{**widgets, **given})


def model_folder(folder: Path, kind: str) -> Path:
    """A folder of models that ComfyUI looks into."""
    import folder_paths

    path = folder / "models" / kind
    path.mkdir(parents=True, exist_ok=True)
    folder_paths.add_model_folder_path(kind, str(path))
    return path


def by_stock_loader(name: str) -> Any:
    import nodes

    return nodes.ControlNetLoader().load_controlnet(name)[0]


def by_our_loader(name: str) -> Any:
    return node("GraftLoadControlNet", controlnet=name)[0]


def picture(control_net: Any, model: Any, positive: Any, vae: Any, side_px: int, steps: int) -> Any:
    """By the stock nodes: Apply ControlNet, KSampler, VAE Decode. Without a ControlNet if it is None."""
    import torch

    import nodes

    hint, empty = seeded(1, side_px, side_px, 3).sigmoid(), {"samples": torch.zeros(1, 16, side_px // 8, side_px // 8)}
    negative = positive
    if control_net is not None:
        positive, negative = nodes.ControlNetApplyAdvanced().apply_controlnet(positive, positive, control_net, hint, 1.0, 0.0, 1.0, vae)
    (latent,) = nodes.KSampler().sample(model, 5, steps, 1.0, "euler", "simple", positive, negative, empty, 1.0)
    return nodes.VAEDecode().decode(vae, latent)[0]


def beside(draw: Callable[[Any], Any], without: Any, in_graph: Any, name: str) -> dict[str, Any]:
    """Pictures of the in-graph result and of the file by either loader; a loader that refuses the file is a text."""
    import torch

    expected = draw(in_graph)
    found: dict[str, Any] = {"finite": bool(expected.isfinite().all()), "effect": float((expected - without).abs().max())}
    for loader in (by_stock_loader, by_our_loader):
        try:
            loaded = loader(name)
        except (RuntimeError, ValueError) as error:
            found[loader.__name__] = f"{type(error).__name__}: {error}"[:300]
        else:
            found[loader.__name__] = torch.equal(draw(loaded), expected)
    return found


# ---------------------------------------------------------------- the built-in nano, trained


def nano_results(folder: Path) -> dict[str, Any]:
    import nodes

    files = model_folder(folder, "controlnet")
    model, clip, vae = node("GraftNanoFlux")
    (drawn,) = node("GraftDrawShapes", folder="drawn", count=8, size_px=128)
    (dataset,) = node("GraftImageFolder", folder=drawn, resolution_px=128, held_out=2)
    (settings,) = node("GraftSettings", **SETTINGS)
    (positive,) = nodes.CLIPTextEncode().encode(clip, "a red circle on a blue background")

    def draw(control_net: Any) -> Any:
        return picture(control_net, model, positive, vae, 128, 4)

    results, without = {}, draw(None)
    for layout in ("xlabs", "instantx"):
        trainable, _ = node("GraftBuildControlNet", model=model, layout=layout, double_blocks=1, single_blocks=0)
        (data,) = node("GraftEncodeDataset", dataset=dataset, clip=clip, vae=vae, trainable=trainable)
        state, _, _ = node("GraftTrainSteps", model=model, trainable=trainable, data=data, settings=settings, steps=STEPS)
        (in_graph,) = node("GraftTrainedControlNet", state=state)
        (file,) = node("GraftExportControlNet", state=state, file_name=layout)
        shutil.copy(file, files)
        results[layout] = beside(draw, without, in_graph, Path(file).name)
    return results


# ---------------------------------------------------------------- FLUX.1's width, random


def full_width_results(folder: Path) -> dict[str, Any]:
    import nodes

    write_random_base(model_folder(folder, "diffusion_models") / "base.safetensors")
    files = model_folder(folder, "controlnet")
    (model,) = nodes.UNETLoader().load_unet("base.safetensors", "default")
    vae = host().make_vae(nano().autoencoder)
    positive = [[seeded(1, 8, 4096), {"pooled_output": seeded(1, 768, seed=1)}]]

    def draw(control_net: Any) -> Any:
        return picture(control_net, model, positive, vae, 64, 1)

    results, without = {}, draw(None)
    for layout, double, single in CASES:
        results[f"{layout} {double}+{single}"] = one_of_full_width(model, draw, without, files, (layout, double, single))
        gc.collect()
    return results


def one_of_full_width(model: Any, draw: Callable[[Any], Any], without: Any, files: Path, case: tuple[str, int, int]) -> dict[str, Any]:
    """A random network through what Trained ControlNet and Export ControlNet do with a trained one."""
    from graft.nodes.comfy_sizes import agree, detected_sizes, true_sizes
    from graft.training.export import ExportedControlNet, write_control_net
    from graft.training.files.controlnet_names import from_any_names
    from graft.training.models.flux_controlnet import controlnet_from_weights

    layout, double, single = case
    weights, metadata, notes = random_export(model, layout, double, single)
    exported = ExportedControlNet(weights, metadata, layout, notes, (16, 56, 56))
    name = f"{layout}_{double}_{single}.safetensors"
    write_control_net(exported, files / name)
    sizes = true_sizes(controlnet_from_weights(weights).config)
    found = beside(draw, without, host().make_control_net(exported.weights, layout), name)
    (files / name).unlink()
    return {**found, "hidden_size": sizes["hidden_size"], "stock_knows_the_size": agree(detected_sizes(from_any_names(weights)[1]), sizes)}


def random_export(model: Any, layout: str, double: int, single: int) -> tuple[dict[str, Any], dict[str, str], tuple[str, ...]]:
    """A ControlNet built from the MODEL by the engine, whose zero layers are made random, as its file holds it."""
    import torch
    from graft.training.models.flux import Flux
    from graft.training.models.flux_controlnet import build_controlnet
    from graft.training.trainable.controlnet_export import exported_tensors

    network = build_controlnet(Flux.from_weights(host().model_weights(model)[0]), layout, double, single, seed=0).requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in network.named_parameters():
        if name.startswith(network.zero_at_start):
            fill(parameter.data, generator)
    return exported_tensors(network, layout)


def write_random_base(path: Path) -> None:
    """One double and one single block of FLUX.1 dev, in BF16."""
    import torch
    from graft.training.files.write import write_safetensors
    from graft.training.models.flux import Flux, FluxConfig

    config = FluxConfig(
        hidden_size=3072, head_dim=128, double_depth=1, single_depth=1, in_channels=64, context_width=4096, vector_width=768, mlp_width=12288,
        guidance=True,
    )  # fmt: skip
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Flux(config).state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    weights = {name: torch.ones(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    for name, tensor in weights.items():
        if not name.endswith("scale"):
            fill(tensor, generator)
    write_safetensors(path, weights)


def fill(tensor: Any, generator: Any) -> None:
    """Even random numbers that keep the size of what passes."""
    reach = 0.1 if tensor.ndim == 1 else (3 / tensor[0].numel()) ** 0.5
    tensor.uniform_(-reach, reach, generator=generator)


def main(comfyui: str, folder: str, part: str) -> None:
    start_comfyui(comfyui)
    import_pack()
    use_folders(Path(folder))
    import torch
    from graft.nodes.registry import NODE_CLASS_MAPPINGS

    assert "GraftLoadControlNet" in NODE_CLASS_MAPPINGS  # whatever is wrong with the pack is said before the long work

    parts = {"nano": nano_results, "full_width": full_width_results}
    with torch.inference_mode():
        results = parts[part](Path(folder))
    Path(folder, "results.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
