"""LoRAs trained in the graph beside their exported files, in ComfyUI's Python with ComfyUI as a library: lora_inside.py COMFYUI RESULTS

It only measures; test_lora.py judges.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from as_library import difference, host, import_pack, nano, seeded, start_comfyui, use_folders

STEPS = 3
SETTINGS = {"learning_rate": 5e-3, "schedule": "constant", "horizon_steps": STEPS, "batch_size": 4, "density": "uniform", "evaluate_every": 0}
FORMATS = ("kohya", "diffusers", "comfyui")


class Said(logging.Handler):
    """What ComfyUI logs while a LoRA is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    @property
    def complaints(self) -> list[str]:
        return [line for line in self.lines if "not loaded" in line.lower() or "error" in line.lower()]

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> Said:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)


def node(id: str, **given: Any) -> tuple[Any, ...]:
    """One of our nodes, with the values that its widgets begin with."""
    from graft.nodes.registry import NODE_CLASS_MAPPINGS

    declared = NODE_CLASS_MAPPINGS[id].INPUT_TYPES().get("required", {})
    widgets = {name: entry[1]["default"] for name, entry in declared.items() if "default" in entry[1]}
    return NODE_CLASS_MAPPINGS[id]().execute(**{**widgets, **given})


def lora_folder(folder: Path) -> Path:
    """A folder of LoRAs that ComfyUI looks into."""
    import folder_paths

    path = folder / "models" / "loras"
    path.mkdir(parents=True, exist_ok=True)
    folder_paths.add_model_folder_path("loras", str(path))
    return path


def trained(**recipe: Any) -> tuple[Any, Any, str]:
    """Model, state, and what Build LoRA says, after a few steps on pictures and captions alone."""
    model, clip, vae = node("GraftNanoFlux")
    (folder,) = node("GraftDrawShapes", folder="drawn", count=8, size_px=128)
    (dataset,) = node("GraftImageFolder", folder=folder, resolution_px=128, held_out=2)
    trainable, notes = node("GraftBuildLoRA", model=model, **recipe)
    (data,) = node("GraftEncodeDataset", dataset=dataset, clip=clip, vae=vae, trainable=trainable)
    (settings,) = node("GraftSettings", **SETTINGS)
    state, _, _ = node("GraftTrainSteps", model=model, trainable=trainable, data=data, settings=settings, steps=STEPS)
    return model, state, notes


def weights_of(model: Any) -> dict[str, Any]:
    return host().model_weights(model)[0]


def latents(model: Any) -> Any:
    """By the stock sampler."""
    import torch

    import nodes

    context, vector = nano().transformer["txt_in.weight"].shape[1], nano().transformer["vector_in.in_layer.weight"].shape[1]
    positive = [[seeded(1, 16, context, seed=1), {"pooled_output": seeded(1, vector, seed=2)}]]
    empty = {"samples": torch.zeros(1, 16, 8, 8)}
    return nodes.common_ksampler(model, 7, 3, 1.0, "euler", "simple", positive, positive, empty, denoise=1.0)[0]["samples"]


def largest(left: dict[str, Any], right: dict[str, Any]) -> float:
    return max(difference(tensor, right[name]) for name, tensor in left.items())


def stock(id: str) -> Any:
    """A class of comfy_extras/nodes_train.py."""
    from comfy_extras import nodes_train

    return getattr(nodes_train, id)


def as_lora_model(model: Any, lora: Any, patched: dict[str, Any], picture: Any) -> dict[str, Any]:
    """The output `lora` through the stock Load LoRA Model."""
    loader = stock("LoraModelLoader")
    with Said() as said:
        loaded = (loader.execute(model, lora, 1.0) if hasattr(loader, "execute") else loader().load_lora_model(model, lora, 1.0))[0]
    return {"said": said.complaints, "weights": largest(weights_of(loaded), patched), "picture": difference(latents(loaded), picture)}


def saved(lora: Any, folder: Path) -> float:
    """The file that the stock Save LoRA Weights makes of it, beside what it was given."""
    from safetensors.torch import load_file

    saver = stock("SaveLoRA")
    saver.execute(lora, "stock") if hasattr(saver, "execute") else saver().save(lora, "stock")
    (file,) = (folder / "output").glob("stock_*.safetensors")
    written = load_file(file)
    assert written.keys() == lora.keys()
    return largest(written, lora)


def scale_of(state: Any, base: dict[str, Any], patched: dict[str, Any]) -> float:
    """The s of W + s B A that is nearest to what became of one layer; BF16 rounds each weight of it up or down."""
    layer, weights = "double_blocks.0.img_attn.qkv", state.weights()
    change = patched[f"{layer}.weight"].double() - base[f"{layer}.weight"].double()
    product = (weights[f"{layer}.lora_B.weight"] @ weights[f"{layer}.lora_A.weight"]).double()
    return float((change * product).sum() / product.square().sum())


