"""Both ControlNet layouts against diffusers' FluxControlNetModel; how one is built and read."""

from __future__ import annotations

import pytest
import torch
from graft.training.errors import InputError
from graft.training.files.controlnet_names import to_diffusers_names
from graft.training.models.flux import Flux, FluxConfig
from graft.training.models.flux_controlnet import CONTROLNETS, FluxControlNet, build_controlnet, controlnet_from_weights

AXES = (8, 12, 12)


def _random_controlnet(base: Flux, layout: str, double: int, single: int, randomise) -> FluxControlNet:
    module = build_controlnet(base, layout, double, single, seed=0)
    randomise(module, 5)
    return module


def _residuals(control) -> dict[str, torch.Tensor]:
    return {f"{kind} {i}": r for kind in ("double", "single") for i, r in enumerate(getattr(control, kind))}


@pytest.mark.parametrize("guidance", [True, False], ids=["dev", "schnell"])
@pytest.mark.parametrize(("layout", "double", "single"), [("xlabs", 2, 0), ("xlabs", 1, 2), ("instantx", 1, 0), ("instantx", 3, 2)])
def test_outputs_and_gradients_equal_diffusers(
    layout, double, single, guidance, random_flux, randomise, inputs, hint, diffusers_controlnet, diffusers_inputs, assert_close, gradients
) -> None:
    module = _random_controlnet(random_flux(guidance=guidance), layout, double, single, randomise)
    reference = diffusers_controlnet(module)
    given, picture = inputs(module.config), hint(module).requires_grad_()

    control = module(hint=picture, **given)
    ours = _residuals(control)
    sum((r * torch.linspace(-1, 1, r.numel()).view_as(r)).sum() for r in ours.values()).backward()
    found = {**ours, **to_diffusers_names(gradients(module), layout), "hint": picture.grad}

    picture.grad = None
    samples = reference(controlnet_cond=picture, **diffusers_inputs(given, module.config))
    theirs = {f"double {i}": r for i, r in enumerate(samples.controlnet_block_samples)}
    theirs |= {f"single {i}": r for i, r in enumerate(samples.controlnet_single_block_samples or ())}
    sum((r * torch.linspace(-1, 1, r.numel()).view_as(r)).sum() for r in theirs.values()).backward()
    assert_close(found, {**theirs, **gradients(reference), "hint": picture.grad})
    assert control.rule == ("modulo" if layout == "xlabs" else "interval")


@pytest.mark.parametrize(("layout", "double", "single"), [("xlabs", 2, 0), ("instantx", 2, 2)])
def test_base_with_controlnet_equals_diffusers(
    layout,
    double,
    single,
    random_flux,
    randomise,
    inputs,
    hint,
    diffusers_flux,
    diffusers_controlnet,
    diffusers_inputs,
    assert_close,
    gradients,
) -> None:
    """The way a training step goes: through the frozen base into the ControlNet."""
    base = random_flux().requires_grad_(False)
    module = _random_controlnet(base, layout, double, single, randomise)
    given, picture = inputs(base.config), hint(module)
    output = base(**given, control=module(hint=picture, **given))
    output.square().mean().backward()

    model, reference = diffusers_flux(base).requires_grad_(False), diffusers_controlnet(module)
    common = diffusers_inputs(given, base.config)
    samples = reference(controlnet_cond=picture, **common)
    expected = model(
        **common,
        controlnet_block_samples=samples.controlnet_block_samples,
        controlnet_single_block_samples=samples.controlnet_single_block_samples,
        controlnet_blocks_repeat=layout == "xlabs",
    ).sample
    expected.square().mean().backward()
    found = to_diffusers_names(gradients(module), layout)
    assert_close({"output": output, **found}, {"output": expected, **gradients(reference)})


@pytest.mark.parametrize("layout", ["xlabs", "instantx"])
def test_a_fresh_network_changes_no_bit_of_its_base(layout, random_flux, inputs, hint) -> None:
    base = random_flux()
    module = build_controlnet(base, layout, 2, 2, seed=0)
    given = inputs(base.config)
    with torch.no_grad():
        control = module(hint=hint(module), **given)
        assert len(control.double) == len(control.single) == 2
        assert torch.equal(base(**given, control=control), base(**given))


