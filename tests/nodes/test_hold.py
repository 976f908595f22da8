"""The base in 8 bits as the graph asks for it, without ComfyUI."""

from __future__ import annotations

import pytest
import torch
from graft.nodes.comfy_weights import _as_held
from graft.nodes.headless.host import HeadlessHost
from graft.nodes.headless.modules import flux_module
from graft.nodes.hold import HoldIn8Bit
from graft.nodes.host import current_host, use_host
from graft.training.errors import InputError
from graft.training.files.held import FORMS, Held, HeldWeights, requested_fingerprint
from graft.training.models.held_linear import HeldLinear
from graft.training.models.nano import load_nano

QKV = "double_blocks.0.img_attn.qkv.weight"


@pytest.fixture(autouse=True)
def host():
    with use_host(HeadlessHost()):
        yield


def nano():
    return current_host().make_model(load_nano().transformer, fingerprint="nano")


@pytest.mark.parametrize("form", FORMS)
def test_trainings_see_8_bits_and_another_base_while_the_sampler_goes_on_as_before(form: str):
    model = nano()
    (held,) = HoldIn8Bit().execute(model, form)
    weights, fingerprint = current_host().model_weights(held)
    assert isinstance(weights, HeldWeights) and weights.stored[QKV].stored.dtype == FORMS[form]
    assert fingerprint == current_host().model_fingerprint(held) == requested_fingerprint("nano", form) != "nano"
    assert current_host().model_weights(model)[0] is load_nano().transformer and current_host().model_fingerprint(model) == "nano"
    assert not any(isinstance(module, HeldLinear) for module in flux_module(held, torch.device("cpu")).modules())


def test_a_lora_on_it_is_held_too():
    (held,) = HoldIn8Bit().execute(nano(), "int8")
    delta = {"diffusion_model.double_blocks.0.img_attn.qkv.diff": torch.full((768, 256), 0.5)}
    changed = current_host().apply_lora(held, delta, 1.0)
    assert changed.form == "int8" and isinstance(current_host().model_weights(changed)[0].stored[QKV], Held)


def test_another_form_is_refused():
    with pytest.raises(InputError, match="8-bit form"):
        HoldIn8Bit().execute(nano(), "nf4")


class Layer(torch.nn.Linear):
    """As v0.3.64 holds scaled fp8."""

    def convert_weight(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.scale_weight


def net(layer: torch.nn.Linear) -> torch.nn.Module:
    layer.weight = torch.nn.Parameter(layer.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    return torch.nn.ModuleDict({"double_blocks": layer})


def test_what_comfyui_holds_in_8_bits_is_known_by_its_scale():
    scaled, plain, strange = Layer(4, 3), torch.nn.Linear(4, 3), Layer(4, 3)
    scaled.scale_weight = torch.nn.Parameter(torch.tensor(0.25), requires_grad=False)
    strange.scale_weight = None
    found = [_as_held(net(layer), "double_blocks.weight", layer.weight) for layer in (scaled, plain, strange)]
    assert torch.equal(found[0].numbers(), (scaled.weight.float() * 0.25).bfloat16()) and found[0].stored.data_ptr() == scaled.weight.data_ptr()
    assert torch.equal(found[1].numbers(), plain.weight.bfloat16())
    assert found[2] is None and _as_held(net(plain), "double_blocks.weight", torch.zeros(3, 4)) is None


class QuantizedTensor(torch.Tensor):
    """As newer ComfyUIs hold theirs."""


def quantised(layout: str, **told: object) -> torch.Tensor:
    weight = torch.zeros(3, 4).as_subclass(QuantizedTensor)
    weight._qdata, weight._layout_cls = torch.full((3, 4), 2, dtype=torch.int8), layout
    weight._params = type("Params", (), {"scale": torch.tensor([[1.0], [2.0], [3.0]]), **told})()
    return weight


def test_newer_forms_are_known_by_their_layout():
    known = _as_held(torch.nn.Module(), "double_blocks.weight", quantised("TensorWiseINT8Layout"))
    assert known is not None and known.numbers()[:, 0].tolist() == [2.0, 4.0, 6.0]
    layout = "TensorWiseINT8Layout"
    for other in (quantised("TensorCoreMXFP8Layout"), quantised(layout, convrot=True), quantised(layout, scale=torch.ones(2, 2))):
        assert _as_held(torch.nn.Module(), "double_blocks.weight", other) is None
