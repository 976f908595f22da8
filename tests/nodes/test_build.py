"""Build ControlNet refuses before a training what could not be exported after it."""

from __future__ import annotations

import pytest
import torch
from graft.nodes.build import BuildControlNet
from graft.nodes.headless.host import HeadlessHost
from graft.nodes.host import use_host
from graft.training.errors import InputError
from graft.training.models.flux import Flux, FluxConfig


def built(mlp_width: int, layout: str):
    config = FluxConfig(
        hidden_size=128, head_dim=128, double_depth=1, single_depth=1, in_channels=64, context_width=8, vector_width=8, mlp_width=mlp_width,
        guidance=True, axes=(16, 56, 56),
    )  # fmt: skip
    with torch.device("meta"):
        weights = Flux(config).state_dict()
    host = HeadlessHost()
    with use_host(host):
        return BuildControlNet().execute(host.make_model(weights, fingerprint="made up"), layout, 1, 0, 0)


def test_a_layout_that_no_reader_could_size_is_refused():
    with pytest.raises(InputError, match=r"4 times the hidden width.*found 384 at a hidden width of 128"):
        built(384, "instantx")
    assert built(512, "instantx")[0].layout == "instantx" and built(384, "xlabs")[0].layout == "xlabs"
