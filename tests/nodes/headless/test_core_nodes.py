"""The core stand-ins compute what ComfyUI computes: schedule, scaling, guidance, ControlNet windows and hints."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from graft.nodes.headless.core_nodes import (
    ClipTextEncode,
    ControlNetApplyAdvanced,
    EmptySd3LatentImage,
    FluxGuidance,
    KSampler,
    VaeDecode,
    VaeEncode,
)
from graft.nodes.headless.host import HeadlessHost
from graft.nodes.headless.sampling import fitted_to_batch, hint_for, scaled_to_cover
from graft.nodes.headless.values import AppliedControl
from graft.nodes.host import use_host
from graft.training.errors import InputError
from graft.training.models.flux import Flux, FluxConfig
from graft.training.models.flux_controlnet import build_controlnet
from torch import nn

SHIFT, SCALE = 0.1159, 0.3611
CONFIG = FluxConfig(
    hidden_size=128, head_dim=128, double_depth=1, single_depth=1, in_channels=64, context_width=24, vector_width=12, mlp_width=64,
    guidance=True,
)  # fmt: skip


@pytest.fixture(autouse=True)
def host(tmp_path):
    with use_host(HeadlessHost(tmp_path)) as host:
        yield host


@pytest.fixture(scope="module")
def flux():
    torch.manual_seed(1)
    made = Flux(CONFIG).requires_grad_(False)
    for parameter in made.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.2)
    return made


@pytest.fixture
def model(host, flux):
    return host.make_model(flux.state_dict())


@pytest.fixture
def constant_model(host, flux):
    """Its velocity is -0.5 everywhere: x falls along a known straight line."""
    weights = {**flux.state_dict(), "final_layer.linear.weight": torch.zeros(64, 128), "final_layer.linear.bias": torch.full((64,), -0.5)}
    return host.make_model(weights)


def conditioning(seed, **extras):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, 5, 24, generator=generator), {"pooled_output": torch.randn(1, 12, generator=generator), **extras}]]


def ksampler(model, latent, positive=None, negative=None, seed=7, steps=1, cfg=1.0, denoise=1.0):
    [made] = KSampler().sample(
        model, seed, steps, cfg, "euler", "simple", positive or conditioning(1), negative or conditioning(2), {"samples": latent}, denoise
    )
    return made["samples"]


def noise(*shape, seed=7):
    torch.manual_seed(seed)
    return torch.randn(*shape)


def packed(latents):
    b, c, h, w = latents.shape
    return latents.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, c * 4)


def one_velocity(flux, x, entry, t=1.0, guidance=3.5, control=None):
    """The transformer asked directly, at flow time t, unpacked by hand."""
    count, _, height, width = x.shape
    rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
    ids = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()
    tokens, extras = entry
    arguments = (ids, tokens.expand(count, -1, -1), torch.zeros(5, 3), torch.full((count,), t), extras["pooled_output"].expand(count, -1))
    residuals = control(packed(x), arguments, torch.full((count,), guidance)) if control else None
    v = flux(packed(x), *arguments, torch.full((count,), guidance), residuals)
    return v.reshape(count, height // 2, width // 2, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


def test_full_denoise_starts_from_torch_s_noise_and_ends_in_raw_latents(constant_model):
    """At t = 1 everything is noise; a velocity of -0.5 over the whole way adds 0.5; then the transformer's scaling is undone."""
    start = torch.full((2, 16, 4, 6), 9.0)
    expected = (noise(2, 16, 4, 6) + 0.5) / SCALE + SHIFT
    torch.testing.assert_close(ksampler(constant_model, start, steps=5), expected)


def test_partial_denoise_starts_from_the_noised_latents(constant_model):
    """4 steps at denoise 0.5 are the last 4 of 8; they begin at the shifted time of 0.5, e^1.15 / (e^1.15 + 1)."""
    t = math.exp(1.15) / (math.exp(1.15) + 1)
    start = torch.full((1, 16, 4, 4), 2.0)
    expected = (t * noise(1, 16, 4, 4) + (1 - t) * (2.0 - SHIFT) * SCALE + 0.5 * t) / SCALE + SHIFT
    torch.testing.assert_close(ksampler(constant_model, start, steps=4, denoise=0.5), expected)


def test_empty_latents_are_not_scaled(constant_model):
    t = math.exp(1.15) / (math.exp(1.15) + 1)
    expected = (t * noise(1, 16, 4, 4) + 0.5 * t) / SCALE + SHIFT
    torch.testing.assert_close(ksampler(constant_model, torch.zeros(1, 16, 4, 4), steps=4, denoise=0.5), expected)


def test_no_denoise_gives_the_latents_back(constant_model):
    start = torch.full((1, 16, 4, 4), 2.0)
    assert torch.equal(ksampler(constant_model, start, denoise=0.0), start)


