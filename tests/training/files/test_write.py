from __future__ import annotations

import errno
import os
import shutil

import pytest
import torch
from graft.training.errors import InputError
from graft.training.files.tensors import TORCH_DTYPES, read_tensors
from graft.training.files.write import (
    PART_BEGINNING,
    replaced_when_complete,
    require_free_space,
    require_writable_folder,
    write_bytes,
    write_json,
    write_safetensors,
)
from safetensors import safe_open
from safetensors.torch import load_file


def every_dtype() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 255, (48,), generator=generator, dtype=torch.uint8)
    result = {name: raw.clone().view(dtype) for name, dtype in TORCH_DTYPES.items() if name not in ("BOOL", "F8_E8M0")}
    return result | {"BOOL": torch.tensor([True, False, True]), "scalar": torch.tensor(1.5), "empty": torch.empty(0, 4)}


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def test_the_reference_library_reads_what_we_write(tmp_path):
    tensors = {name: tensor for name, tensor in every_dtype().items() if "FNUZ" not in name}
    write_safetensors(tmp_path / "x.safetensors", tensors, {"a": "b"})
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys() and all(same(found[name], tensors[name]) for name in tensors)
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == {"a": "b"}


def test_round_trip_of_every_dtype(tmp_path):
    tensors = every_dtype()
    write_safetensors(tmp_path / "ü.safetensors", tensors)
    found = read_tensors(tmp_path / "ü.safetensors")
    assert found.keys() == tensors.keys() and all(same(found[name], tensors[name]) for name in tensors)
    assert list(read_tensors(tmp_path / "ü.safetensors", ["I8"])) == ["I8"]


def test_tensors_of_any_stride_are_stored_in_row_order(tmp_path):
    tensor = torch.arange(12.0).reshape(3, 4)
    write_safetensors(tmp_path / "x.safetensors", {"t": tensor.t(), "part": tensor[:, 1:3], "p": torch.nn.Parameter(tensor)})
    found = load_file(tmp_path / "x.safetensors")
    assert torch.equal(found["t"], tensor.t()) and torch.equal(found["part"], tensor[:, 1:3]) and torch.equal(found["p"], tensor)


def test_equal_content_gives_equal_bytes_whatever_the_order(tmp_path):
    a, b = torch.randn(3), torch.randn(4)
    write_safetensors(tmp_path / "1", {"a": a, "b": b}, {"x": "1", "y": "2"})
    write_safetensors(tmp_path / "2", {"b": b, "a": a}, {"y": "2", "x": "1"})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_missing_names_are_all_told(tmp_path):
    write_safetensors(tmp_path / "x", {"a": torch.zeros(1)})
    with pytest.raises(InputError, match="named b, c"):
        read_tensors(tmp_path / "x", ["a", "b", "c"])


def test_a_dtype_that_safetensors_lacks_is_refused(tmp_path):
    with pytest.raises(InputError, match="complex128"):
        write_safetensors(tmp_path / "x", {"a": torch.zeros(1, dtype=torch.complex128)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_nothing_changes_when_the_block_fails(tmp_path, error):
    path = tmp_path / "x.json"
    write_json(path, {"old": "ü"})
    with pytest.raises(type(error)), replaced_when_complete(path) as aside:
        aside.write_text("half")
        raise error
    assert path.read_text(encoding="utf-8") == '{\n  "old": "ü"\n}\n'
    assert [child.name for child in tmp_path.iterdir()] == ["x.json"]


def test_until_the_block_ends_the_old_file_stays(tmp_path):
    path = tmp_path / "deep" / "x.png"
    write_bytes(path, b"old")
    with replaced_when_complete(path) as aside:
        aside.write_bytes(b"new")
        assert path.read_bytes() == b"old" and aside.parent == path.parent and aside.suffix == ".png"
        assert aside.name.startswith(PART_BEGINNING)
    assert path.read_bytes() == b"new" and len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "room on the disk"), (errno.EACCES, "can be written"), (errno.EROFS, "can be written")]
)
def test_a_full_or_closed_disk_is_explained_and_leaves_nothing(tmp_path, monkeypatch, number, said):
    def fail(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match=said):
        write_safetensors(tmp_path / "x.safetensors", {"a": torch.zeros(3)})
    assert not list(tmp_path.iterdir())


def test_other_errors_of_the_system_pass_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError), replaced_when_complete(tmp_path / "x"):
        (tmp_path / "another").read_bytes()


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="can be written"):
        write_bytes(tmp_path / "file" / "x", b"")
    with pytest.raises(InputError, match="a folder"):
        require_writable_folder(tmp_path / "file" / "deeper", "output")


def test_require_writable_folder_leaves_no_trace(tmp_path):
    assert require_writable_folder(tmp_path / "a" / "b", "output") == tmp_path / "a" / "b"
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def refuse(self, data):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "write_bytes", refuse)
    with pytest.raises(InputError, match=r"output folder: .*Permission denied"):
        require_writable_folder(tmp_path / "new", "output folder")


def test_require_free_space(tmp_path, monkeypatch):
    require_free_space(tmp_path / "not" / "yet", 1000, "output")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**10, 10**10, 5 * 10**8))
    with pytest.raises(InputError, match=r"1\.00 GB free.*500 MB"):
        require_free_space(tmp_path, 10**9, "output")
