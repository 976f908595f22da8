"""LoRA files of all formats: round trips, what other trainers write, and diffusers as the judge of what the files mean."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from graft.training.errors import InputError
from graft.training.files.header import read_header
from graft.training.files.identify import identify
from graft.training.files.lora_adapters import Adapter, effective_alpha
from graft.training.files.lora_apply import with_lora
from graft.training.files.lora_names import FORMATS, named_tensors
from graft.training.files.lora_read import lora_from_tensors, read_lora
from graft.training.files.names import flux_to_diffusers
from graft.training.files.write import write_safetensors
from graft.training.models.flux import Flux, FluxConfig, image_ids, text_ids

WIDTH, RANK = 64, 4


def make_flux(width: int = WIDTH, depth: tuple[int, int] = (2, 2), head_dim: int = 32, axes: tuple[int, ...] = (8, 12, 12)) -> Flux:
    config = FluxConfig(
        hidden_size=width, head_dim=head_dim, double_depth=depth[0], single_depth=depth[1], in_channels=64, context_width=24, vector_width=20,
        mlp_width=4 * width, guidance=True, axes=axes,
    )  # fmt: skip
    model, generator = Flux(config), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.2 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator) + (1.0 if name.endswith("scale") else 0.0))
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def flux() -> Flux:
    return make_flux()


def shapes_of(model: Flux) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def make_adapters(model: Flux, alpha: float = RANK, dora: bool = False, only: str = "") -> dict[str, Adapter]:
    """One for every linear layer, with values that BF16 holds exactly."""
    generator, adapters = torch.Generator().manual_seed(2), {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.startswith(only):
            down = torch.randn(RANK, module.in_features, generator=generator).mul(0.2).bfloat16().float()
            up = torch.randn(module.out_features, RANK, generator=generator).mul(0.2).bfloat16().float()
            lengths = module.weight.norm(dim=1) * (1 + 0.3 * torch.rand(module.out_features, generator=generator))
            adapters[name] = Adapter(down, up, alpha, lengths.bfloat16().float() if dora else None)
    return adapters


def assert_same(found: dict[str, Adapter], expected: dict[str, Adapter]) -> None:
    assert list(found) == list(expected)
    for layer, adapter in expected.items():
        assert torch.equal(found[layer].down.float(), adapter.down) and torch.equal(found[layer].up.float(), adapter.up), layer
        assert found[layer].alpha == adapter.alpha, layer


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("format", FORMATS)
def test_a_round_trip_is_exact(format, dtype, flux, tmp_path):
    adapters = make_adapters(flux)
    write_safetensors(tmp_path / "lora.safetensors", named_tensors(adapters, format, dtype))
    read = read_lora(tmp_path / "lora.safetensors", shapes_of(flux))
    assert_same(read.adapters, adapters)
    assert read.notes == ()


@pytest.mark.parametrize("format", FORMATS)
def test_with_alpha_a_round_trip_is_exact_or_within_one_rounding(format, flux):
    adapters = make_adapters(flux, alpha=effective_alpha(3.0, RANK, rslora=True))
    found = lora_from_tensors(named_tensors(adapters, format, torch.bfloat16), shapes_of(flux), "file").adapters
    if format != "diffusers":
        return assert_same(found, adapters)
    for layer, adapter in adapters.items():
        wanted = adapter.up * 1.5  # 3 / sqrt(4), multiplied in and rounded to 8 bits
        assert found[layer].scale == 1 and torch.equal(found[layer].down.float(), adapter.down)
        assert ((found[layer].up.float() - wanted).abs() <= 2**-8 * wanted.abs()).all(), layer


def test_a_dora_for_diffusers_comes_back_and_is_recognised(flux, tmp_path):
    adapters = make_adapters(flux, dora=True)
    write_safetensors(tmp_path / "dora.safetensors", named_tensors(adapters, "diffusers", torch.bfloat16))
    found = read_lora(tmp_path / "dora.safetensors", shapes_of(flux)).adapters
    assert_same(found, adapters)
    assert all(torch.equal(found[layer].magnitude.float(), adapter.magnitude) for layer, adapter in adapters.items())
    recognised = identify(read_header(tmp_path / "dora.safetensors"))
    assert (recognised.kind, recognised.layout, recognised.variant) == ("lora", "PEFT / diffusers", "LoRA with DoRA scales")


# ---------------------------------------------------------------- what other trainers write


def split_parts(model: Flux, seed: int, parts: tuple[str, ...], alphas: dict[str, float] | None = None) -> dict[str, torch.Tensor]:
    """A diffusers trainer's file: own adapters, of ranks 2, 3, 4, for queries, keys and values of one block."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for rank, part in enumerate(parts, start=2):
        name = f"transformer.single_transformer_blocks.1.attn.{part}"
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, WIDTH, generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(WIDTH, rank, generator=generator)
        if alphas:
            tensors[f"{name}.alpha"] = torch.tensor(alphas[part])
    return tensors