def test_built_from_copies_zeros_and_seeded_layers(random_flux) -> None:
    base = random_flux().bfloat16()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    module, same, other = (build_controlnet(base, "xlabs", 2, 1, seed) for seed in (3, 3, 4))
    state = module.state_dict()
    copied = {name for name in state if name in before}
    assert {name.split(".")[0] for name in copied} == {
        "img_in", "txt_in", "time_in", "vector_in", "guidance_in", "double_blocks", "single_blocks",
    }  # fmt: skip
    assert all(torch.equal(state[name], before[name].float()) for name in copied)
    zero = {name for name, tensor in state.items() if not tensor.any()}
    outputs = ("controlnet_blocks.0", "controlnet_blocks.1", "controlnet_single_blocks.0", "input_hint_block.14")
    assert zero == {f"{layer}.{kind}" for layer in outputs for kind in ("weight", "bias")} | {f"input_hint_block.{i}.bias" for i in range(0, 14, 2)}
    assert all(torch.equal(tensor, same.state_dict()[name]) for name, tensor in state.items())
    changed = {name for name, tensor in state.items() if not torch.equal(tensor, other.state_dict()[name])}
    assert changed == state.keys() - copied - zero and len(changed) == 9
    with torch.no_grad():
        for parameter in module.parameters():
            assert parameter.dtype == torch.float32 and parameter.requires_grad
            parameter.add_(1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())


def test_random_linear_layers_have_the_spread_of_torch_defaults(random_flux) -> None:
    torch.manual_seed(0)
    weight, layer = build_controlnet(random_flux(), "xlabs", 1, 0, seed=0).state_dict()["pos_embed_input.weight"], torch.nn.Linear(64, 64)
    assert weight.std().item() == pytest.approx(layer.weight.std().item(), rel=0.1)
    assert weight.abs().max().item() == pytest.approx(layer.weight.abs().max().item(), rel=0.02)


def test_a_hint_passes_the_convolutions_without_fading(random_flux) -> None:
    """Before the last convolution, which is zero, edges still stand out; torch's own first values would leave a hundredth of that."""
    edges = -torch.ones(1, 3, 64, 64)
    edges[:, :, 20:44, 32] = edges[:, :, 32, 20:44] = 1
    sizes = []
    for seed in range(4):
        hint_block = build_controlnet(random_flux(), "xlabs", 1, 0, seed=seed).input_hint_block
        with torch.no_grad():
            sizes.append(hint_block[:-1](edges).std(dim=(2, 3)).max().item())
    assert min(sizes) > 0.1, sizes


def test_built_under_inference_mode_can_still_be_trained(random_flux, inputs, hint) -> None:
    """ComfyUI runs every node under inference mode, and the base's tensors come from there."""
    with torch.inference_mode():
        base = random_flux()
        module = build_controlnet(base, "instantx", 1, 0, seed=0)
    assert not any(parameter.is_inference() for parameter in module.parameters())


def test_instantx_starts_with_a_hint_embedder_of_zero(random_flux) -> None:
    state = build_controlnet(random_flux(), "instantx", 1, 0, seed=0).state_dict()
    assert not any(tensor.any() for name, tensor in state.items() if name.startswith(("controlnet_x_embedder", "controlnet_blocks")))


def test_impossible_layouts_and_depths_are_refused(random_flux) -> None:
    with pytest.raises(InputError, match="xlabs or instantx"):
        build_controlnet(random_flux(), "union", 2, 0, seed=0)
    with pytest.raises(InputError, match="depth"):
        build_controlnet(random_flux(double_depth=5), "instantx", 4, 0, seed=0)
    with pytest.raises(InputError, match="InstantX layout for this base"):
        build_controlnet(random_flux(in_channels=32), "xlabs", 2, 0, seed=0)
    assert build_controlnet(random_flux(in_channels=32), "instantx", 1, 0, seed=0).notes == ()
    assert "ComfyUI" in build_controlnet(random_flux(), "instantx", 3, 0, seed=0).notes[0]


@pytest.mark.parametrize("layout", ["xlabs", "instantx"])
@pytest.mark.parametrize("names", ["own", "diffusers"])
def test_reads_its_own_and_diffusers_names(layout, names, random_flux, randomise) -> None:
    module = _random_controlnet(random_flux(), layout, 2, 2, randomise)
    weights = module.state_dict() if names == "own" else to_diffusers_names(module.state_dict(), layout)
    read = controlnet_from_weights(weights, AXES)
    assert read.layout == layout and read.config == module.config
    assert all(torch.equal(tensor, read.state_dict()[name]) for name, tensor in module.state_dict().items())
    assert not any(parameter.requires_grad for parameter in read.parameters())


@pytest.mark.parametrize("layout", ["xlabs", "instantx"])
@pytest.mark.parametrize("names", ["own", "diffusers"])
def test_lists_every_missing_and_unexpected_tensor(layout, names, random_flux) -> None:
    module = build_controlnet(random_flux(), layout, 2, 0, seed=0)
    weights = dict(module.state_dict()) if names == "own" else to_diffusers_names(module.state_dict(), layout)
    del weights["controlnet_blocks.1.bias"]
    weights["extra.one"] = weights["extra.two"] = torch.zeros(1)
    with pytest.raises(InputError) as caught:
        controlnet_from_weights(weights, AXES)
    for text in ("missing controlnet_blocks.1.bias", "unexpected extra.one", "unexpected extra.two"):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ("controlnet_mode_embedder.weight", "Union"),
        ("controlnet_blocks.0.linear.weight", "Mistoline"),
    ],
)
def test_other_flux_controlnets_are_recognised_and_refused(added, said, random_flux) -> None:
    weights = to_diffusers_names(build_controlnet(random_flux(), "instantx", 1, 0, seed=0).state_dict(), "instantx")
    with pytest.raises(InputError, match=said):
        controlnet_from_weights({**weights, added: torch.zeros(2, 64)}, AXES)