def test_what_else_a_latent_carries_is_kept(constant_model):
    [made] = KSampler().sample(
        constant_model,
        1,
        1,
        1.0,
        "euler",
        "simple",
        conditioning(1),
        conditioning(2),
        {"samples": torch.zeros(1, 16, 4, 4), "more": 5},
        1.0,
    )
    assert made["more"] == 5


def test_one_step_is_one_call_of_the_transformer(flux, model):
    start = noise(2, 16, 4, 6)
    expected = (start - one_velocity(flux, start, conditioning(1)[0])) / SCALE + SHIFT
    torch.testing.assert_close(ksampler(model, torch.zeros(2, 16, 4, 6)), expected, rtol=1e-4, atol=1e-4)


def test_two_steps_pass_the_shifted_half(flux, model):
    half = math.exp(1.15) / (math.exp(1.15) + 1)
    x, entry = noise(1, 16, 4, 4), conditioning(1)[0]
    x = x + (half - 1) * one_velocity(flux, x, entry)
    x = x - half * one_velocity(flux, x, entry, t=half)
    torch.testing.assert_close(ksampler(model, torch.zeros(1, 16, 4, 4), steps=2), x / SCALE + SHIFT, rtol=1e-4, atol=1e-4)


def test_classifier_free_guidance(flux, model):
    start = noise(1, 16, 4, 4)
    wanted, unwanted = (one_velocity(flux, start, conditioning(seed)[0]) for seed in (1, 2))
    expected = (start - (unwanted + 4.0 * (wanted - unwanted))) / SCALE + SHIFT
    torch.testing.assert_close(ksampler(model, torch.zeros(1, 16, 4, 4), cfg=4.0), expected, rtol=1e-3, atol=1e-3)


def test_guidance_is_three_and_a_half_unless_a_node_speaks(flux, model):
    [guided] = FluxGuidance().append(conditioning(1), 1.25)
    start = noise(1, 16, 4, 4)
    expected = (start - one_velocity(flux, start, conditioning(1)[0], guidance=1.25)) / SCALE + SHIFT
    made = ksampler(model, torch.zeros(1, 16, 4, 4), guided)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(made, ksampler(model, torch.zeros(1, 16, 4, 4)), atol=1e-3)


def test_flux_guidance_leaves_its_input_alone():
    given = conditioning(1)
    FluxGuidance().append(given, 2.0)
    assert "guidance" not in given[0][1]


def test_several_entries_act_by_their_mean(flux, model):
    start = noise(1, 16, 4, 4)
    mean = torch.stack([one_velocity(flux, start, conditioning(seed)[0]) for seed in (1, 2)]).mean(dim=0)
    made = ksampler(model, torch.zeros(1, 16, 4, 4), conditioning(1) + conditioning(2))
    torch.testing.assert_close(made, (start - mean) / SCALE + SHIFT, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- ControlNets


def a_controlnet(flux, layout):
    made = build_controlnet(flux, layout, 1, 1, seed=3).requires_grad_(False)
    torch.manual_seed(5)
    for name, parameter in made.named_parameters():
        if name.startswith(("controlnet_blocks", "controlnet_single_blocks", "input_hint_block", "controlnet_x_embedder")):
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return made


def called(network, hint, strength):
    def residuals(tokens, arguments, guidance):
        ids, *others = arguments
        return network(tokens, hint.expand(len(tokens), *hint.shape[1:]), ids, *others, guidance).scaled(strength)

    return residuals


@pytest.fixture(scope="module")
def hint_image():
    return torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(9))


def applied(host, network, layout, image, strength=0.7, start=0.0, end=1.0, vae=None):
    control_net = host.make_control_net(network.state_dict(), layout)
    return ControlNetApplyAdvanced().apply_controlnet(conditioning(1), conditioning(2), control_net, image, strength, start, end, vae)


def test_a_pixel_controlnet_acts_on_both_prompts(host, flux, model, hint_image):
    network = a_controlnet(flux, "xlabs")
    positive, negative = applied(host, network, "xlabs", hint_image)
    start = noise(2, 16, 4, 4)
    control = called(network, hint_image.movedim(-1, 1) * 2 - 1, 0.7)
    wanted, unwanted = (one_velocity(flux, start, conditioning(seed)[0], control=control) for seed in (1, 2))
    made = ksampler(model, torch.zeros(2, 16, 4, 4), positive, negative, cfg=3.0)
    torch.testing.assert_close(made, (start - (unwanted + 3.0 * (wanted - unwanted))) / SCALE + SHIFT, rtol=1e-3, atol=1e-3)
    plain = ksampler(model, torch.zeros(2, 16, 4, 4), cfg=3.0)
    assert not torch.allclose(made, plain, atol=1e-2)


