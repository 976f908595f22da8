"""What of a ControlNet learns, how it begins, and what is refused."""

from __future__ import annotations

import pytest
import torch
from graft.training.errors import InputError
from graft.training.files.write import write_safetensors
from graft.training.models.flux import image_ids, pack, text_ids, unpack
from graft.training.trainable.base import Conditions
from graft.training.trainable.controlnet import ControlNetRecipe, trainable_parameters
from graft.training.trainable.controlnet_export import exported_tensors

SHAPES = [("xlabs", 2, 0), ("xlabs", 1, 0), ("xlabs", 2, 1), ("instantx", 2, 0), ("instantx", 1, 2)]


def _loss(trainable, base, batch) -> torch.Tensor:
    target = torch.linspace(-1, 1, batch["x_t"].numel()).view_as(batch["x_t"])
    return (trainable.predict(base, **batch) - target).square().mean()


@pytest.mark.parametrize(("layout", "double", "single"), SHAPES)
def test_every_trainable_parameter_has_a_gradient_and_no_other(layout, double, single, base, batch, randomise) -> None:
    trainable = ControlNetRecipe(layout=layout, double_depth=double, single_depth=single).build(base)
    randomise(trainable.module)
    _loss(trainable, base, batch(layout)).backward()
    names = set(trainable_parameters(trainable.module))
    for name, parameter in trainable.module.named_parameters():
        assert parameter.requires_grad == (name in names)
        assert (parameter.grad is not None and bool(parameter.grad.any())) == (name in names), name
    assert not any(parameter.grad is not None for parameter in base.parameters())


@pytest.mark.parametrize(("layout", "double", "single"), SHAPES)
def test_from_the_zero_start_everything_learns_within_three_steps(layout, double, single, base, batch) -> None:
    trainable = ControlNetRecipe(layout=layout, double_depth=double, single_depth=single).build(base)
    before = {name: tensor.clone() for name, tensor in trainable.module.state_dict().items()}
    names = set(trainable_parameters(trainable.module))
    parameters = [p for p in trainable.module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)
    for _ in range(3):
        optimiser.zero_grad()
        _loss(trainable, base, batch(layout)).backward()
        optimiser.step()
    assert all(bool(parameter.grad.any()) for parameter in parameters)
    changed = {name for name, tensor in trainable.module.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == names


def test_what_cannot_learn_without_single_blocks(base, batch, randomise) -> None:
    """formats.md: six tensors have no gradient; the text query norm's is zero, and so are rows of the fused layers, which hold others too."""
    trainable = ControlNetRecipe(layout="xlabs", double_depth=2, single_depth=0).build(base)
    randomise(trainable.module)
    trainable.module.requires_grad_(True)
    _loss(trainable, base, batch("xlabs")).backward()
    gradients = {name: parameter.grad for name, parameter in trainable.module.named_parameters()}
    without = {name for name, grad in gradients.items() if grad is None}
    last = "double_blocks.1."
    assert without == {f"{last}{layer}.{kind}" for layer in ("txt_attn.proj", "txt_mlp.0", "txt_mlp.2") for kind in ("weight", "bias")}
    zero = {name for name, grad in gradients.items() if grad is not None and not grad.any()}
    assert zero == {f"{last}txt_attn.norm.query_norm.scale"}
    assert without | zero == gradients.keys() - set(trainable_parameters(trainable.module))

    width = base.config.hidden_size
    rows = gradients[f"{last}txt_attn.qkv.weight"].abs().sum(1) > 0
    assert not rows[:width].any() and rows[width:].all()
    rows = gradients[f"{last}txt_mod.lin.weight"].abs().sum(1) > 0  # shift and scale before the attention learn, the other four do not
    assert rows[: 2 * width].all() and not rows[2 * width :].any()


def test_with_single_blocks_everything_is_trainable(base) -> None:
    module = ControlNetRecipe(layout="instantx", double_depth=2, single_depth=1).build(base).module
    assert set(trainable_parameters(module)) == {name for name, _ in module.named_parameters()}


def test_fresh_prediction_is_the_base_and_follows_the_residuals(base, batch, randomise) -> None:
    trainable = ControlNetRecipe(layout="xlabs", double_depth=2).build(base)
    given = batch("xlabs")
    conditions, places, words = given["conditions"], image_ids(8, 12), text_ids(5)
    arguments = (places, conditions.text, words, given["t"], conditions.pooled, given["guidance"])
    with torch.no_grad():
        plain = unpack(base(pack(given["x_t"]), *arguments), 8, 12)
        assert torch.equal(trainable.predict(base, **given), plain)
        randomise(trainable.module)
        control = trainable.module(pack(given["x_t"]), conditions.hint, *arguments)
        expected = unpack(base(pack(given["x_t"]), *arguments, control), 8, 12)
        assert torch.equal(trainable.predict(base, **given), expected)
        assert not torch.equal(expected, plain)


def test_a_fresh_trainable_shares_nothing_with_the_base_or_another(base) -> None:
    recipe = ControlNetRecipe(layout="xlabs", double_depth=2)
    first, second = recipe.build(base).module, recipe.build(base).module
    pointers = [{tensor.data_ptr() for tensor in model.state_dict().values()} for model in (base, first, second)]
    assert not pointers[0] & pointers[1] and not pointers[1] & pointers[2]
    assert all(tensor.dtype == torch.float32 for tensor in first.state_dict().values())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layout": "union"}, "xlabs or instantx"),
        ({"double_depth": -1}, "double_depth"),
        ({"single_depth": -2}, "single_depth"),
        ({"seed": -1}, "seed"),
    ],
)
def test_absurd_recipes_are_refused_at_once(changes, said) -> None:
    with pytest.raises(InputError, match=said):
        ControlNetRecipe(**changes)


