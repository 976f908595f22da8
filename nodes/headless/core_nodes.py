"""Stand-ins for the core nodes that work on latents and conditioning, with ComfyUI's ids, inputs, order, ranges and meaning.

The figures behind them (schedule, latent scaling, which ControlNet call sees what) are facts of ComfyUI v0.3.64. Heavy imports wait until a
node runs, so that checking a graph needs no model code.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from ...training.errors import InputError
from ...training.flux_space import PIXELS_PER_LATENT
from ..host import current_host
from .values import AppliedControl, Clip, ControlNet, Model, Vae

MAX_SIDE_PX = 16384
LATENT_CHANNELS = 16

Conditioning = list[list[Any]]
"""As in ComfyUI: a list of [tokens [B,L,context], {"pooled_output": [B,vector], "guidance": ..., "control": ...}]."""
Inputs = dict[str, dict[str, Any]]


class ClipTextEncode:
    """ComfyUI's CLIPTextEncode."""

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION, CATEGORY = "encode", "conditioning"
    DESCRIPTION = "Encodes a caption for the transformer."

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802 (ComfyUI's name)
        return {"required": {"text": ("STRING", {"multiline": True, "dynamicPrompts": True}), "clip": ("CLIP",)}}

    def encode(self, text: str, clip: Clip) -> tuple[Conditioning]:
        tokens, pooled = current_host().encode_text(clip, [text])
        return ([[tokens, {"pooled_output": pooled}]],)


class FluxGuidance:
    """ComfyUI's FluxGuidance."""

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION, CATEGORY = "append", "advanced/conditioning/flux"
    DESCRIPTION = "Sets the guidance number that a distilled FLUX embeds."

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        guidance = ("FLOAT", {"default": 3.5, "min": 0.0, "max": 100.0, "step": 0.1})
        return {"required": {"conditioning": ("CONDITIONING",), "guidance": guidance}}

    def append(self, conditioning: Conditioning, guidance: float) -> tuple[Conditioning]:
        return ([[tokens, {**extras, "guidance": guidance}] for tokens, extras in conditioning],)


class VaeEncode:
    """ComfyUI's VAEEncode."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION, CATEGORY = "encode", "latent"
    DESCRIPTION = "Encodes pictures to latents."

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {"required": {"pixels": ("IMAGE",), "vae": ("VAE",)}}

    def encode(self, pixels: torch.Tensor, vae: Vae) -> tuple[dict[str, torch.Tensor]]:
        return ({"samples": current_host().encode_images(vae, pixels)},)


class VaeDecode:
    """ComfyUI's VAEDecode."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION, CATEGORY = "decode", "latent"
    DESCRIPTION = "Decodes latents to pictures."

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {"required": {"samples": ("LATENT",), "vae": ("VAE",)}}

    def decode(self, samples: dict[str, torch.Tensor], vae: Vae) -> tuple[torch.Tensor]:
        return (current_host().decode_latents(vae, samples["samples"]),)


class EmptySd3LatentImage:
    """ComfyUI's EmptySD3LatentImage."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION, CATEGORY = "generate", "latent/sd3"
    DESCRIPTION = "Empty latents of 16 channels, for FLUX and SD3."

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        side = ("INT", {"default": 1024, "min": 16, "max": MAX_SIDE_PX, "step": 16})
        return {"required": {"width": side, "height": side, "batch_size": ("INT", {"default": 1, "min": 1, "max": 4096})}}

    def generate(self, width: int, height: int, batch_size: int) -> tuple[dict[str, torch.Tensor]]:
        return ({"samples": torch.zeros(batch_size, LATENT_CHANNELS, height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT)},)


class ControlNetApplyAdvanced:
    """ComfyUI's ControlNetApplyAdvanced."""

    RETURN_TYPES, RETURN_NAMES = ("CONDITIONING", "CONDITIONING"), ("positive", "negative")
    FUNCTION, CATEGORY = "apply_controlnet", "conditioning/controlnet"
    DESCRIPTION = "Lets a ControlNet follow a hint while sampling."

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        share: dict[str, Any] = {"min": 0.0, "max": 1.0, "step": 0.001}
        required = {
            "positive": ("CONDITIONING",),
            "negative": ("CONDITIONING",),
            "control_net": ("CONTROL_NET",),
            "image": ("IMAGE",),
            "strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.01}),
            "start_percent": ("FLOAT", {"default": 0.0, **share}),
            "end_percent": ("FLOAT", {"default": 1.0, **share}),
        }
        return {"required": required, "optional": {"vae": ("VAE",)}}

    def apply_controlnet(
        self,
        positive: Conditioning,
        negative: Conditioning,
        control_net: ControlNet,
        image: torch.Tensor,
        strength: float,
        start_percent: float,
        end_percent: float,
        vae: Vae | None = None,
    ) -> tuple[Conditioning, Conditioning]:
        if strength == 0:
            return positive, negative
        control = AppliedControl(control_net, image, strength, start_percent, end_percent, vae)
        return _with_control(positive, control), _with_control(negative, control)


def _with_control(conditioning: Conditioning, control: AppliedControl) -> Conditioning:
    if control.control_net.layout == "instantx" and control.vae is None:
        raise InputError(
            "ControlNetApplyAdvanced, input vae", expected="a VAE: this ControlNet (InstantX layout) takes its hint as a latent",
            found="none", remedy="Connect the VAE.",
        )  # fmt: skip
    if any("control" in extras for _, extras in conditioning):
        raise InputError(
            "ControlNetApplyAdvanced", expected="one ControlNet per conditioning in the headless runner", found="a second one",
            remedy="Run this workflow in ComfyUI.",
        )  # fmt: skip
    return [[tokens, {**extras, "control": control}] for tokens, extras in conditioning]


class KSampler:
    """ComfyUI's KSampler with sampler euler and scheduler simple."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION, CATEGORY = "sample", "sampling"
    DESCRIPTION = "Makes latents from noise, led by the conditioning."
    SAMPLERS: ClassVar[list[str]] = ["euler"]
    SCHEDULERS: ClassVar[list[str]] = ["simple"]

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {
            "required": {
                "model": ("MODEL",),
                "seed": ("INT", {"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF, "control_after_generate": True}),
                "steps": ("INT", {"default": 20, "min": 1, "max": 10000}),
                "cfg": ("FLOAT", {"default": 8.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01}),
                "sampler_name": (cls.SAMPLERS,),
                "scheduler": (cls.SCHEDULERS,),
                "positive": ("CONDITIONING",),
                "negative": ("CONDITIONING",),
                "latent_image": ("LATENT",),
                "denoise": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}),
            }
        }

    def sample(
        self,
        model: Model,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: Conditioning,
        negative: Conditioning,
        latent_image: dict[str, torch.Tensor],
        denoise: float,
    ) -> tuple[dict[str, torch.Tensor]]:
        from .sampling import sample_latents

        host = current_host()
        made = sample_latents(model, latent_image["samples"], positive, negative, seed, steps, cfg, denoise, host.device(), host.progress())
        return ({**latent_image, "samples": made},)
