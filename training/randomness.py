"""Random numbers by name: a generator is a pure function of a seed, a stream's name and counters.

Nothing random has a history here, so nothing random has to be saved: step 137 draws the same noise whether the run was interrupted or
not, on whichever device or process it is drawn.
"""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, stream: str, *counters: int) -> torch.Generator:
    """A CPU generator for one purpose ("noise", "t") at one place (sample position, epoch).

    Always on the CPU, so that the numbers do not depend on the device. Torch's CPU engine (MT19937) keeps 32 bits of its seed: two of very
    many draws may coincide, which is harmless, but streams never run into each other.
    """
    return torch.Generator().manual_seed(seed_of(seed, stream, *counters))


def seed_of(seed: int, stream: str, *counters: int) -> int:
    """63 bits that follow from the same: the seed of a generator on a device, or of further streams."""
    text = "\x1f".join([str(int(seed)), stream, *(str(int(counter)) for counter in counters)])
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
