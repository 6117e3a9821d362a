"""VGG16 (Simonyan and Zisserman, "Very deep convolutional networks", ICLR 2015, configuration D).

Key names and shapes are those of torchvision's published checkpoint, so it loads unchanged.
"""

from __future__ import annotations

from torch import Tensor, nn

_CHANNELS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool")
_CHANNELS += (512, 512, 512, "pool", 512, 512, 512, "pool")


class VGG16(nn.Module):
    """VGG16; its 1,000-class output layer is there to load checkpoints, not computed."""

    UNUSED = "classifier.6."

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in _CHANNELS:
            if width == "pool":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 1000),
        )

    @property
    def stages(self) -> list[nn.Module]:
        """The convolutions between two poolings."""
        pools = [i for i, layer in enumerate(self.features) if isinstance(layer, nn.MaxPool2d)]
        starts = [0, *(i + 1 for i in pools[:-1])]
        return [self.features[start:stop] for start, stop in zip(starts, pools, strict=True)]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, 224, 224) normalised pictures -> grid (N, 512, 14, 14), fc7 (N, 4096).

        The grid is conv5_3, the last map before the last pooling, as "Show, attend and tell" takes
        it (Xu et al., ICML 2015, section 4.3); both are taken after their ReLU.
        """
        grid = self.features[:-1](x)
        pooled = self.features[-1](grid)
        return {"grid": grid, "fc7": self.classifier[:6](pooled.flatten(1))}
