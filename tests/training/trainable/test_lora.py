"""A LoRA in training: peft's own arithmetic, its first values, its dropout, its layers; and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from graft.training.errors import InputError
from graft.training.models.flux import Flux, image_ids, pack, text_ids, unpack
from graft.training.trainable.lora import LoraRecipe
from graft.training.trainable.lora_layers import chosen_layers
from graft.training.weights import own_module
from peft import LoraConfig, inject_adapter_in_model

ATTENTION = r".*(_attn\.(qkv|proj)|linear1)"
EVERYTHING = r".*(_attn\.(qkv|proj)|_mlp\.[02]|linear[12]|\.lin|img_in|txt_in|(in|out)_layer|final_layer\.linear|adaLN_modulation\.1)"


def loss_of(velocity: torch.Tensor) -> torch.Tensor:
    return (velocity - torch.linspace(-1, 1, velocity.numel()).view_as(velocity)).square().mean()


def shapes_of(model: Flux) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def spread(module: torch.nn.Module) -> None:
    """Gives the adapters values other than their first ones."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = 0.1 * torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise) if "magnitude" in name else parameter.copy_(noise)


def by_peft(base: Flux, targets: str, values: dict[str, torch.Tensor], **settings) -> Flux:
    """The reference: peft's own configuration, told nothing of alphas and patterns by us, with the same values."""
    model = inject_adapter_in_model(LoraConfig(target_modules=targets, **settings), copy.deepcopy(base))
    theirs = {name.replace(".default", ""): parameter for name, parameter in model.named_parameters() if "lora_" in name}
    assert theirs.keys() == {name for name in values if not name.endswith(".alpha")}
    with torch.no_grad():
        for name, parameter in theirs.items():
            parameter.copy_(values[name])
    return model


CASES = {
    "plain": ({"layers": "attention"}, {"target_modules": ATTENTION}),
    "scaled": ({"layers": "attention", "alpha": 12.0}, {"target_modules": ATTENTION, "lora_alpha": 12.0}),
    "rslora": ({"layers": "attention", "rslora": True}, {"target_modules": ATTENTION, "lora_alpha": 8.0, "use_rslora": True}),
    "dora": ({"layers": "attention", "dora": True, "alpha": 3.0}, {"target_modules": ATTENTION, "lora_alpha": 3.0, "use_dora": True}),
    "everything": ({"layers": "all_linears"}, {"target_modules": EVERYTHING}),
}


@pytest.mark.parametrize("case", CASES)
def test_forward_and_gradients_are_peft_s_own(case, base, batch) -> None:
    ours, theirs = CASES[case]
    given, mine = batch("xlabs"), own_module(base)
    trainable = LoraRecipe(rank=8, guidance=2.5, **{"alpha": 8.0, **ours}).build(mine)
    spread(trainable.module)
    settings = {"r": 8, "lora_alpha": 8.0, **theirs}
    reference = by_peft(base, settings.pop("target_modules"), trainable.module.state_dict(), **settings)
    velocity = trainable.predict(mine, **given)
    conditions = given["conditions"]
    expected = unpack(
        reference(pack(given["x_t"]), image_ids(8, 12), conditions.text, text_ids(5), given["t"], conditions.pooled, torch.full((2,), 2.5)), 8, 12
    )
    assert torch.allclose(velocity, expected, rtol=1e-5, atol=1e-6) and not torch.allclose(velocity, base_velocity(base, given), atol=1e-3)
    loss_of(velocity).backward()
    loss_of(expected).backward()
    gradients = {name.replace(".default", ""): parameter.grad for name, parameter in reference.named_parameters() if "lora_" in name}
    for name, parameter in trainable.module.named_parameters():
        assert parameter.grad.abs().max() > 0, name
        assert (parameter.grad - gradients[name]).abs().max() <= 1e-5 * gradients[name].abs().max(), name
    assert not any(parameter.grad is not None for parameter in mine.parameters() if not parameter.requires_grad)


