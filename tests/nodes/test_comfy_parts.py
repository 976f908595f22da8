"""The parts of the ComfyUI host that need no ComfyUI; against the real one they are tested in tests/integration."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from graft.nodes.comfy_model import model_weights
from graft.nodes.comfy_progress import text_of
from graft.nodes.comfy_sizes import agree, in_module_names, original_name, true_sizes
from graft.nodes.comfy_text import EngineTextModel, EngineTokenizer, encode_text
from graft.nodes.comfy_vae import stock_weights
from graft.nodes.comfy_weights import read_weights, remember_fingerprint, remembered_fingerprint
from graft.training.errors import InputError
from graft.training.files.fingerprint import fingerprint
from graft.training.models.flux import Flux, FluxConfig
from graft.training.models.nano.autoencoder import DECODER, ENCODER, Autoencoder, Conv, Half
from torch import Tensor, nn

NORM = "double_blocks.0.img_attn.norm.query_norm."


class Patcher(SimpleNamespace):
    """What is read of ComfyUI's ModelPatcher."""

    def __init__(self, model: nn.Module, **changes: Any) -> None:
        super().__init__(**{"model": model, "patches": {}, "patches_uuid": 1, "backup": {}, "hook_backup": {}, **changes})

    def get_attachment(self, key: str) -> Any:
        return None


def scaled_layer() -> nn.Module:
    """A layer that holds its weight in fp8 with a scale, as ComfyUI's scaled-fp8 layers do."""
    layer = nn.Linear(2, 1, bias=False)
    layer.weight = nn.Parameter(torch.tensor([[1.0, -2.0]]).to(torch.float8_e4m3fn), requires_grad=False)
    layer.scale_weight = nn.Parameter(torch.tensor(0.5), requires_grad=False)
    layer.convert_weight = lambda weight: weight * layer.scale_weight
    return layer


def test_norm_scales_are_found_under_both_names():
    assert original_name(NORM + "weight") == original_name(NORM + "scale") == NORM + "scale"
    assert original_name("img_in.weight") == "img_in.weight"
    weights = {NORM + "scale": torch.ones(1), "img_in.weight": torch.zeros(1)}
    assert list(in_module_names(weights, [NORM + "weight", "img_in.weight"])) == [NORM + "weight", "img_in.weight"]
    assert list(in_module_names(weights, weights)) == list(weights)


def test_sizes_that_differ_in_one_place_do_not_agree():
    config = FluxConfig(
        hidden_size=256, head_dim=128, double_depth=2, single_depth=4, in_channels=64, context_width=128, vector_width=64, mlp_width=1024,
        guidance=True,
    )  # fmt: skip
    sizes = true_sizes(config)
    assert sizes["num_heads"] == 2 and sizes["mlp_ratio"] == 4.0 and agree({**sizes, "theta": 10_000}, sizes)
    assert not any(agree({**sizes, name: None}, sizes) for name in sizes)


def test_plain_weights_are_shared_and_what_is_put_aside_counts():
    layer = nn.Linear(2, 2)
    kept = nn.Parameter(torch.full((2, 2), 7.0))
    patcher = Patcher(nn.ModuleDict({"diffusion_model": layer, "other": nn.Linear(1, 1)}))
    assert read_weights(patcher, "diffusion_model.", "MODEL")["weight"].data_ptr() == layer.weight.data_ptr()
    patcher.backup["diffusion_model.weight"] = SimpleNamespace(weight=kept)
    found = read_weights(patcher, "diffusion_model.", "MODEL")
    assert sorted(found) == ["bias", "weight"] and torch.equal(found["weight"], kept)


def test_scaled_fp8_comes_as_what_it_stands_for():
    found = read_weights(Patcher(nn.ModuleDict({"m": scaled_layer()})), "m.", "MODEL")
    assert list(found) == ["weight"] and found["weight"].dtype == torch.bfloat16
    assert found["weight"].tolist() == [[0.5, -1.0]]


def test_weights_of_other_packs_are_refused():
    class GgmlTensor(Tensor): ...

    layer = nn.Linear(2, 2, bias=False)
    layer.weight = nn.Parameter(torch.zeros(2, 2).as_subclass(GgmlTensor), requires_grad=False)
    with pytest.raises(InputError, match=r"MODEL: expected weights that ComfyUI itself.*found weight held as GgmlTensor.*safetensors file"):
        read_weights(Patcher(layer), "", "MODEL")
    layer.weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(InputError, match=r"uint8"):
        read_weights(Patcher(layer), "", "MODEL")


