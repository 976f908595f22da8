from __future__ import annotations

import json
import time

import pytest
import torch
from graft.training.errors import InputError
from graft.training.files.header import printable, read_header
from safetensors import safe_open
from safetensors.torch import save_file


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_reads_what_the_reference_library_wrote(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.zeros(5, dtype=torch.bfloat16), "c": torch.tensor(7), "empty": torch.empty(0, 3),
               "mask": torch.ones(3, dtype=torch.bool), "f8": torch.zeros(2, 2).to(torch.float8_e4m3fn)}  # fmt: skip
    save_file(tensors, tmp_path / "x.safetensors", metadata={"who": "me", "ü": "ö"})
    header = read_header(tmp_path / "x.safetensors")
    assert {name: info.shape for name, info in header.tensors.items()} == {name: tuple(t.shape) for name, t in tensors.items()}
    assert header.metadata == {"who": "me", "ü": "ö"}
    assert {name: info.dtype for name, info in header.tensors.items()} == {
        "a": "F32", "b": "BF16", "c": "I64", "empty": "F32", "mask": "BOOL", "f8": "F8_E4M3"}  # fmt: skip
    raw = (tmp_path / "x.safetensors").read_bytes()
    info = header.tensors["a"]
    assert raw[header.data_start + info.start : header.data_start + info.end] == tensors["a"].numpy().tobytes()


HOSTILE = {
    "offsets overlap": ({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12, "overlaps"),
    "same bytes twice": ({"a": entry(), "b": entry()}, b"\0" * 8, "overlaps"),
    "gap": ({"a": entry(), "b": entry(offsets=(12, 20))}, b"\0" * 20, "gap"),
    "gap at the start": ({"a": entry(offsets=(4, 12))}, b"\0" * 12, "gap"),
    "truncated": ({"a": entry()}, b"\0" * 7, "cut off"),
    "more data than named": ({"a": entry()}, b"\0" * 9, "no tensor names"),
    "offsets backwards": ({"a": entry(offsets=(8, 0))}, b"\0" * 8, "offsets that match"),
    "offsets too short": ({"a": entry(offsets=(0, 4))}, b"\0" * 4, "offsets that match"),
    "huge shape": ({"a": entry(shape=(2**40, 2**40))}, b"\0" * 8, "offsets that match"),
    "negative shape": ({"a": entry(shape=(-2,))}, b"\0" * 8, "whole numbers"),
    "shape beyond 64 bits": ({"a": entry(shape=(2**70,))}, b"\0" * 8, "whole numbers"),
    "shape of booleans": ({"a": entry(shape=(True, 2))}, b"\0" * 8, "whole numbers"),
    "shape of fractions": ({"a": entry(shape=(2.0,))}, b"\0" * 8, "whole numbers"),
    "three offsets": ({"a": entry(offsets=(0, 8, 8))}, b"\0" * 8, "whole numbers"),
    "unknown dtype": ({"a": entry(dtype="F13")}, b"\0" * 8, "known dtype"),
    "dtype is a list": ({"a": entry(dtype=["F32"])}, b"\0" * 8, "known dtype"),
    "half bytes": ({"a": entry(dtype="F4", shape=(3,), offsets=(0, 2))}, b"\0" * 2, "offsets that match"),
    "missing field": ({"a": {"dtype": "F32", "shape": [2]}}, b"\0" * 8, "data_offsets"),
    "entry is no object": ({"a": 3}, b"", "data_offsets"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, b"", "text to text"),
    "metadata is a list": ({"__metadata__": []}, b"", "text to text"),
    "half a character": (b'{"\\ud800": {"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', b"", "Unicode"),
    "a name twice": (b"{" + b",".join([b'"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'] * 2) + b"}", b"", "twice"),
    "no JSON": (b"{nonsense", b"", "cannot be read"),
    "no UTF-8": (b'{"\xff\xfe": 1}', b"", "cannot be read"),
    "no object": (b"[1, 2, 3]", b"", "JSON header"),
    "endless nesting": (b'{"a":' + b"[" * 200_000, b"", "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_refuses_hostile_headers(raw_file, case):
    header, data, said = HOSTILE[case]
    path = raw_file(header, data)
    with pytest.raises(InputError, match=said) as caught:
        read_header(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("length", "said"), [(2**63, "at most"), (200_000_000, "at most"), (1000, "fits"), (0, "fits"), (1, "fits")])
def test_refuses_bad_header_lengths_without_reading_them(raw_file, length, said):
    with pytest.raises(InputError, match=said):
        read_header(raw_file({"a": entry()}, b"\0" * 8, length=length))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "8 bytes of length"), (b"1234567", "8 bytes of length"), (b"PK\x03\x04" + b"\0" * 100, "pickle"),
        (b"\x80\x02}q\x00." + b"\0" * 100, "pickle"), (b"GGUF\x03\0\0\0" + b"\0" * 50, "GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"), (b"<!DOCTYPE html><html>" + b" " * 80, "web page"),
    ],
)  # fmt: skip
def test_names_files_of_other_formats(tmp_path, content, said):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_header(path)


def test_a_pickle_is_refused_and_never_loaded(tmp_path):
    path, trace = tmp_path / "model.ckpt", tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(trace)!r}, 'w').close()",))

    torch.save({"a": Evil()}, path)
    with pytest.raises(InputError, match="never loaded"):
        read_header(path)
    assert not trace.exists()


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580, 0x10280])
def test_a_header_whose_length_begins_like_a_pickle_is_none(raw_file, length):
    header = {"a": entry(), "__metadata__": {"filling": ""}}
    header["__metadata__"]["filling"] = "x" * (length - len(json.dumps(header)))
    path = raw_file(header, b"\0" * 8)
    assert path.read_bytes()[:8] == length.to_bytes(8, "little") and list(read_header(path).tensors) == ["a"]


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_header(tmp_path / "none.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"a folder.*e\.g\. model\.safetensors"):
        read_header(tmp_path)


def test_a_file_without_tensors_is_fine(raw_file):
    assert read_header(raw_file({})).tensors == {}


def test_every_file_that_we_refuse_as_damaged_the_reference_library_refuses_too(raw_file):
    for case, (header, data, _) in HOSTILE.items():
        if case in ("endless nesting", "a name twice"):  # the library takes the last of two
            continue
        path = raw_file(header, data, name=f"{case}.safetensors")
        with pytest.raises(Exception), safe_open(path, framework="pt") as file:  # noqa: B017 (any of its errors)
            list(file.keys())


def test_a_header_of_a_24_gb_file_is_read_in_well_under_a_second(hollow_file):
    path = hollow_file({f"blocks.{index}.weight": ("BF16", (12288, 3072)) for index in range(320)})
    assert path.stat().st_size > 24e9
    start = time.process_time()
    assert len(read_header(path).tensors) == 320
    assert time.process_time() - start < 0.5


def test_names_are_made_safe_to_print():
    assert printable("a\x1b[31mb\n") == "a?[31mb?"
    assert len(printable("x" * 10_000)) < 300
    assert json.dumps(printable("ü")) == '"\\u00fc"'
