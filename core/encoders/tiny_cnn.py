"""A small CNN for the embedded pictures, to be trained from scratch together with a decoder.

The counterpart of ``core/encoders/fixed_cnn.py``: the same 8 x 8 grid, but nobody writes down what
its filters look for; that is learned from the captions alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.encoders.fixed_cnn import position_code

_GROUPS = 8


class TinyCNN(nn.Module):
    """Five convolutions; (N, 3, 64, 64) pictures become 8 x 8 cells that each see 41 x 41 pixels.

    Normalised by groups of channels (Wu and He, "Group normalization", ECCV 2018), which remembers
    nothing of other pictures: training and captioning compute the same. The last channels say where
    a cell is, since a convolution by itself does not know.
    """

    UNUSED = ()

    def __init__(self):
        super().__init__()
        self.conv1 = _layer(3, 32, 5, stride=2)
        self.conv2 = _layer(32, 64, 3, stride=2)
        self.conv3 = _layer(64, 64, 3, stride=1)
        self.conv4 = _layer(64, 128, 3, stride=2)
        self.conv5 = _layer(128, 128, 3, stride=1)
        places = torch.from_numpy(position_code()).permute(2, 0, 1)
        self.register_buffer("places", places, persistent=False)

    @property
    def stages(self) -> list[nn.Module]:
        return [self.conv1, self.conv2, self.conv3, self.conv4, self.conv5]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, 64, 64) normalised pictures -> grid (N, 140, 8, 8), pooled (N, 128)."""
        for stage in self.stages:
            x = stage(x)
        places = self.places.expand(len(x), -1, -1, -1)
        return {"grid": torch.cat([x, places], dim=1), "pooled": x.mean(dim=(2, 3))}


def _layer(channels: int, width: int, size: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, size, stride, padding=size // 2, bias=False),
        nn.GroupNorm(_GROUPS, width),
        nn.ReLU(),
    )