class Averaging(nn.Module):
    """An autoencoder with known latents: 16 copies of the mean brightness of each 8 x 8 square."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def encode(self, pixels):
        return nn.functional.avg_pool2d(pixels.mean(dim=1, keepdim=True), 8).expand(-1, 16, -1, -1)

    def decode(self, latents):
        return nn.functional.interpolate(latents[:, :3], scale_factor=8) * 2


def test_a_latent_controlnet_gets_the_scaled_latent_of_its_hint(host, flux, model, hint_image):
    network, vae = a_controlnet(flux, "instantx"), host.make_vae(Averaging())
    positive, negative = applied(host, network, "instantx", hint_image, vae=vae)
    start = noise(1, 16, 4, 4)
    latent = (Averaging().encode(hint_image.movedim(-1, 1)) - SHIFT) * SCALE
    expected = start - one_velocity(flux, start, conditioning(1)[0], control=called(network, packed(latent), 0.7))
    made = ksampler(model, torch.zeros(1, 16, 4, 4), positive, negative)
    torch.testing.assert_close(made, expected / SCALE + SHIFT, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("start", "end", "acts"), [(0.0, 1.0, True), (0.5, 1.0, False), (0.0, 0.5, True)])
def test_start_and_end_are_shares_of_the_schedule(host, flux, model, hint_image, start, end, acts):
    """One step at t = 1: only a ControlNet that is active from the beginning is asked."""
    positive, negative = applied(host, a_controlnet(flux, "xlabs"), "xlabs", hint_image, start=start, end=end)
    made, plain = (ksampler(model, torch.zeros(1, 16, 4, 4), each, negative) for each in (positive, conditioning(1)))
    assert torch.equal(made, plain) is not acts


def test_strength_zero_is_no_controlnet(host, flux, hint_image):
    positive, negative = applied(host, a_controlnet(flux, "xlabs"), "xlabs", hint_image, strength=0)
    assert "control" not in positive[0][1] and "control" not in negative[0][1]


def test_a_latent_controlnet_without_a_vae_is_refused(host, flux, hint_image):
    with pytest.raises(InputError, match="Connect the VAE"):
        applied(host, a_controlnet(flux, "instantx"), "instantx", hint_image)


def test_a_second_controlnet_is_refused(host, flux, hint_image):
    positive, negative = applied(host, a_controlnet(flux, "xlabs"), "xlabs", hint_image)
    control_net = host.make_control_net({}, "xlabs")
    with pytest.raises(InputError, match="a second one"):
        ControlNetApplyAdvanced().apply_controlnet(positive, negative, control_net, hint_image, 1.0, 0.0, 1.0)


def test_hints_are_cropped_to_the_middle_and_scaled_to_the_nearest_pixel():
    wide = torch.arange(8.0).repeat(4, 1)[None, None]
    made = scaled_to_cover(wide, 8, 8)
    assert made[0, 0, 0].tolist() == [2, 2, 3, 3, 4, 4, 5, 5]
    tall = wide.transpose(2, 3)
    assert scaled_to_cover(tall, 2, 2)[0, 0].tolist() == [[3, 3], [5, 5]]


def test_a_pixel_hint_is_in_minus_one_to_one(host):
    control = AppliedControl(
        host.make_control_net({}, "xlabs"), torch.tensor([0.0, 1.0]).repeat(16, 8)[None, ..., None].expand(-1, -1, -1, 3), 1, 0, 1, None
    )
    made = hint_for(control, 2, 2, torch.device("cpu"))
    assert made.shape == (1, 3, 16, 16) and set(made.unique().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize(("have", "want", "rows"), [(1, 3, [0, 0, 0]), (2, 5, [0, 1, 0, 1, 0]), (4, 2, [0, 1])])
def test_batches_begin_again_from_the_first_row(have, want, rows):
    assert fitted_to_batch(torch.arange(have)[:, None], want)[:, 0].tolist() == rows


# ---------------------------------------------------------------- latents and text


def test_vae_nodes_crop_to_eights_and_keep_comfyui_s_layout(host):
    vae = host.make_vae(Averaging())
    pixels = torch.zeros(2, 20, 33, 3)
    pixels[:, 2:18, :32] = 0.5  # 20 -> 16 rows: two off each edge; 33 -> 32 columns: the last one goes
    [latent] = VaeEncode().encode(pixels, vae)
    assert latent["samples"].shape == (2, 16, 2, 4) and torch.equal(latent["samples"], torch.full((2, 16, 2, 4), 0.5))
    [picture] = VaeDecode().decode({"samples": torch.full((1, 16, 2, 4), 0.75)}, vae)
    assert picture.shape == (1, 16, 32, 3) and torch.equal(picture, torch.ones(1, 16, 32, 3))  # 1.5 is cut to 1


def test_empty_latents():
    [made] = EmptySd3LatentImage().generate(128, 64, 3)
    assert made["samples"].shape == (3, 16, 8, 16) and made["samples"].count_nonzero() == 0


def test_text_encode(host):
    class Encoder(nn.Module):
        def encode(self, texts):
            return torch.full((1, 5, 24), float(len(texts[0]))), torch.ones(1, 12)

    encode = partial(ClipTextEncode().encode, clip=host.make_clip(Encoder(), fingerprint="x"))
    [[[tokens, extras]]] = encode("abc")
    assert tokens.unique().tolist() == [3.0] and extras["pooled_output"].shape == (1, 12)
