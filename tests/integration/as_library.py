"""ComfyUI as a library, the pack inside it, and what measurements there share. Runs in ComfyUI's Python, where no pytest need be."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def start_comfyui(folder: str) -> None:
    sys.path.insert(0, folder)
    sys.argv = ["main.py", "--cpu", "--use-pytorch-cross-attention"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.sd


def import_pack() -> None:
    specification = importlib.util.spec_from_file_location("graft", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(specification)
    sys.modules["graft"] = module
    specification.loader.exec_module(module)


def use_folders(folder: Path) -> None:
    """Nothing is written into the checkout."""
    import folder_paths

    for name in ("input", "output"):
        (folder / name).mkdir(exist_ok=True)
    folder_paths.set_input_directory(str(folder / "input"))
    folder_paths.set_output_directory(str(folder / "output"))
    os.environ |= {"GRAFT_INPUT": str(folder / "input"), "GRAFT_RUNS": str(folder / "headless_runs")}  # the headless host's


def seeded(*shape: int, seed: int = 0):
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def difference(a: Any, b: Any) -> float:
    assert a.shape == b.shape, f"{tuple(a.shape)} and {tuple(b.shape)}"
    return float((a.double() - b.double()).abs().max())


def host() -> Any:
    from graft.nodes.host import current_host
    from graft.nodes.host_comfy import ComfyHost

    found = current_host()
    assert isinstance(found, ComfyHost)
    return found


def nano() -> Any:
    from graft.training.models.nano import load_nano

    return load_nano()


def in_fp32(weights: Any) -> dict[str, Any]:
    return {name: tensor.float() for name, tensor in weights.items()}


class Case:
    """One input to a transformer, in ComfyUI's form and in the engine's."""

    def __init__(self, guidance: float = 3.5) -> None:
        import torch
        from graft.training.models.flux import image_ids, pack, text_ids

        weights = nano().transformer
        context, vector = weights["txt_in.weight"].shape[1], weights["vector_in.in_layer.weight"].shape[1]
        self.latents, self.t = seeded(2, 16, 12, 16), torch.tensor([0.8, 0.3])
        self.text, self.pooled = seeded(2, 16, context, seed=1), seeded(2, vector, seed=2)
        self.guidance = torch.tensor([guidance, guidance])
        self.pixels, self.hint_latents = seeded(2, 3, 96, 128, seed=3).sigmoid(), seeded(2, 16, 12, 16, seed=4)
        self.ids = image_ids(12, 16), text_ids(16)
        self.tokens = pack(self.latents)

    def by_engine(self, model: Any, control: Any = None) -> Any:
        from graft.training.models.flux import unpack

        velocity = model(self.tokens, self.ids[0], self.text, self.ids[1], self.t, self.pooled, self.guidance, control)
        return unpack(velocity, 12, 16)

    def by_comfyui(self, patcher: Any, control: Any = None) -> Any:
        module = patcher.model.diffusion_model
        return module(self.latents, self.t, self.text, y=self.pooled, guidance=self.guidance, control=control)


def engine_flux(weights: Any) -> Any:
    from graft.training.models.flux import Flux

    return Flux.from_weights(weights)