def plain(folder: Path) -> dict[str, Any]:
    """The state in the graph, and each exported file through the stock loader."""
    from graft.nodes.headless.host import HeadlessHost
    from graft.training.export_lora import UsedOn, tensors_for_use

    import nodes

    model, state, notes = trained(rank=4, alpha=3.0, layers="all_linears", rslora=True)
    in_graph, where, lora = node("GraftTrainedLoRA", model=model, state=state)
    base, patched, picture = weights_of(model), weights_of(in_graph), latents(in_graph)
    headless = HeadlessHost(folder)
    used_on = UsedOn(*host().model_weights(model))
    without_comfyui = headless.apply_lora(headless.make_model(base, fingerprint="x"), tensors_for_use(state, "trained", used_on), 1.0)
    results: dict[str, Any] = {
        "notes": notes, "where": where, "effect": largest(patched, base), "picture_effect": difference(picture, latents(model)),
        "headless": largest(patched, without_comfyui.weights), "layers_patched": len(in_graph.patches), "model_kept": len(model.patches),
        "scale": scale_of(state, base, patched), "lora_model": as_lora_model(model, lora, patched, picture),
        "saved": saved(lora, folder),
    }  # fmt: skip
    for format in FORMATS:
        (file,) = node("GraftExportLoRA", state=state, file_name=format, format=format, model=model)
        Path(file).replace(lora_folder(folder) / f"{format}.safetensors")
        with Said() as said:
            loaded = nodes.LoraLoaderModelOnly().load_lora_model_only(model, f"{format}.safetensors", 1.0)[0]
        results[format] = {
            "said": said.complaints,
            "weights": largest(weights_of(loaded), patched), "picture": difference(latents(loaded), picture),
        }  # fmt: skip
    trainable, notes = node("GraftLoadLoRA", model=model, lora="diffusers.safetensors")
    return {**results, "loaded_notes": notes, "loaded_size": trainable.described({n: tuple(t.shape) for n, t in base.items()})[0].parameters}


def dora(folder: Path) -> dict[str, Any]:
    """DoRA in the graph, and its file of whole differences through the stock loader."""
    import nodes

    model, state, _ = trained(rank=2, dora=True, layers="attention")
    in_graph, _, lora = node("GraftTrainedLoRA", model=model, state=state)
    (file,) = node("GraftExportLoRA", state=state, file_name="dora", format="difference", model=model)
    Path(file).replace(lora_folder(folder) / "dora.safetensors")
    with Said() as said:
        loaded = nodes.LoraLoaderModelOnly().load_lora_model_only(model, "dora.safetensors", 1.0)[0]
    patched, weights = weights_of(in_graph), state.weights()
    layer = "double_blocks.0.img_attn.qkv"
    lengths = patched[f"{layer}.weight"].float().norm(dim=1)
    return {
        "said": said.complaints, "lora_model": as_lora_model(model, lora, patched, latents(in_graph)),
        "effect": largest(patched, weights_of(model)), "file": largest(weights_of(loaded), patched),
        "lengths": difference(lengths, weights[f"{layer}.lora_magnitude_vector.weight"]) / float(lengths.max()),
    }  # fmt: skip


def other_base(folder: Path) -> dict[str, Any]:
    """Trained on one base, applied to another of the same shape."""
    model, state, _ = trained(rank=4, alpha=3.0, layers="all_linears")
    other = host().make_model({name: tensor * 1.25 for name, tensor in nano().transformer.items()}, name="other.safetensors")
    in_graph, where, _ = node("GraftTrainedLoRA", model=other, state=state)
    (file,) = node("GraftExportLoRA", state=state, file_name="other", model=other)
    from graft.training.files.header import read_header

    said = read_header(file).metadata
    return {
        "where": where, "effect": largest(weights_of(in_graph), weights_of(other)),
        "recorded": [said["graft.base_fingerprint"], said["graft.used_on_fingerprint"]],
        "names": [said["ss_sd_model_name"], said["graft.used_on_name"], host().model_name(in_graph)],
        "fingerprints": [host().model_weights(model)[1], host().model_weights(other)[1]],
    }  # fmt: skip


def main(comfyui: str, folder: str) -> None:
    import torch

    start_comfyui(comfyui)
    import_pack()
    use_folders(Path(folder))
    with torch.inference_mode():  # as ComfyUI runs every node
        results = {part.__name__: part(Path(folder)) for part in (plain, dora, other_base)}
    Path(folder, "results.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