@pytest.mark.parametrize("alphas", [None, {"to_q": 2.0, "to_k": 3.0, "to_v": 4.0}, {"to_q": 1.0, "to_k": 6.0, "to_v": 4.0}])
def test_separate_adapters_become_one_of_summed_rank(alphas, flux):
    tensors = split_parts(flux, 3, ("to_q", "to_k", "to_v"), alphas)
    read = lora_from_tensors(tensors, shapes_of(flux), "file")
    adapter = read.adapters["single_blocks.1.linear1"]
    expected = torch.zeros(7 * WIDTH, WIDTH)
    for row, (rank, part) in enumerate(zip((2, 3, 4), ("to_q", "to_k", "to_v"), strict=True)):
        name = f"transformer.single_transformer_blocks.1.attn.{part}"
        product = tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
        expected[row * WIDTH : (row + 1) * WIDTH] = product * ((alphas[part] / rank) if alphas else 1.0)
    assert adapter.rank == 9 and torch.allclose(adapter.scale * adapter.product(), expected, rtol=1e-5, atol=1e-5)
    assert len(read.notes) == 1 and "summed rank (9)" in read.notes[0]


def test_a_missing_part_changes_nothing(flux):
    adapter = lora_from_tensors(split_parts(flux, 3, ("to_q", "to_v")), shapes_of(flux), "file").adapters["single_blocks.1.linear1"]
    changed = adapter.product().abs().sum(dim=1) > 0
    assert changed.tolist() == [True] * WIDTH + [False] * WIDTH + [True] * WIDTH + [False] * 4 * WIDTH and adapter.rank == 5


@pytest.mark.parametrize(
    ("name", "kind", "layer"),
    [
        ("lora_unet_double_blocks_1_img_mlp_0", ".lora_{}.weight", "double_blocks.1.img_mlp.0"),
        ("base_model.model.double_blocks.1.img_mlp.0", ".lora_{}.weight", "double_blocks.1.img_mlp.0"),
        ("diffusion_model.single_blocks.0.linear2", ".lora_{}.default.weight", "single_blocks.0.linear2"),
        ("lora_transformer_transformer_blocks_1_ff_net_0_proj", ".lora_{}.weight", "double_blocks.1.img_mlp.0"),
        ("transformer.time_text_embed.guidance_embedder.linear_1", ".lora.{}.weight", "guidance_in.in_layer"),
    ],
)
def test_names_of_many_trainers_are_known(name, kind, layer, flux):
    rows, columns = shapes_of(flux)[f"{layer}.weight"]
    down, up = ("A", "B") if "default" in kind else ("down", "up")
    tensors = {name + kind.format(down): torch.ones(2, columns), name + kind.format(up): torch.ones(rows, 2)}
    found = lora_from_tensors(tensors, shapes_of(flux), "file").adapters
    assert list(found) == [layer] and found[layer].scale == 1


def test_text_encoders_adapters_are_left_out_and_said(flux):
    tensors = named_tensors(make_adapters(flux, only="single_blocks.0"), "kohya", torch.float32)
    read = lora_from_tensors({**tensors, "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha": torch.tensor(1.0)}, shapes_of(flux), "file")
    assert len(read.adapters) == 3 and read.notes == ("1 tensors for text encoders were left out: only the transformer is trained here.",)


def test_alphas_in_diffusers_header_count(flux):
    tensors = named_tensors(make_adapters(flux, only="single_blocks.0"), "diffusers", torch.float32)
    metadata = {"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"single_transformer_blocks.0.proj_out": 1}}
    found = lora_from_tensors(tensors, shapes_of(flux), "file", {"lora_adapter_metadata": json.dumps(metadata)}).adapters
    assert {layer: adapter.scale for layer, adapter in found.items()} == {
        "single_blocks.0.modulation.lin": 2.0, "single_blocks.0.linear1": 2.0, "single_blocks.0.linear2": 0.25,
    }  # fmt: skip
    assert lora_from_tensors(tensors, shapes_of(flux), "file", {"lora_adapter_metadata": "{damaged"}).adapters["single_blocks.0.linear1"].scale == 1


def broken(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Flux], dict[str, torch.Tensor]]:
    def make(model: Flux) -> dict[str, torch.Tensor]:
        tensors = named_tensors(make_adapters(model, only="single_blocks.0"), "kohya", torch.float32)
        change(tensors)
        return tensors

    return make


