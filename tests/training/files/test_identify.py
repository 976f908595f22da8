"""Every rule against names and sizes that others write: diffusers' and transformers' own classes on the meta device, ComfyUI's layouts."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import cache

import pytest
import torch
from graft.training.files.header import read_header
from graft.training.files.identify import FileReport, identify
from graft.training.models.flux import Flux, FluxConfig

DEV = {
    "hidden_width": 3072, "heads": 24, "head_width": 128, "token_width": 64, "context_width": 4096, "vector_width": 768, "mlp_width": 12288,
}  # fmt: skip


@cache
def flux_shapes(guidance=True, in_channels=64) -> dict[str, tuple[int, ...]]:
    config = FluxConfig(
        hidden_size=3072, head_dim=128, double_depth=19, single_depth=38, in_channels=64, context_width=4096, vector_width=768,
        mlp_width=12288, guidance=guidance,
    )  # fmt: skip
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in Flux(config).state_dict().items()}
    return shapes | {"img_in.weight": (3072, in_channels)}


def meta(build) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}


@pytest.fixture
def identified(hollow_model):
    def run(model, **options) -> FileReport:
        return identify(read_header(hollow_model(model, **options)))

    return run


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
@pytest.mark.parametrize("guidance", [True, False])
def test_flux_in_original_names(identified, prefix, guidance):
    report = identified(flux_shapes(guidance), prefix=prefix)
    assert (report.kind, report.architecture, report.layout, report.prefix) == ("transformer", "flux", "BFL", prefix)
    assert report.variant.startswith("dev" if guidance else "schnell")
    assert report.sizes == {**DEV, "double_blocks": 19, "single_blocks": 38, "latent_channels": 16}
    # The published sizes: 11,901,408,320 (dev) and 11,891,178,560 (schnell).
    assert report.parameters == (11_901_408_320 if guidance else 11_891_178_560)
    assert report.fp8 == "none" and report.dtypes["BF16"].size_bytes == 2 * report.parameters


@pytest.mark.parametrize("guidance", [True, False])
def test_flux_in_diffusers_names(identified, guidance):
    from diffusers import FluxTransformer2DModel

    report = identified(meta(lambda: FluxTransformer2DModel(num_layers=19, num_single_layers=38, guidance_embeds=guidance)))
    assert (report.kind, report.architecture, report.layout) == ("transformer", "flux", "diffusers")
    assert report.variant.startswith("dev" if guidance else "schnell")
    assert report.sizes == {**DEV, "double_blocks": 19, "single_blocks": 38, "latent_channels": 16}
    assert report.parameters == (11_901_408_320 if guidance else 11_891_178_560)


def test_an_inpainting_edition_is_noted(identified):
    report = identified(flux_shapes(in_channels=384))
    assert report.sizes["token_width"] == 384 and report.sizes["latent_channels"] == 16 and "Fill" in report.notes[0]


def test_a_whole_checkpoint_keeps_its_parts_apart(identified):
    extra = {"vae.decoder.conv_in.weight": ("F32", (512, 16, 3, 3)), "text_encoders.clip_l.transformer.x": ("F16", (5, 5))}
    report = identified(flux_shapes(), prefix="model.diffusion_model.", extra=extra)
    assert report.kind == "transformer" and report.other_parts == {"vae.": 1, "text_encoders.": 1}
    assert report.parameters == 11_901_408_320


def test_relatives_of_flux_are_not_taken_for_it(identified):
    shapes = flux_shapes()
    assert identified(shapes | {"distilled_guidance_layer.norms.0.scale": (5,)}).architecture == "chroma"
    assert identified(shapes | {"double_stream_modulation_img.lin.weight": (5, 5)}).architecture == "flux2"


def xlabs_shapes() -> dict[str, tuple[int, ...]]:
    """The table of XLabs' 2+0 layout at full width."""
    flux = flux_shapes()
    shapes = {name: shape for name, shape in flux.items() if name.startswith(("double_blocks.0.", "double_blocks.1.")) or "_in." in name}
    shapes |= {"pos_embed_input.weight": (3072, 64), "pos_embed_input.bias": (3072,)}
    for index in range(2):
        shapes |= {f"controlnet_blocks.{index}.weight": (3072, 3072), f"controlnet_blocks.{index}.bias": (3072,)}
    for index in range(0, 16, 2):
        channels = 3 if index == 0 else 16
        shapes |= {f"input_hint_block.{index}.weight": (16, channels, 3, 3), f"input_hint_block.{index}.bias": (16,)}
    return shapes