def base_velocity(base: Flux, given: dict) -> torch.Tensor:
    conditions = given["conditions"]
    with torch.no_grad():
        arguments = (image_ids(8, 12), conditions.text, text_ids(5), given["t"], conditions.pooled, torch.full((2,), 2.5))
        return unpack(base(pack(given["x_t"]), *arguments), 8, 12)


@pytest.mark.parametrize("dora", [False, True])
def test_it_begins_as_the_base_and_leaves_the_given_one_alone(dora, base, batch) -> None:
    given, mine, names = batch("xlabs"), own_module(base), list(base.state_dict())
    trainable = LoraRecipe(rank=4, dora=dora, guidance=2.5).build(mine)
    with torch.no_grad():
        assert torch.allclose(trainable.predict(mine, **given), base_velocity(base, given), atol=1e-6)
    assert list(base.state_dict()) == names


def test_first_values_follow_from_seed_and_layer_alone(base) -> None:
    def first(**changes) -> dict[str, torch.Tensor]:
        return LoraRecipe(rank=4, **changes).build(own_module(base)).module.state_dict()

    torch.manual_seed(1)
    all_blocks = first(seed=3)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    one_block = first(seed=3, blocks="single_blocks.2")
    assert torch.equal(torch.get_rng_state(), state), "the program's own random numbers are not touched"
    assert len(one_block) == 6 and all(torch.equal(all_blocks[name], tensor) for name, tensor in one_block.items())
    assert not torch.equal(first(seed=4)["single_blocks.2.linear1.lora_A.weight"], one_block["single_blocks.2.linear1.lora_A.weight"])
    down = all_blocks["single_blocks.2.linear1.lora_A.weight"]
    assert down.std() == pytest.approx(128**-0.5 / 3**0.5, rel=0.1) and down.abs().max() <= 128**-0.5
    assert not all_blocks["single_blocks.2.linear1.lora_B.weight"].any() and all_blocks["single_blocks.2.linear1.alpha"] == 16


def test_dropout_follows_from_each_picture_s_seed(base, batch) -> None:
    given, mine = batch("xlabs"), own_module(base)
    trainable = LoraRecipe(rank=4, dropout=0.5).build(mine)
    spread(trainable.module)

    def velocity(seeds, rows=slice(None)) -> torch.Tensor:
        conditions = given["conditions"]
        part = replace(conditions, text=conditions.text[rows], pooled=conditions.pooled[rows], seeds=seeds)
        with torch.no_grad():
            return trainable.predict(mine, given["x_t"][rows], given["t"][rows], part, given["guidance"][rows])

    both = velocity((11, 12))
    assert torch.equal(both, velocity((11, 12))) and not torch.allclose(both, velocity((11, 13)), atol=1e-4)
    assert torch.allclose(both[1:], velocity((12,), slice(1, 2)), atol=1e-5), "it does not depend on how samples are cut into batches"
    measured = velocity(None)
    assert torch.equal(measured, velocity(None)) and not torch.allclose(measured, both, atol=1e-4)


def test_gradient_checkpointing_drops_the_same(base, batch) -> None:
    given, gradients = batch("xlabs"), []
    for checkpointing in (False, True):
        mine = own_module(base)
        mine.checkpointing = checkpointing
        trainable = LoraRecipe(rank=4, dropout=0.3).build(mine)
        spread(trainable.module)
        loss_of(trainable.predict(mine, **{**given, "conditions": replace(given["conditions"], seeds=(3, 4))})).backward()
        gradients.append({name: parameter.grad for name, parameter in trainable.module.named_parameters()})
    assert all(torch.equal(gradients[0][name], gradient) for name, gradient in gradients[1].items())


# ---------------------------------------------------------------- layers and size


