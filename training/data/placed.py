"""Pictures read from the places that scanning found: what data sets of files, tables and archives have in common."""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from .dataset import Dataset, Sample
from .picture import fit_square
from .picture_header import UnreadablePictureError


class PlacedPictures:
    """The reading half of a data set (dataset.Dataset) whose samples know their places."""

    def read(self: Dataset, sample: Sample) -> np.ndarray:
        """The sample's picture, uint8 RGB [resolution_px, resolution_px, 3], scaled and cropped.

        Raises:
            UnreadablePictureError: it cannot be decoded, or is no longer the file that was scanned.
        """
        return fit_square(self.read_whole(sample), self.resolution_px)

    def read_whole(self: Dataset, sample: Sample) -> np.ndarray:
        """The same, uint8 RGB [H, W, 3], upright and not scaled.

        Raises:
            UnreadablePictureError: likewise.
        """
        assert sample.place is not None, f"{sample.name} was not scanned"
        return sample.place.picture(sample.digest)

    def read_hint(self: Dataset, sample: Sample) -> np.ndarray:
        """The sample's given hint, scaled and cropped as its picture.

        Raises:
            InputError: it cannot be read any more.
        """
        return fit_square(self.read_whole_hint(sample), self.resolution_px)

    def read_whole_hint(self: Dataset, sample: Sample) -> np.ndarray:
        """The same, not scaled.

        Raises:
            InputError: it cannot be read any more.
        """
        assert sample.hint_place is not None, f"{sample.name} has no hint of its own"
        try:
            return sample.hint_place.picture(sample.hint_digest)
        except UnreadablePictureError as error:
            remedy = "Put it back, or queue again to look at everything anew."
            raise InputError(f"hint of {sample.name}", expected="the picture that was scanned", found=f"one that {error}", remedy=remedy) from error
