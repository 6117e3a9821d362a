"""ResNet-50, -101 and -152 (He et al., "Deep residual learning for image recognition", CVPR 2016).

Key names and shapes are those of torchvision's published checkpoints, so they load unchanged. As in
those, a block that halves the picture does so in its 3 x 3 convolution; the paper does it in the
1 x 1 before, which leaves three quarters of its input unread.
"""

from __future__ import annotations

from torch import Tensor, nn

_EXPANSION = 4  # a block gives this many times as many channels as its 3 x 3 convolution has


class Bottleneck(nn.Module):
    """To few channels (1 x 1), across the neighbours (3 x 3), back to many (1 x 1); plus the input.

    What is learned is the residual: the input itself passes by on a short cut, which has weights
    (``downsample``) only where the number of channels or the size changes.
    """

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        out = _EXPANSION * width
        # No bias: batch normalisation takes the mean out and has a bias of its own.
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = nn.Identity()
        if channels != out or stride != 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, h, w) -> (N, 4 * width, h / stride, w / stride)."""
        residual = self.bn1(self.conv1(x)).relu()
        residual = self.bn2(self.conv2(residual)).relu()
        residual = self.bn3(self.conv3(residual))
        return (residual + self.downsample(x)).relu()


class ResNet(nn.Module):
    """A ResNet of bottlenecks; its 1,000-class output layer is there to load checkpoints.

    Inputs:
    - depths: number of blocks in each of the four stages; every stage but the first halves the
      picture and doubles the channels
    """

    UNUSED = "fc."

    def __init__(self, depths: tuple[int, int, int, int]):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(64, 64, depths[0], stride=1)
        self.layer2 = _stage(256, 128, depths[1], stride=2)
        self.layer3 = _stage(512, 256, depths[2], stride=2)
        self.layer4 = _stage(1024, 512, depths[3], stride=2)
        self.fc = nn.Linear(2048, 1000)

    @property
    def stages(self) -> list[nn.Module]:
        stem = nn.ModuleDict({"conv1": self.conv1, "bn1": self.bn1})
        return [stem, self.layer1, self.layer2, self.layer3, self.layer4]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, 224, 224) normalised pictures -> grid (N, 2048, 7, 7), pooled (N, 2048)."""
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        grid = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return {"grid": grid, "pooled": grid.mean(dim=(2, 3))}


def _stage(channels: int, width: int, depth: int, stride: int) -> nn.Sequential:
    """``depth`` blocks; the first takes ``channels`` channels and has the stride."""
    blocks = [Bottleneck(channels, width, stride)]
    blocks += [Bottleneck(_EXPANSION * width, width, 1) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)
