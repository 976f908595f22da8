"""Stage 3 of the graph: what is trained."""

from __future__ import annotations

from typing import Any

from ..training.files.held import shapes_of
from ..training.models.control_residuals import compatibility_notes, require_depths, require_layout
from ..training.models.flux import FluxConfig
from ..training.trainable.controlnet import ControlNetRecipe
from ..training.trainable.controlnet_export import require_mlp_ratio
from .host import current_host
from .types import TRAINABLE, Inputs, choice, link, seed_input, whole


class BuildControlNet:
    """A ControlNet from a transformer."""

    DISPLAY_NAME = "Build ControlNet"
    CATEGORY, FUNCTION = "Graft/build", "execute"
    RETURN_TYPES, RETURN_NAMES = (TRAINABLE, "STRING"), ("trainable", "notes")
    OUTPUT_TOOLTIPS = ("The ControlNet to train; it changes nothing before it is trained.", "Where other programs would use it in another way.")
    DESCRIPTION = (
        "A ControlNet that begins as copies of the transformer's first blocks with zero output projections. XLabs reads the hint as a picture and "
        "is the small option; InstantX reads it as a latent, loads in ComfyUI and diffusers alike, and needs a VAE when applied."
    )
    SEARCH_ALIASES = ("create controlnet", "train controlnet", "xlabs", "instantx")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {
            "required": {
                "model": link("MODEL", "The transformer that it is trained on and begins as a copy of."),
                "layout": choice(("xlabs", "instantx"), "The network and its file: XLabs (pixel hint) or InstantX (latent hint)."),
                "double_blocks": whole(2, 1, 64, "Double-stream blocks to copy. x-flux reads XLabs files with exactly 2."),
                "single_blocks": whole(0, 0, 128, "Single-stream blocks to copy."),
                "seed": seed_input("For the new layers that begin at random (XLabs' hint layers)."),
            }
        }

    def execute(self, model: Any, layout: str, double_blocks: int, single_blocks: int, seed: int) -> tuple[ControlNetRecipe, str]:
        weights, _ = current_host().model_weights(model)
        base = FluxConfig.from_shapes(shapes_of(weights))
        require_depths(require_layout(layout), double_blocks, single_blocks, base.double_depth, base.single_depth)
        notes = compatibility_notes(require_layout(layout), double_blocks, single_blocks, base.double_depth, base.single_depth)
        if layout == "instantx":
            require_mlp_ratio(base)
        recipe = ControlNetRecipe(layout=layout, double_depth=double_blocks, single_depth=single_blocks, seed=seed)
        return recipe, "\n".join(notes)


NODES = {"GraftBuildControlNet": BuildControlNet}