def test_other_files_are_refused_by_what_they_are(random_flux) -> None:
    with pytest.raises(InputError, match="a FLUX transformer"):
        controlnet_from_weights(random_flux().state_dict(), AXES)
    with pytest.raises(InputError, match=r"SD1\.5 or SDXL"):
        controlnet_from_weights({"controlnet_cond_embedding.conv_in.weight": torch.zeros(1)})
    with pytest.raises(InputError, match="other tensors"):
        controlnet_from_weights({})


def test_parts_that_do_not_fit_together_are_named(random_flux) -> None:
    weights = to_diffusers_names(build_controlnet(random_flux(), "instantx", 1, 0, seed=0).state_dict(), "instantx")
    weights["transformer_blocks.0.attn.to_k.weight"] = torch.zeros(64, 7)
    with pytest.raises(InputError, match=r"double_blocks\.0\.img_attn\.qkv\.weight"):
        controlnet_from_weights(weights, AXES)


def test_a_hint_of_another_size_is_refused(random_flux, inputs) -> None:
    base = random_flux()
    given = inputs(base.config)
    xlabs, instantx = (build_controlnet(base, layout, 1, 0, seed=0) for layout in ("xlabs", "instantx"))
    with pytest.raises(InputError, match="multiples of 16 pixels"):
        xlabs(hint=torch.zeros(2, 3, 64, 90), **given)
    with pytest.raises(InputError, match="24 tokens"):
        xlabs(hint=torch.zeros(2, 3, 64, 80), **given)
    with pytest.raises(InputError, match="24 tokens"):
        instantx(hint=torch.zeros(2, 20, 64), **given)


@pytest.mark.parametrize(("layout", "single"), [("xlabs", 0), ("instantx", 2)])
def test_checkpointing_gives_the_same_gradients(layout, single, random_flux, randomise, inputs, hint, gradients) -> None:
    module = _random_controlnet(random_flux(), layout, 2, single, randomise)
    given, results = inputs(module.config), []
    for module.checkpointing in (False, True):
        module.zero_grad()
        sum(r.square().sum() for r in _residuals(module(hint=hint(module), **given)).values()).backward()
        results.append({name: grad.clone() for name, grad in gradients(module).items()})
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def _flux_dev(double: int, single: int) -> FluxConfig:
    return FluxConfig(
        hidden_size=3072, head_dim=128, double_depth=double, single_depth=single, in_channels=64, context_width=4096, vector_width=768,
        mlp_width=12288, guidance=True,
    )  # fmt: skip


@pytest.mark.parametrize(("layout", "single", "size"), [("xlabs", 0, 0.744e9), ("instantx", 4, None)])
def test_names_and_shapes_at_full_size_are_those_of_published_files(layout, single, size) -> None:
    with torch.device("meta"):
        module = CONTROLNETS[layout](_flux_dev(2, single))
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    expected = {
        "txt_in.weight": (3072, 4096),
        "guidance_in.in_layer.weight": (3072, 256),
        "vector_in.in_layer.weight": (3072, 768),
        "double_blocks.1.txt_mod.lin.weight": (18432, 3072),
        "double_blocks.1.img_attn.qkv.weight": (9216, 3072),
        "double_blocks.1.img_attn.norm.key_norm.scale": (128,),
        "double_blocks.1.txt_mlp.2.weight": (3072, 12288),
        "controlnet_blocks.1.weight": (3072, 3072),
    }
    if layout == "xlabs":
        expected |= {"pos_embed_input.weight": (3072, 64), "input_hint_block.0.weight": (16, 3, 3, 3)}
        expected |= {f"input_hint_block.{index}.weight": (16, 16, 3, 3) for index in range(2, 15, 2)}
        strides = [layer.stride[0] for layer in module.input_hint_block if hasattr(layer, "stride")]
        assert strides == [1, 1, 2, 1, 2, 1, 2, 1]  # halved at 4, 8 and 12
    else:
        expected |= {"controlnet_x_embedder.weight": (3072, 64), "controlnet_single_blocks.3.weight": (3072, 3072)}
        expected |= {"single_blocks.3.linear2.weight": (3072, 15360)}
    assert {name: shapes[name] for name in expected} == expected
    if size is not None:
        assert sum(parameter.numel() for parameter in module.parameters()) == pytest.approx(size, rel=1e-3)
