"""Memory of batches: used again when nothing refers to it any more, and never before."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from graft.training.data import pages
from graft.training.data.pages import LARGE_BYTES, PIECES, Pieces, fresh

SIZE = 1000


def test_a_piece_comes_back_when_its_tensor_is_gone():
    pieces = Pieces()
    first = pieces.take(SIZE)
    place = first.data_ptr()
    assert pieces.free_bytes == 0 and pieces.take(SIZE).data_ptr() != place
    del first
    gc.collect()
    assert pieces.free_bytes == 2 * SIZE
    taken = [pieces.take(SIZE), pieces.take(SIZE)]
    assert place in [tensor.data_ptr() for tensor in taken] and pieces.free_bytes == 0


def test_a_view_of_it_keeps_it_lent():
    pieces = Pieces()
    view = pieces.take(SIZE).view(torch.float32)[10:20].view(2, 5).unsqueeze(0).expand(3, -1, -1)
    gc.collect()
    assert pieces.free_bytes == 0
    view = view[:, 1]
    gc.collect()
    assert pieces.free_bytes == 0
    del view
    gc.collect()
    assert pieces.free_bytes == SIZE


def test_what_a_graph_of_gradients_needs_is_not_taken_away():
    pieces = Pieces()
    weight = torch.ones(4, requires_grad=True)
    data = pieces.take(16).view(torch.float32).fill_(3.0)
    loss = (weight * data).sum()
    del data
    gc.collect()
    pieces.take(16).view(torch.float32).fill_(-1.0)
    loss.backward()
    assert weight.grad is not None and weight.grad.tolist() == [3.0] * 4


def test_no_more_is_kept_than_allowed_and_other_sizes_do_not_fit():
    pieces = Pieces(kept_bytes=2500)
    lent = [pieces.take(size) for size in (1000, 1000, 1000, 400)]
    places = [tensor.data_ptr() for tensor in lent]
    while lent:
        del lent[0]
        gc.collect()
    assert pieces.free_bytes == 2400, "the first went"
    assert pieces.take(400).data_ptr() == places[3] and pieces.take(999).data_ptr() not in places
    pieces.release()
    assert pieces.free_bytes == 0


def test_threads_never_hold_the_same_piece_at_once():
    pieces, wrong = Pieces(), []

    def work(number: int) -> None:
        for _ in range(200):
            tensor = pieces.take(SIZE).fill_(number)
            if not bool((tensor == number).all()):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and pieces.free_bytes <= 2 * 4 * SIZE, "each holds its last one while it takes the next"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_only_large_tensors_are_taken_from_pieces(dtype, monkeypatch):
    monkeypatch.setattr(pages, "PIECES", Pieces())
    small, large = fresh((3, 5), dtype), fresh((2, LARGE_BYTES), dtype)
    assert (small.shape, small.dtype, large.shape, large.dtype) == ((3, 5), dtype, (2, LARGE_BYTES), dtype)
    size = large.nbytes
    del small, large
    gc.collect()
    assert pages.PIECES.free_bytes == size


def test_what_is_kept_ends_with_the_batches(tiny_data):
    from graft.training.data.batches import Batches

    gc.collect()
    PIECES.take(LARGE_BYTES)
    assert PIECES.free_bytes >= LARGE_BYTES
    with Batches(tiny_data, seed=0, batch_size=1):
        pass
    assert PIECES.free_bytes == 0
