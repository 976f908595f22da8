"""Train Steps as a citizen of its host: memory is asked for and given back, the store keeps within its size, pictures reach the bar."""

from __future__ import annotations

import io
import sys
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from graft.nodes import train
from graft.nodes.host import use_host
from graft.nodes.train import GraphBase, TrainSteps
from graft.training.catalogue import catalogue
from graft.training.errors import InputError
from graft.training.listener import NO_LISTENER
from graft.training.models.flux import Flux, FluxConfig
from graft.training.progress import NO_PROGRESS, Viewer
from graft.training.store import RunStore
from PIL import Image

CONFIG = FluxConfig(
    hidden_size=128, head_dim=128, double_depth=1, single_depth=0, in_channels=64, context_width=4, vector_width=4, mlp_width=8, guidance=False
)  # fmt: skip


class CountingHost:
    """A host whose MODEL moves whenever memory is freed, as ComfyUI's does."""

    def __init__(self, folder: Any) -> None:
        self.folder, self.freed = folder, 0
        self.weights = dict(Flux(CONFIG).state_dict())

    def model_weights(self, model: Any) -> tuple[Any, str]:
        return self.weights, "f" * 64

    def model_fingerprint(self, model: Any) -> str:
        return "f" * 64

    def model_name(self, model: Any) -> str:
        return "mine.safetensors"

    def free_memory(self) -> None:
        self.freed += 1
        self.weights = {name: tensor.clone() for name, tensor in self.weights.items()}

    def device(self) -> torch.device:
        return torch.device("cpu")

    def progress(self) -> Any:
        return NO_PROGRESS

    def event_sender(self) -> None: ...

    def cache_folder(self):
        return self.folder / "cache"

    def runs_folder(self) -> Any:
        return self.folder / "runs"

    def workflow_name(self) -> str:
        return "my cats"


@pytest.fixture
def host(tmp_path) -> CountingHost:
    return CountingHost(tmp_path)


def test_memory_is_freed_around_a_training_only(host):
    with GraphBase(host, "MODEL") as base:
        assert base.fingerprint == "f" * 64
    assert host.freed == 0  # found on the disk: other nodes' models stay where they are
    with GraphBase(host, "MODEL") as base:
        assert base.model is base.model and host.freed == 1
    assert host.freed == 2


def test_the_weights_are_those_after_freeing(host):
    before = weakref.ref(host.weights["img_in.weight"])
    with GraphBase(host, "MODEL") as base:
        assert base.model.img_in.weight.data_ptr() == host.weights["img_in.weight"].data_ptr()
        assert before() is None  # what lay on the device is held by nobody


def test_an_interrupted_training_holds_nothing(host):
    class Interrupt(BaseException): ...

    seen = []

    def training(base: GraphBase) -> None:
        activations = base.model.img_in.weight * 2
        seen.append(weakref.ref(activations))
        raise Interrupt

    with pytest.raises(Interrupt) as caught, GraphBase(host, "MODEL") as base:
        training(base)
    assert caught.value.__traceback__ is not None and seen[0]() is None and host.freed == 2


def execute(host: Any, **inputs: Any) -> Any:
    with use_host(host):
        return TrainSteps().execute(model="MODEL", trainable=None, data=None, settings=None, steps=1, **inputs)


def test_the_store_keeps_within_its_size(host, monkeypatch):
    state = SimpleNamespace(step=1, history=lambda: SimpleNamespace(steps=()))
    monkeypatch.setattr(train, "train_to", lambda *_, **__: state)
    old = host.folder / "runs" / "old"
    old.mkdir(parents=True)
    (old / "run.json").write_text("{}")
    monkeypatch.setenv("GRAFT_STORE_LIMIT", "1GB")
    execute(host)
    assert old.is_dir()
    monkeypatch.setenv("GRAFT_STORE_LIMIT", "0.001KB")
    assert execute(host) == (state, {"loss": []}, 1) and not old.is_dir()


def test_a_run_notes_the_name_of_the_workflow_that_began_it(host, monkeypatch):
    def began(*_: Any, store: Any, **__: Any) -> Any:
        store.run("a" * 64).describe({"run_key": "a" * 64})
        return SimpleNamespace(step=1, history=lambda: SimpleNamespace(steps=()))

    monkeypatch.setattr(train, "train_to", began)
    execute(host)
    (entry,) = catalogue(RunStore(host.runs_folder()))
    assert entry.workflow == "my cats"


def test_a_wrong_limit_is_told_before_anything_is_trained(host, monkeypatch):
    monkeypatch.setattr(train, "train_to", lambda *_, **__: pytest.fail("it was trained"))
    monkeypatch.setenv("GRAFT_STORE_LIMIT", "plenty")
    with pytest.raises(InputError, match="GRAFT_STORE_LIMIT"):
        execute(host)


def test_tensorboard_is_written_beside_the_runs_where_it_is_wanted(host, monkeypatch):
    state, made, heard = SimpleNamespace(step=1, history=lambda: SimpleNamespace(steps=()), folder=host.folder / "runs" / "one"), [], []
    monkeypatch.setattr(train, "train_to", lambda *_, listener, **__: (heard.append(listener.wishes()), state)[1])
    monkeypatch.setattr(train, "TensorBoardLog", lambda folder: (made.append(folder), NO_LISTENER)[1])
    execute(host)
    assert made == []
    execute(host, tensorboard=True)
    assert made == [host.folder / "tensorboard"] and heard == [set(), set()]


def test_pictures_are_shown_on_the_nodes_bar(monkeypatch):
    from graft.nodes.comfy_progress import ComfyProgress

    sent: list[Any] = []

    class Bar:
        def __init__(self, total: int, node_id: Any) -> None: ...

        def update_absolute(self, value: int, preview: Any = None) -> None:
            sent.append((value, preview))

    monkeypatch.setitem(sys.modules, "comfy", SimpleNamespace(utils=SimpleNamespace(ProgressBar=Bar)))
    monkeypatch.setitem(sys.modules, "comfy.utils", SimpleNamespace(ProgressBar=Bar))
    progress = ComfyProgress()
    assert isinstance(progress, Viewer) and not isinstance(NO_PROGRESS, Viewer)
    progress.start(10, "step")
    progress.advance(4)
    progress.show([])
    progress.show([jpeg((8, 4), "red"), jpeg((8, 4), "blue"), jpeg((8, 4), "lime")])
    (_, nothing), (value, (kind, picture, side_px)) = sent
    assert nothing is None and value == 4 and kind == "JPEG" and side_px >= 256 and picture.size == (16, 8)
    assert picture.getpixel((1, 1))[0] > 200 and picture.getpixel((12, 1))[2] > 200 and picture.getpixel((1, 6))[1] > 200
    progress.bar_only()
    progress.advance(5)
    progress.show([jpeg((8, 4), "red")])
    assert sent[2:] == [(5, None)]


def jpeg(size: tuple[int, int], colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "JPEG")
    return file.getvalue()


def test_regularisation_pictures_are_handed_on_unless_they_count_nothing(host, monkeypatch):
    seen = []
    state = SimpleNamespace(step=1, history=lambda: SimpleNamespace(steps=()))
    monkeypatch.setattr(train, "train_to", lambda *_, regularisation, **__: seen.append(regularisation) or state)
    data = SimpleNamespace(key="k")
    for inputs in ({}, {"regularisation": data, "regularisation_weight": 0.0}, {"regularisation": data, "regularisation_weight": 0.5}):
        execute(host, **inputs)
    assert seen[:2] == [None, None] and (seen[2].data, seen[2].weight) == (data, 0.5)
