"""From pixels to words: a CNN and a decoder with attention, trained as one.

Xu et al., "Show, attend and tell", ICML 2015, whose encoder was fixed; here its last stages, or all
of them, may learn as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.checkpoint import ENCODER
from core.encoders import Extractor, scale_grid
from core.encoders.pictures import PictureBatch
from core.encoders.weights import (
    as_batch,
    open_stages,
    put_state_of_stages,
    state_of_stages,
)
from core.support.processes import rank
from core.torch_models.base import TorchCaptioner

Array = np.ndarray


class EndToEndCaptioner(nn.Module):
    """A decoder over the grid of an encoder; wants pictures where the decoder wants features.

    Inputs:
    - decoder: a twin with attention
    - extractor: its network becomes part of the model; output 'grid', without PCA
    - stages: how many of the encoder's last stages learn; the others stay as they are
    - flip: whether half of the pictures are mirrored while training; wrong where captions tell left
      from right
    - crop: smallest part of a picture's area that is seen while training; 1: always all of it

    Raises ValueError when the encoder has fewer stages.
    """

    def __init__(
        self,
        decoder: TorchCaptioner,
        extractor: Extractor,
        stages: int,
        flip: bool = False,
        crop: float = 1.0,
    ):
        super().__init__()
        self.decoder = decoder
        self.encoder = extractor.network.to(next(decoder.parameters()))
        self.cells, self.flip, self.crop = extractor.grid, flip, crop
        self.learning = open_stages(self.encoder, stages)
        for name in ("rng", "null", "start", "end", "unknown", "max_length", "grid"):
            setattr(self, name, getattr(decoder, name))
        self.step, self.select = decoder.step, decoder.select

    def train(self, mode: bool = True) -> EndToEndCaptioner:
        """As of any module; but what was learned of batches, not by gradients, stays fixed."""
        super().train(mode)
        self.encoder.eval()
        return self

    @property
    def device(self) -> torch.device:
        return self.decoder.device

    def names(self) -> dict[str, str]:
        """As of a twin; parameters of the encoder begin with 'encoder.' and stay in its layout."""
        ours = {name: f"decoder.{theirs}" for name, theirs in self.decoder.names().items()}
        return ours | {ENCODER + name: f"encoder.{name}" for name in self.learning}

    @property
    def params(self) -> Mapping[str, Array]:
        """Those of the decoder, and the encoder's stages whether they learn or not. Assign to load.

        Assigning without any of the encoder's leaves that as it is.
        """
        state = {k: x.detach().cpu().numpy() for k, x in state_of_stages(self.encoder).items()}
        return {**self.decoder.params, **{ENCODER + k: np.array(x) for k, x in state.items()}}

    @params.setter
    def params(self, params: Mapping[str, Array]) -> None:
        self.decoder.params = {k: x for k, x in params.items() if not k.startswith(ENCODER)}
        state = {k.removeprefix(ENCODER): x for k, x in params.items() if k.startswith(ENCODER)}
        if state:
            put_state_of_stages(self.encoder, state)

    # -- looking --------------------------------------------------------------------------------

    def grid_of(self, pictures: PictureBatch) -> Tensor:
        """The grid (N, L, C) of each row's picture; each picture is looked at once."""
        used, of_row = np.unique(pictures.of_row, return_inverse=True)
        images = as_batch(self.encoder, pictures.images[used])
        if self.training and (self.flip or self.crop < 1):
            images = self._varied(images)
        grid = self.encoder(images)["grid"]
        if self.cells is not None:
            grid = F.adaptive_avg_pool2d(grid, self.cells)
        grid = scale_grid(grid.flatten(2).transpose(1, 2).to(next(self.decoder.parameters())))
        return grid[torch.from_numpy(of_row).to(self.device)]

    def _varied(self, images: Tensor) -> Tensor:
        """Each picture as it might have been taken: from nearer, from aside, in a mirror."""
        rng = np.random.default_rng(int(self.rng.integers(2**62)) + rank())
        size, seen = images.shape[2:], []
        for image in images.split(1):
            share = math.sqrt(rng.uniform(self.crop, 1))
            h, w = (round(share * side) for side in size)
            y, x = rng.integers(size[0] - h + 1), rng.integers(size[1] - w + 1)
            window = image[:, :, y : y + h, x : x + w]
            if self.flip and rng.random() < 0.5:
                window = window.flip(3)
            if (h, w) != size:
                window = F.interpolate(window, size, mode="bilinear", align_corners=False)
            seen.append(window)
        return torch.cat(seen).contiguous(memory_format=torch.channels_last)

    def loss(self, pictures: PictureBatch, captions: Array, weights: Array | None = None) -> Tensor:
        """As of a twin."""
        return self.decoder.loss(self.grid_of(pictures), captions, weights)

    @torch.no_grad()
    def evaluate(self, pictures: PictureBatch, captions: Array) -> float:
        """As of a twin."""
        return self.decoder.evaluate(self._grid_as_it_is(pictures), captions)

    @torch.no_grad()
    def begin(self, pictures: PictureBatch):
        """As of a twin; ``step`` and ``select`` are those of the decoder."""
        return self.decoder.begin(self._grid_as_it_is(pictures))

    def _grid_as_it_is(self, pictures: PictureBatch) -> Tensor:
        """As ``grid_of``, never mirrored or cropped."""
        training = self.training
        try:
            return self.eval().grid_of(pictures)
        finally:
            self.train(training)