def test_xlabs_controlnet(identified):
    report = identified(xlabs_shapes())
    assert (report.kind, report.architecture, report.layout) == ("controlnet", "flux", "XLabs")
    assert report.sizes == {**DEV, "double_blocks": 2, "single_blocks": 0, "hint_channels": 3}
    assert round(report.parameters / 1e6) == 744
    prefixed = identified(xlabs_shapes(), prefix="module.")
    assert prefixed.layout == "XLabs" and "without a prefix" in prefixed.notes[0]


@pytest.mark.parametrize("modes", [None, 10])
def test_instantx_controlnet(identified, modes):
    from diffusers import FluxControlNetModel

    report = identified(meta(lambda: FluxControlNetModel(num_layers=4, num_single_layers=10, num_mode=modes, guidance_embeds=True)))
    assert (report.kind, report.architecture, report.layout) == ("controlnet", "flux", "InstantX Union" if modes else "InstantX")
    assert report.variant == "guidance is embedded"
    assert report.sizes == {**DEV, "double_blocks": 4, "single_blocks": 10, "hint_token_width": 64} | ({"modes": 10} if modes else {})


def test_xlabs_controlnet_in_diffusers_names(identified):
    from diffusers import FluxControlNetModel

    report = identified(meta(lambda: FluxControlNetModel(num_layers=2, num_single_layers=0, conditioning_embedding_channels=16)))
    assert report.layout == "XLabs in diffusers names" and "ComfyUI" in report.notes[0] and report.sizes["hint_channels"] == 3


def test_mistoline_controlnet(identified):
    shapes = {name: shape for name, shape in flux_shapes().items() if name.startswith("double_blocks.0.") or "_in." in name}
    report = identified(shapes | {"controlnet_blocks.0.linear.weight": (3072, 3072), "input_cond_block.encoder.0.weight": (16, 3, 3, 3)})
    assert (report.kind, report.architecture, report.layout) == ("controlnet", "flux", "Mistoline")


SD15 = {"cross_attention_dim": 768}
SDXL = {
    "cross_attention_dim": 2048, "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20), "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816, "use_linear_projection": True,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
}  # fmt: skip


@pytest.mark.parametrize(("architecture", "options", "zero_convs"), [("sd15", SD15, 12), ("sdxl", SDXL, 9)])
def test_stable_diffusion_controlnets_of_diffusers(identified, architecture, options, zero_convs):
    from diffusers import ControlNetModel

    report = identified(meta(lambda: ControlNetModel(**options)))
    assert (report.kind, report.architecture, report.layout) == ("controlnet", architecture, "diffusers")
    assert report.sizes == {"zero_convs": zero_convs, "hint_channels": 3, "context_width": options["cross_attention_dim"]}


