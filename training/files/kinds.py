"""The rules by which a file is named, one function for each kind: shapes by name (without prefix) -> what it is, or None.

Sources of the rules: the layouts that ComfyUI v0.3.64 recognises (comfy/controlnet.py, comfy/model_detection.py, comfy/sd.py) and those
that diffusers writes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Shapes = Mapping[str, tuple[int, ...]]
# The other models that a checkpoint of several models holds beside its transformer.
PART_PREFIXES = ("vae.", "first_stage_model.", "text_encoders.", "cond_stage_model.", "conditioner.", "model_ema.")
PATCH_AREA = 4  # FLUX packs 2x2 latent pixels into one token
_NOT_FOR_COMFYUI = "ComfyUI takes these names for another layout: export it again for ComfyUI"


@dataclass(frozen=True)
class Found:
    """What a rule has recognised."""

    kind: str
    architecture: str
    layout: str
    variant: str = ""
    sizes: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def depth(shapes: Shapes, blocks: str) -> int:
    """One more than the highest number N in names that begin with `blocks` N and a point."""
    numbers = (re.match(rf"{re.escape(blocks)}(\d{{1,4}})\.", name) for name in shapes)
    return max((int(match[1]) + 1 for match in numbers if match), default=0)


def is_part(name: str) -> bool:
    """Whether a tensor belongs to another model that checkpoints of several models hold (autoencoder, text encoders)."""
    return name.startswith(PART_PREFIXES)


def side(shapes: Shapes, name: str, axis: int) -> int:
    """The size of a tensor along an axis; 0 if there is no such tensor or axis."""
    shape = shapes.get(name, ())
    return shape[axis] if len(shape) > axis else 0


# ---------------------------------------------------------------- transformers and U-Nets


def flux_bfl(shapes: Shapes) -> Found | None:
    if not {"img_in.weight", "txt_in.weight", "final_layer.linear.weight"} <= shapes.keys() or not _head_width(shapes):
        return None
    if "distilled_guidance_layer.norms.0.scale" in shapes or "distilled_guidance_layer.norms.0.weight" in shapes:
        return Found("transformer", "chroma", "BFL")
    if "double_stream_modulation_img.lin.weight" in shapes:
        return Found("transformer", "flux2", "BFL")
    out_width = side(shapes, "final_layer.linear.weight", 0)
    variant = "dev (guidance is embedded)" if "guidance_in.in_layer.weight" in shapes else "schnell (no guidance)"
    sizes = {**_flux_sizes(shapes), "latent_channels": out_width // PATCH_AREA}
    return Found("transformer", "flux", "BFL", variant, sizes, _extra_channels(sizes["token_width"], out_width))


def flux_diffusers(shapes: Shapes) -> Found | None:
    needed = {"x_embedder.weight", "context_embedder.weight", "proj_out.weight", "transformer_blocks.0.attn.norm_added_q.weight"}
    if not needed <= shapes.keys() or "time_text_embed.text_embedder.linear_1.weight" not in shapes:
        return None
    guidance = "time_text_embed.guidance_embedder.linear_1.weight" in shapes
    out_width = side(shapes, "proj_out.weight", 0)
    sizes = {**_flux_diffusers_sizes(shapes), "latent_channels": out_width // PATCH_AREA}
    notes = _extra_channels(sizes["token_width"], out_width)
    return Found("transformer", "flux", "diffusers", "dev (guidance is embedded)" if guidance else "schnell (no guidance)", sizes, notes)


def unet_ldm(shapes: Shapes) -> Found | None:
    if not {"input_blocks.0.0.weight", "out.2.weight", "middle_block.0.in_layers.0.weight"} <= shapes.keys():
        return None
    return Found("unet", stable_diffusion(shapes), "LDM", sizes={
        "width": side(shapes, "input_blocks.0.0.weight", 0), "latent_channels": side(shapes, "out.2.weight", 0),
        "context_width": context_width(shapes)})  # fmt: skip


def unet_diffusers(shapes: Shapes) -> Found | None:
    if not {"conv_in.weight", "conv_out.weight", "time_embedding.linear_1.weight", "down_blocks.0.resnets.0.conv1.weight"} <= shapes.keys():
        return None
    return Found("unet", stable_diffusion(shapes), "diffusers", sizes={
        "width": side(shapes, "conv_in.weight", 0), "latent_channels": side(shapes, "conv_out.weight", 0),
        "context_width": context_width(shapes)})  # fmt: skip


# ---------------------------------------------------------------- ControlNets


def flux_xlabs(shapes: Shapes) -> Found | None:
    if "controlnet_blocks.0.weight" not in shapes or not _head_width(shapes) or "img_in.weight" not in shapes:
        return None
    variant = _controlnet_variant("guidance_in.in_layer.weight" in shapes)
    if "controlnet_x_embedder.weight" in shapes:
        sizes = _flux_sizes(shapes) | {"hint_token_width": side(shapes, "controlnet_x_embedder.weight", 1)}
        return Found("controlnet", "flux", "InstantX in BFL names", variant, sizes, (_NOT_FOR_COMFYUI,))
    sizes = {**_flux_sizes(shapes), "hint_channels": side(shapes, "input_hint_block.0.weight", 1)}
    return Found("controlnet", "flux", "XLabs", variant, sizes)


def flux_instantx(shapes: Shapes) -> Found | None:
    if not {"controlnet_blocks.0.weight", "controlnet_x_embedder.weight", "x_embedder.weight"} <= shapes.keys():
        return None
    variant = _controlnet_variant("time_text_embed.guidance_embedder.linear_1.weight" in shapes)
    if "input_hint_block.conv_in.weight" in shapes:
        sizes = _flux_diffusers_sizes(shapes) | {"hint_channels": side(shapes, "input_hint_block.conv_in.weight", 1)}
        return Found("controlnet", "flux", "XLabs in diffusers names", variant, sizes, (_NOT_FOR_COMFYUI,))
    modes = side(shapes, "controlnet_mode_embedder.weight", 0)
    sizes = _flux_diffusers_sizes(shapes) | {"hint_token_width": side(shapes, "controlnet_x_embedder.weight", 1)}
    sizes |= {"modes": modes} if modes else {}
    return Found("controlnet", "flux", "InstantX Union" if modes else "InstantX", variant, sizes)


def flux_mistoline(shapes: Shapes) -> Found | None:
    if "controlnet_blocks.0.linear.weight" not in shapes:
        return None
    return Found("controlnet", "flux", "Mistoline", _controlnet_variant("guidance_in.in_layer.weight" in shapes), _flux_sizes(shapes))


def controlnet_diffusers(shapes: Shapes) -> Found | None:
    if "controlnet_cond_embedding.conv_in.weight" not in shapes:
        return None
    zero_convs = depth(shapes, "controlnet_down_blocks.")
    return _stable_diffusion_controlnet(shapes, "diffusers", zero_convs, "controlnet_cond_embedding.conv_in.weight")


def controlnet_ldm(shapes: Shapes) -> Found | None:
    for prefix, layout in (("control_model.", "LDM"), ("", "LDM bare")):
        if f"{prefix}zero_convs.0.0.weight" in shapes:
            zero_convs = depth(shapes, f"{prefix}zero_convs.")
            found = _stable_diffusion_controlnet(shapes, layout, zero_convs, f"{prefix}input_hint_block.0.weight")
            notes = ("a difference to its base: ComfyUI adds the base's weights to it",) if "difference" in shapes else ()
            return Found(found.kind, found.architecture, found.layout, found.variant, found.sizes, notes)
    return None


# ---------------------------------------------------------------- autoencoders and text encoders


def taesd(shapes: Shapes) -> Found | None:
    if "taesd_decoder.1.weight" not in shapes and "taesd_encoder.0.weight" not in shapes:
        return None
    return Found("autoencoder", "taesd", "TAESD", sizes={"latent_channels": side(shapes, "taesd_decoder.1.weight", 1)})


def autoencoder_kl(shapes: Shapes) -> Found | None:
    channels = side(shapes, "decoder.conv_in.weight", 1)
    layout = "LDM" if "decoder.mid.block_1.conv1.weight" in shapes else "diffusers"
    if not channels or "decoder.conv_out.weight" not in shapes:
        return None
    flux = channels == 16 and not any(name.startswith(("quant_conv.", "post_quant_conv.")) for name in shapes)
    notes = ("the autoencoder of SD3 has the same names and shapes",) if flux else ()
    architecture = "flux" if flux else {4: "sd15 or sdxl"}.get(channels, "unknown")
    return Found("autoencoder", architecture, layout, sizes={"latent_channels": channels}, notes=notes)


def t5(shapes: Shapes) -> Found | None:
    first = "encoder.block.0.layer.0.SelfAttention.q.weight"
    if first not in shapes:
        return None
    return Found("text encoder", "t5", "transformers", sizes={"width": side(shapes, first, 1), "layers": depth(shapes, "encoder.block.")})


def clip(shapes: Shapes) -> Found | None:
    first = "text_model.encoder.layers.0.self_attn.q_proj.weight"
    if first not in shapes:
        return None
    sizes = {"width": side(shapes, first, 1), "layers": depth(shapes, "text_model.encoder.layers.")}
    return Found("text encoder", "clip", "transformers", {768: "L", 1280: "G"}.get(sizes["width"], ""), sizes)


def nano_text_encoder(shapes: Shapes) -> Found | None:
    if not {"words.weight", "places", "layers.0.qkv.weight", "pool.weight"} <= shapes.keys():
        return None
    sizes = {"width": side(shapes, "words.weight", 1), "layers": depth(shapes, "layers."), "pooled_width": side(shapes, "pool.weight", 0)}
    return Found("text encoder", "nano", "Graft", sizes=sizes)


# ---------------------------------------------------------------- what the rules share


def context_width(shapes: Shapes) -> int:
    """The width of the text that a U-Net's cross-attention takes; 0 if it has none."""
    return next((shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight") and len(shape) == 2), 0)


def stable_diffusion(shapes: Shapes) -> str:
    """Which Stable Diffusion a U-Net, or a ControlNet of one, belongs to."""
    return {768: "sd15", 1024: "sd2", 2048: "sdxl", 1280: "sdxl refiner"}.get(context_width(shapes), "unknown")


def _head_width(shapes: Shapes) -> int:
    ends = ("scale", "weight")  # `weight` in files saved out of a newer ComfyUI's memory
    return next((side(shapes, f"double_blocks.0.img_attn.norm.key_norm.{end}", 0) for end in ends
                 if f"double_blocks.0.img_attn.norm.key_norm.{end}" in shapes), 0)  # fmt: skip


def _flux_sizes(shapes: Shapes) -> dict[str, int]:
    hidden_width, head_width = side(shapes, "img_in.weight", 0), _head_width(shapes)
    return {
        "hidden_width": hidden_width, "heads": hidden_width // head_width if head_width else 0, "head_width": head_width,
        "double_blocks": depth(shapes, "double_blocks."), "single_blocks": depth(shapes, "single_blocks."),
        "token_width": side(shapes, "img_in.weight", 1), "context_width": side(shapes, "txt_in.weight", 1),
        "vector_width": side(shapes, "vector_in.in_layer.weight", 1), "mlp_width": side(shapes, "double_blocks.0.img_mlp.0.weight", 0),
    }  # fmt: skip


def _flux_diffusers_sizes(shapes: Shapes) -> dict[str, int]:
    hidden_width, head_width = side(shapes, "x_embedder.weight", 0), side(shapes, "transformer_blocks.0.attn.norm_q.weight", 0)
    return {
        "hidden_width": hidden_width, "heads": hidden_width // head_width if head_width else 0, "head_width": head_width,
        "double_blocks": depth(shapes, "transformer_blocks."), "single_blocks": depth(shapes, "single_transformer_blocks."),
        "token_width": side(shapes, "x_embedder.weight", 1), "context_width": side(shapes, "context_embedder.weight", 1),
        "vector_width": side(shapes, "time_text_embed.text_embedder.linear_1.weight", 1),
        "mlp_width": side(shapes, "transformer_blocks.0.ff.net.0.proj.weight", 0),
    }  # fmt: skip


def _extra_channels(token_width: int, out_width: int) -> tuple[str, ...]:
    if token_width == out_width:
        return ()
    return (f"it takes {token_width} numbers for a token and gives {out_width}: an inpainting or control edition (Fill, Canny, Depth)",)


def _controlnet_variant(guidance: bool) -> str:
    return "guidance is embedded" if guidance else "no guidance"


def _stable_diffusion_controlnet(shapes: Shapes, layout: str, zero_convs: int, hint: str) -> Found:
    sizes = {"zero_convs": zero_convs, "hint_channels": side(shapes, hint, 1), "context_width": context_width(shapes)}
    return Found("controlnet", stable_diffusion(shapes), layout, sizes=sizes)


Rule = Callable[[Shapes], "Found | None"]
CONTROLNETS: tuple[Rule, ...] = (flux_xlabs, flux_instantx, flux_mistoline, controlnet_diffusers, controlnet_ldm)
TRANSFORMERS: tuple[Rule, ...] = (flux_bfl, flux_diffusers, unet_ldm, unet_diffusers)
OTHERS: tuple[Rule, ...] = (taesd, autoencoder_kl, t5, clip, nano_text_encoder)