def test_bases_and_data_that_cannot_serve_are_refused(base, batch) -> None:
    with pytest.raises(InputError, match="FLUX transformer"):
        ControlNetRecipe().build(torch.nn.Linear(1, 1))
    with pytest.raises(InputError, match="depth"):
        ControlNetRecipe(double_depth=4).build(base)
    given = batch("xlabs")
    given["conditions"] = Conditions(text=given["conditions"].text, pooled=given["conditions"].pooled)
    with pytest.raises(InputError, match="a hint for each picture"):
        ControlNetRecipe().build(base).predict(base, **given)


# ---------------------------------------------------------------- going on from a file


def _saved(path, base, randomise, layout="xlabs", double=2, single=0) -> dict[str, torch.Tensor]:
    module = ControlNetRecipe(layout=layout, double_depth=double, single_depth=single).build(base).module
    randomise(module)
    weights, metadata, _ = exported_tensors(module, layout)
    write_safetensors(path, weights, metadata)
    return {name: tensor.bfloat16().float() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize(("layout", "single"), [("xlabs", 0), ("instantx", 2)])
def test_goes_on_from_a_file(layout, single, base, tmp_path, randomise) -> None:
    path = tmp_path / "net.safetensors"
    expected = _saved(path, base, randomise, layout, 1, single)
    module = ControlNetRecipe(layout=layout, double_depth=1, single_depth=single, from_file=path).build(base).module
    assert all(torch.equal(tensor, expected[name]) for name, tensor in module.state_dict().items())
    assert {n for n, p in module.named_parameters() if p.requires_grad} == set(trainable_parameters(module))


def test_the_key_follows_seed_and_file_but_not_the_files_place(base, tmp_path, randomise) -> None:
    first, second, other = (tmp_path / f"{name}.safetensors" for name in ("first", "second", "other"))
    _saved(first, base, randomise)
    second.write_bytes(first.read_bytes())
    _saved(other, base, lambda module: None)
    keys = [ControlNetRecipe(from_file=path).key_fields() for path in (first, second, other)]
    assert keys[0] == keys[1] != keys[2]
    assert ControlNetRecipe(seed=1).key_fields() != ControlNetRecipe(seed=2).key_fields()
    assert ControlNetRecipe(double_depth=1).key_fields() != ControlNetRecipe().key_fields()


def test_files_that_do_not_fit_are_refused(base, make_base, tmp_path, randomise) -> None:
    path = tmp_path / "net.safetensors"
    _saved(path, base, randomise)
    for recipe in (ControlNetRecipe(layout="instantx", from_file=path), ControlNetRecipe(double_depth=1, from_file=path)):
        with pytest.raises(InputError, match="layout xlabs with 2 double and 0 single blocks"):
            recipe.build(base)
    with pytest.raises(InputError, match="context_width 24 instead of 32; vector_width 20 instead of 16"):
        ControlNetRecipe(from_file=path).build(make_base(context_width=32, vector_width=16))
    with pytest.raises(InputError, match="guidance embedding, which the base lacks"):
        ControlNetRecipe(from_file=path).build(make_base(guidance=False))
    with pytest.raises(InputError, match="depth"):
        ControlNetRecipe(from_file=path).build(make_base(double_depth=1))


def test_a_network_without_guidance_may_serve_a_base_with_it(base, make_base, tmp_path, randomise, batch) -> None:
    path = tmp_path / "net.safetensors"
    _saved(path, make_base(guidance=False), randomise)
    trainable = ControlNetRecipe(from_file=path).build(base)
    assert torch.isfinite(_loss(trainable, base, batch("xlabs")))


def test_a_file_with_values_that_are_not_finite_is_refused(base, tmp_path, randomise) -> None:
    path = tmp_path / "net.safetensors"
    weights = _saved(path, base, randomise)
    weights["txt_in.bias"][0], weights["pos_embed_input.bias"][1] = float("nan"), float("inf")
    write_safetensors(path, weights)
    with pytest.raises(InputError, match=r"pos_embed_input\.bias, txt_in\.bias|txt_in\.bias, pos_embed_input\.bias"):
        ControlNetRecipe(from_file=path).build(base)
