"""SqueezeNet 1.1 (Iandola et al., arXiv:1602.07360).

Key names and shapes are those of torchvision's published checkpoint, so it loads unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Fire(nn.Module):
    """Squeeze to few channels, then expand with 1 x 1 and 3 x 3 filters side by side."""

    def __init__(self, channels: int, squeezed: int, expanded: int):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, h, w) -> (N, 2 * expanded, h, w)."""
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], dim=1)


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1; its 1,000-class classifier is there to load checkpoints, not computed."""

    UNUSED = "classifier."

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2),
            nn.ReLU(),
            _pool(),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            _pool(),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            _pool(),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(512, 1000, 1))

    @property
    def stages(self) -> list[nn.Module]:
        """The first convolution, then two Fire modules each."""
        f = self.features
        return [f[0:3], f[3:6], f[6:9], f[9:11], f[11:13]]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, 224, 224) normalised pictures -> grid (N, 512, 13, 13), pooled (N, 512)."""
        grid = self.features(x)
        return {"grid": grid, "pooled": grid.mean(dim=(2, 3))}