def test_a_fingerprint_belongs_to_one_state_of_the_patches():
    plain = Patcher(nn.Linear(1, 1))
    remember_fingerprint(plain, "plain")
    patched = Patcher(plain.model, patches={"weight": [1]}, patches_uuid=2)
    assert remembered_fingerprint(patched) is None
    remember_fingerprint(patched, "patched")
    assert [remembered_fingerprint(patcher) for patcher in (plain, patched)] == ["plain", "patched"]
    assert remembered_fingerprint(Patcher(plain.model, patches_uuid=3)) == "plain"


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (SimpleNamespace(model=SimpleNamespace(model_config=type("SDXL", (), {"unet_config": {"model_channels": 320}})())), "family SDXL"),
        (SimpleNamespace(model=SimpleNamespace(model_config=type("Chroma", (), {"unet_config": {"image_model": "chroma"}})())), "Chroma"),
        ("a text", "found str"),
    ],
)
def test_other_families_are_named(model: Any, named: str):
    with pytest.raises(InputError, match=r"MODEL: expected a FLUX\.1 transformer.*" + named):
        model_weights(model)


def flux_patcher(in_channels: int) -> Patcher:
    """A FLUX of one head, as ComfyUI holds one."""
    config = FluxConfig(
        hidden_size=128, head_dim=128, double_depth=1, single_depth=0, in_channels=in_channels, context_width=4, vector_width=4, mlp_width=8,
        guidance=False,
    )  # fmt: skip
    module = nn.Module()
    module.diffusion_model, module.model_config = Flux(config), SimpleNamespace(unet_config={"image_model": "flux"})
    return Patcher(module)


def test_a_flux_gives_its_weights_under_original_names():
    patcher = flux_patcher(64)
    weights, found = model_weights(patcher)
    assert list(weights) == list(patcher.model.diffusion_model.state_dict())
    assert found == fingerprint(weights) == model_weights(patcher)[1]


def test_flux_fill_is_refused():
    with pytest.raises(InputError, match=r"MODEL: expected a FLUX\.1 that sees 16 latent channels; found 96"):
        model_weights(flux_patcher(384))


def narrow_half(layers: tuple[Any, ...], first: int, last: int, seed: int) -> Half:
    """A half of four channels inside."""
    random, weights, width = torch.Generator().manual_seed(seed), {}, first
    for layer in layers:
        names = [layer.name] if isinstance(layer, Conv) else [f"{layer.name}.conv.{number}" for number in (0, 2, 4)]
        for name in names:
            outputs = last if layer == layers[-1] else 4
            weights[f"{name}.weight"] = torch.randn(outputs, width, 3, 3, generator=random) / (3 * width**0.5)
            weights[f"{name}.bias"] = torch.randn(outputs, generator=random) / 10
            width = outputs
    return Half(layers, weights)


def test_an_autoencoder_widened_to_the_stock_layout_computes_the_same():
    own = Autoencoder(narrow_half(ENCODER, 3, 16, 0), narrow_half(DECODER, 16, 3, 1), scale=0.4, shift=0.1)
    stock = stock_weights(own)
    assert stock["taesd_encoder.1.conv.0.weight"].shape == stock["taesd_decoder.8.conv.2.weight"].shape == (64, 64, 3, 3)
    assert stock["taesd_encoder.0.weight"].shape == (64, 3, 3, 3) and stock["taesd_decoder.19.weight"].shape == (3, 64, 3, 3)
    again = Autoencoder.from_weights(stock)
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    latents = own.encode(pixels)
    torch.testing.assert_close(again.encode(pixels), latents)
    torch.testing.assert_close(again.decode(latents), own.decode(latents))


class LettersEncoder(nn.Module):
    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        return torch.tensor([[[float(len(text))]] for text in texts]), torch.ones(len(texts), 1)


def test_a_text_goes_through_tokenizer_and_model_unchanged():
    tokens = EngineTokenizer().tokenize_with_weights("(a:1.2) b")
    text, pooled = EngineTextModel(LettersEncoder()).encode_token_weights(tokens)
    assert text.tolist() == [[[9.0]]] and pooled.tolist() == [[1.0]]
    assert EngineTokenizer().tokenize_with_weights("x", return_word_ids=True) == {"t5xxl": [[("x", 1.0, 0)]]}


class ForeignClip(SimpleNamespace):
    """A token per letter, at least two; the pooled text is the first."""

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens(self, tokens: str, return_pooled: bool) -> tuple[Tensor, Tensor | None]:
        letters = torch.tensor([[[float(ord(letter))] for letter in tokens.ljust(2)]])
        return letters, letters[:, 0] if self.pools else None


def test_captions_of_other_encoders_are_cropped_to_the_length_of_an_empty_one():
    text, pooled = encode_text(ForeignClip(cond_stage_model=None, pools=True), ["abc", "d"])
    assert text.tolist() == [[[97.0], [98.0]], [[100.0], [32.0]]] and pooled.tolist() == [[97.0], [100.0]]


def test_a_clip_without_pooled_text_is_refused():
    with pytest.raises(InputError, match=r"CLIP: expected FLUX's two text encoders"):
        encode_text(ForeignClip(cond_stage_model=None, pools=False), ["a"])


def test_the_text_on_a_node():
    assert text_of(50, 200, "step", {"loss": 0.123456, "learning_rate": 1e-4}) == "50/200 steps, loss 0.1235, learning rate 0.0001"
    assert text_of(1, 2, "picture", {}) == "1/2 pictures"