@pytest.mark.parametrize(("prefix", "layout"), [("control_model.", "LDM"), ("", "LDM bare")])
def test_stable_diffusion_controlnets_in_ldm_names(identified, prefix, layout):
    shapes = {f"zero_convs.{index}.0.weight": (320, 320, 1, 1) for index in range(12)} | {
        "input_hint_block.0.weight": (16, 3, 3, 3), "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768)}  # fmt: skip
    report = identified(shapes, prefix=prefix)
    assert (report.kind, report.architecture, report.layout) == ("controlnet", "sd15", layout)
    assert report.sizes == {"zero_convs": 12, "hint_channels": 3, "context_width": 768}
    assert identified({prefix + name: shape for name, shape in shapes.items()} | {"difference": ()}).notes


def test_u_nets(identified):
    from diffusers import UNet2DConditionModel

    report = identified(meta(lambda: UNet2DConditionModel(**SD15)))
    assert (report.kind, report.architecture, report.layout) == ("unet", "sd15", "diffusers") and report.sizes["latent_channels"] == 4
    ldm = {"input_blocks.0.0.weight": (320, 4, 3, 3), "out.2.weight": (4, 320, 3, 3), "middle_block.0.in_layers.0.weight": (1280,),
           "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, 2048)}  # fmt: skip
    extra = {"first_stage_model.decoder.conv_in.weight": ("F32", (512, 4, 3, 3)), "conditioner.embedders.0.x": ("F16", (1,))}
    report = identified(ldm, prefix="model.diffusion_model.", extra=extra)
    assert (report.kind, report.architecture, report.layout) == ("unet", "sdxl", "LDM")
    assert report.other_parts == {"first_stage_model.": 1, "conditioner.": 1}


def test_autoencoders(identified):
    from diffusers import AutoencoderKL, AutoencoderTiny

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2, "block_out_channels": (32, 64)}
    flux = identified(meta(lambda: AutoencoderKL(**blocks, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False)))
    assert (flux.kind, flux.architecture, flux.layout, flux.sizes) == ("autoencoder", "flux", "diffusers", {"latent_channels": 16})
    stable = identified(meta(lambda: AutoencoderKL(**blocks, latent_channels=4)), prefix="first_stage_model.")
    assert (stable.kind, stable.architecture, stable.prefix) == ("autoencoder", "sd15 or sdxl", "first_stage_model.")
    original = {"decoder.conv_in.weight": (512, 16, 3, 3), "decoder.conv_out.weight": (3, 128, 3, 3)}
    original |= {"decoder.mid.block_1.conv1.weight": (512, 512, 3, 3)}
    assert (identified(original).architecture, identified(original).layout) == ("flux", "LDM")
    tiny = meta(lambda: AutoencoderTiny(latent_channels=16))
    taesd = {f"taesd_{name.replace('.layers', '')}": shape for name, shape in tiny.items()}
    taesd["taesd_decoder.1.weight"] = (64, 16, 3, 3)  # its file counts the clamp before the first convolution
    report = identified(taesd)
    assert (report.kind, report.architecture, report.sizes) == ("autoencoder", "taesd", {"latent_channels": 16})


def test_text_encoders(identified):
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    t5 = identified(meta(lambda: T5EncoderModel(T5Config(d_model=64, num_layers=3, num_heads=2, d_kv=32, d_ff=8, vocab_size=10))))
    assert (t5.kind, t5.architecture, t5.sizes) == ("text encoder", "t5", {"width": 64, "layers": 3})
    clip = meta(lambda: CLIPTextModel(CLIPTextConfig(num_hidden_layers=12, hidden_size=768, vocab_size=10, intermediate_size=8)))
    clip = {name if name.startswith("text_model.") else f"text_model.{name}": shape for name, shape in clip.items()}
    report = identified(clip)
    assert (report.kind, report.architecture, report.variant, report.sizes) == ("text encoder", "clip", "L", {"width": 768, "layers": 12})


def test_the_nanos_own_files(identified):
    from graft.training.models.nano.text_encoder import TextEncoder

    report = identified(meta(lambda: TextEncoder(width=128, pooled_width=64, depth=2)))
    assert (report.kind, report.architecture, report.sizes) == ("text encoder", "nano", {"width": 128, "layers": 2, "pooled_width": 64})


def test_unknown_files_show_their_first_names(identified):
    report = identified({f"layer.{index}.w": (2, 2) for index in range(20)})
    assert report.kind == "unknown" and report.first_names[:2] == ("layer.0.w", "layer.1.w") and len(report.first_names) == 8
    assert identified({}).kind == "unknown"


def pair(name: str, rank=16, width=3072, down="lora_down", up="lora_up") -> dict[str, tuple[int, ...]]:
    return {f"{name}.{down}.weight": (rank, width), f"{name}.{up}.weight": (width, rank), f"{name}.alpha": ()}


def peft_pair(name: str, width=3072) -> dict[str, tuple[int, ...]]:
    return pair(name, width=width, down="lora_A", up="lora_B")


ATTENTION = "attentions.0.transformer_blocks.0.attn2.to_k"
LOHA = {"lycoris_double_blocks_0_img_attn_qkv.hada_w1_a": (3072, 16), "lycoris_double_blocks_0_img_attn_qkv.hada_w1_b": (16, 3072)}
XLABS = {"double_blocks.0.processor.qkv_lora1.down.weight": (16, 3072), "single_blocks.37.processor.qkv_lora.down.weight": (16, 3072)}
LORAS = {
    "Kohya": ("flux", "Kohya", pair("lora_unet_double_blocks_0_img_attn_qkv") | pair("lora_unet_single_blocks_3_linear1")),
    "with text encoder": ("flux", "Kohya", pair("lora_unet_double_blocks_0_img_mod_lin") | pair("lora_te1_text_model_layers_0", width=768)),
    "generic": ("flux", "generic", peft_pair("diffusion_model.double_blocks.0.img_attn.qkv")),
    "diffusers": ("flux", "PEFT / diffusers", peft_pair("transformer.single_transformer_blocks.0.attn.to_q")),
    "diffusers, double only": ("flux", "PEFT / diffusers", peft_pair("transformer.transformer_blocks.0.attn.add_k_proj")),
    "PEFT": ("flux", "PEFT", peft_pair("base_model.model.single_blocks.0.linear1")),
    "OneTrainer": ("flux", "OneTrainer", pair("lora_transformer_single_transformer_blocks_0_attn_to_q")),
    "LyCORIS": ("flux", "LyCORIS", LOHA),
    "XLabs": ("flux", "XLabs", XLABS),
    "SD1.5": ("sd15", "Kohya", pair(f"lora_unet_down_blocks_0_{ATTENTION.replace('.', '_')}", width=768)),
    "SDXL": ("sdxl", "Kohya", pair("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", width=2048)),
    "SDXL diffusers": ("sdxl", "PEFT / diffusers", peft_pair(f"unet.down_blocks.1.{ATTENTION}", width=2048)),
}


@pytest.mark.parametrize("case", LORAS)
def test_lora_files(identified, case):
    architecture, layout, shapes = LORAS[case]
    report = identified(shapes)
    assert (report.kind, report.architecture, report.layout, report.sizes["rank"]) == ("lora", architecture, layout, 16)
    assert report.sizes["alphas"] == sum(name.endswith(".alpha") for name in shapes)


def test_lora_of_several_ranks_and_dora(identified):
    shapes = pair("lora_unet_double_blocks_0_img_attn_qkv", 4) | pair("lora_unet_double_blocks_1_img_attn_qkv", 32)
    report = identified(shapes | {"lora_unet_double_blocks_0_img_attn_qkv.dora_scale": (9216, 1)})
    assert (report.sizes["lowest_rank"], report.sizes["highest_rank"], report.sizes["layers"]) == (4, 32, 2)
    assert report.variant == "LoRA with DoRA scales"


def test_peft_itself_writes_what_we_recognise(hollow_model):
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    class Base(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.double_blocks = torch.nn.ModuleList([torch.nn.ModuleDict({"qkv": torch.nn.Linear(8, 24)})])

    state = get_peft_model_state_dict(get_peft_model(Base(), LoraConfig(r=3, target_modules=["qkv"])))
    report = identify(read_header(hollow_model({name: tuple(tensor.shape) for name, tensor in state.items()}, dtype="F32")))
    assert (report.kind, report.layout, report.architecture, report.sizes["rank"]) == ("lora", "PEFT", "flux", 3)


def test_a_24_gb_file_is_known_within_a_second_without_torch(hollow_model):
    path = hollow_model(flux_shapes())
    assert path.stat().st_size > 23.8e9
    start = time.process_time()
    identify(read_header(path))
    assert time.process_time() - start < 0.5
    code = f"""import sys
from graft.training.files.inspect import inspect_file
inspect_file({str(path)!r})
sys.exit('torch' in sys.modules)"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