def test_presets_and_patterns_choose_layers(base) -> None:
    shapes = shapes_of(base)  # 3 double and 4 single blocks
    attention, with_mlp, everything = (chosen_layers(shapes, preset) for preset in ("attention", "attention_mlp", "all_linears"))
    assert (len(attention), len(with_mlp)) == (3 * 4 + 4, 3 * 8 + 4 * 2)
    assert set(everything) == {name.removesuffix(".weight") for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)}
    assert chosen_layers(shapes, "attention_mlp", "single_blocks.1, single_blocks.3") == [
        "single_blocks.1.linear1", "single_blocks.1.linear2", "single_blocks.3.linear1", "single_blocks.3.linear2",
    ]  # fmt: skip
    assert chosen_layers(shapes, "attention", "double_blocks.0-1.img_attn") == [
        f"double_blocks.{block}.img_attn.{layer}" for block in (0, 1) for layer in ("qkv", "proj")
    ]
    assert chosen_layers(shapes, "attention", "double_blocks.*.txt_attn.proj") == [f"double_blocks.{block}.txt_attn.proj" for block in range(3)]


def test_single_blocks_7_does_not_mean_70() -> None:
    shapes = {f"single_blocks.{block}.linear1.weight": (9, 3) for block in (7, 70)}
    assert chosen_layers(shapes, "attention", "single_blocks.7") == ["single_blocks.7.linear1"]


def test_layers_that_nothing_uses_are_left_out(make_base, batch) -> None:
    base = make_base(single_depth=0)
    assert "double_blocks.2.txt_mlp.0" not in chosen_layers(shapes_of(base), "all_linears")
    assert "double_blocks.1.txt_mlp.0" in chosen_layers(shapes_of(base), "all_linears")
    trainable = LoraRecipe(rank=2, layers="all_linears").build(base)
    loss_of(trainable.predict(base, **batch("xlabs"))).backward()
    assert all(parameter.grad is not None for parameter in trainable.module.parameters())


@pytest.mark.parametrize("dora", [False, True])
def test_the_size_told_before_is_the_size_afterwards(dora, base) -> None:
    recipe = LoraRecipe(rank=5, layers="all_linears", dora=dora)
    module = recipe.build(own_module(base)).module
    told, _ = recipe.described(shapes_of(base))
    assert told.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert told.file_bytes == 2 * told.parameters + 4 * told.layers and f"{told.parameters:,} parameters" in told.in_words()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rank": 0}, "LoRA rank"), ({"rank": 5000}, "LoRA rank"), ({"alpha": 0.0}, "LoRA alpha"), ({"alpha": float("nan")}, "LoRA alpha"),
        ({"dropout": 1.0}, "LoRA dropout"), ({"guidance": -1.0}, "LoRA guidance"), ({"seed": -1}, "LoRA seed"), ({"layers": "some"}, "LoRA layers"),
    ],
)  # fmt: skip
def test_absurd_recipes_are_refused_at_once(changes, said) -> None:
    with pytest.raises(InputError, match=said):
        LoraRecipe(**changes)


def test_what_cannot_serve_is_refused(base) -> None:
    with pytest.raises(InputError, match="FLUX transformer"):
        LoraRecipe().build(torch.nn.Linear(1, 1))
    with pytest.raises(InputError, match=r"single_blocks\.9, double_blocks\.0-2\.norm, which no layer"):
        LoraRecipe(blocks="single_blocks.1, single_blocks.9, double_blocks.0-2.norm").build(base)


def test_the_key_follows_everything_that_changes_numbers() -> None:
    keys = [LoraRecipe(**changes).key_fields() for changes in (
        {}, {"rank": 8}, {"alpha": 8.0}, {"layers": "attention"}, {"blocks": "single_blocks.0"}, {"dropout": 0.1}, {"rslora": True}, {"dora": True},
        {"guidance": 3.5}, {"seed": 1},
    )]  # fmt: skip
    assert all(left != right for index, left in enumerate(keys) for right in keys[:index])
    assert LoraRecipe().hint_form == "none"