FIRST = "lora_unet_single_blocks_0_linear2"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (broken(lambda tensors: tensors.clear()), "no adapters of the transformer"),
        (broken(lambda tensors: tensors.pop(f"{FIRST}.lora_up.weight")), f"no up matrix of {FIRST}"),
        (broken(lambda tensors: tensors.update({f"{FIRST}.lora_up.weight": torch.ones(64, 3)})), "rank 4 and rank 3"),
        (broken(lambda tensors: tensors.update({f"{FIRST}.lora_up.weight": torch.ones(63, 4)})), r"\(63, 320\) instead of \(64, 320\)"),
        (broken(lambda tensors: tensors[f"{FIRST}.lora_up.weight"].fill_(torch.nan)), "infinite values or NaN"),
        (broken(lambda tensors: tensors.update({"lora_unet_single_blocks_2_linear2.alpha": torch.tensor(1.0)})), "single_blocks_2_linear2"),
        (broken(lambda tensors: tensors.update({f"{FIRST}.hada_w1_a": torch.ones(1)})), "a LoHa"),
        (broken(lambda tensors: tensors.update({f"{FIRST}.dora_scale": torch.ones(1)})), "another rule than peft's"),
        (lambda model: {**named_tensors(make_adapters(model), "kohya", torch.float32), **split_parts(model, 1, ("to_q",))}, "more than once"),
    ],
)  # fmt: skip
def test_what_is_no_lora_of_this_transformer_is_refused(make, said, flux):
    with pytest.raises(InputError, match=said):
        lora_from_tensors(make(flux), shapes_of(flux), "file")


def test_dora_on_some_parts_of_a_layer_is_refused(flux):
    tensors = split_parts(flux, 1, ("to_q", "to_k"))
    tensors["transformer.single_transformer_blocks.1.attn.to_q.lora_magnitude_vector"] = torch.ones(WIDTH)
    with pytest.raises(InputError, match="DoRA on some of them"):
        lora_from_tensors(tensors, shapes_of(flux), "file")


# ---------------------------------------------------------------- diffusers as the judge


def inputs_for(config: FluxConfig) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return {
        "image": torch.randn(2, 24, 64, generator=generator), "image_ids": image_ids(8, 12), "text": torch.randn(2, 5, 24, generator=generator),
        "text_ids": text_ids(5), "t": torch.tensor([0.31, 0.87]), "pooled": torch.randn(2, 20, generator=generator),
        "guidance": torch.tensor([3.5, 1.0]),
    }  # fmt: skip


def in_diffusers(model: Flux, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """The velocity by diffusers' own transformer with the LoRA loaded by diffusers' own loader."""
    from diffusers import FluxTransformer2DModel
    from diffusers.loaders import FluxLoraLoaderMixin

    config = model.config
    theirs = FluxTransformer2DModel(
        in_channels=64, num_layers=config.double_depth, num_single_layers=config.single_depth, attention_head_dim=config.head_dim,
        num_attention_heads=config.heads, joint_attention_dim=24, pooled_projection_dim=20, guidance_embeds=True, axes_dims_rope=config.axes,
    )  # fmt: skip
    theirs.load_state_dict({name: tensor.clone() for name, tensor in flux_to_diffusers(model.state_dict()).items()})
    state_dict, alphas, metadata = FluxLoraLoaderMixin.lora_state_dict(dict(tensors), return_alphas=True, return_lora_metadata=True)
    FluxLoraLoaderMixin.load_lora_into_transformer(state_dict, alphas, theirs, adapter_name="x", metadata=metadata)
    given = inputs_for(config)
    with torch.no_grad():
        return theirs(
            hidden_states=given["image"], encoder_hidden_states=given["text"], pooled_projections=given["pooled"], timestep=given["t"],
            guidance=given["guidance"], img_ids=given["image_ids"], txt_ids=given["text_ids"],
        ).sample  # fmt: skip


def ours(model: Flux, changed: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return Flux.from_weights(changed, model.config.axes)(**inputs_for(model.config))


def differs(left: torch.Tensor, right: torch.Tensor) -> float:
    return ((left - right).abs().max() / right.abs().max()).item()


@pytest.mark.parametrize("dora", [False, True])
def test_diffusers_gives_what_we_give(dora, flux):
    adapters = make_adapters(flux, alpha=2.5, dora=dora)
    theirs = in_diffusers(flux, named_tensors(adapters, "diffusers", torch.float32))
    weights = flux.state_dict()
    expected = ours(flux, {**weights, **{f"{layer}.weight": adapter.changed(weights[f"{layer}.weight"]) for layer, adapter in adapters.items()}})
    assert differs(theirs, expected) < 1e-5 < 1e-2 < differs(expected, ours(flux, weights))


@pytest.mark.slow
def test_diffusers_reads_kohya_names_at_full_width():
    """Its converter takes FLUX.1's own width for granted, so only a model of that width can show it: 1 + 1 blocks of 3072."""
    model = make_flux(3072, (1, 1), 128, (16, 56, 56))
    adapters = make_adapters(model, alpha=2.5, only="double_blocks") | make_adapters(model, alpha=2.5, only="single_blocks")
    tensors = named_tensors(adapters, "kohya", torch.float32)
    expected = ours(model, with_lora(model.state_dict(), tensors, 1.0))
    theirs = in_diffusers(model, tensors)
    assert differs(theirs, expected) < 1e-5 < 1e-2 < differs(expected, ours(model, model.state_dict()))
