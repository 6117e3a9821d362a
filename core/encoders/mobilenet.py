"""MobileNetV2 (Sandler et al., "Inverted residuals and linear bottlenecks", CVPR 2018).

Key names and shapes are those of torchvision's published checkpoint, so it loads unchanged.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

# Expansion, channels, number of blocks, stride of the first of them: table 2 of the paper.
_BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# How much heavier one side of the filters with stride 2 is, as a share of the whole, before it says
# with which padding they were learned. 0.14 in TensorFlow's weights; random ones stay below 0.04.
_LEANING = 0.05


class PaddedAsTensorFlow(nn.Conv2d):
    """A 3 x 3 convolution of stride 2 padded as little as TensorFlow's "SAME" asks for.

    A side of even length gets its one row of zeros at the end, where PyTorch's padding of 1 on all
    sides has it at the beginning: every window is one pixel further on.
    """

    def forward(self, x: Tensor) -> Tensor:
        before_rows, before_columns = x.shape[-2] % 2, x.shape[-1] % 2
        return super().forward(F.pad(x, (before_columns, 1, before_rows, 1)))


class InvertedResidual(nn.Module):
    """Widen (1 x 1), filter each channel (3 x 3), narrow (1 x 1); plus the input where it fits.

    Nothing nonlinear follows the last convolution: it would destroy what few channels carry.
    """

    def __init__(self, channels: int, out: int, stride: int, expansion: int, tensorflow: bool):
        super().__init__()
        wide = expansion * channels
        layers = [] if expansion == 1 else [_unit(channels, wide, 1, tensorflow=tensorflow)]
        layers += [_unit(wide, wide, 3, stride, wide, tensorflow)]
        layers += [nn.Conv2d(wide, out, 1, bias=False), _norm(out, tensorflow)]
        self.conv = nn.Sequential(*layers)
        self.adds = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, h, w) -> (N, out, h / stride, w / stride)."""
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 1.0; its 1,000-class classifier is there to load checkpoints, not computed.

    Inputs:
    - tensorflow: pad as TensorFlow does, and normalise with its epsilon, for weights from there
    """

    UNUSED = "classifier."

    def __init__(self, tensorflow: bool = False):
        super().__init__()
        self.tensorflow = tensorflow
        layers: list[nn.Module] = [_unit(3, 32, 3, 2, tensorflow=tensorflow)]
        channels = 32
        for expansion, out, count, stride in _BLOCKS:
            for i in range(count):
                first = stride if i == 0 else 1
                layers.append(InvertedResidual(channels, out, first, expansion, tensorflow))
                channels = out
        self.features = nn.Sequential(*layers, _unit(channels, 1280, 1, tensorflow=tensorflow))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    @property
    def stages(self) -> list[nn.Module]:
        """All that works at one size of the picture, and what brought it down to that."""
        f = self.features
        return [f[0:2], f[2:4], f[4:7], f[7:14], f[14:19]]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, 224, 224) normalised pictures -> grid (N, 1280, 7, 7), pooled (N, 1280)."""
        grid = self.features(x)
        return {"grid": grid, "pooled": grid.mean(dim=(2, 3))}

    def settle(self) -> None:
        """Where normalisation is folded into the convolutions that were loaded, it is none at all.

        Such files say so by a variance of 1, to which the epsilon would still be added.
        """
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d) and (layer.running_var == 1).all():
                layer.running_var -= layer.eps

    def other_padding(self) -> str | None:
        """The encoder that the weights were learned for, where it seems to be the other one.

        Windows of stride 2 begin one pixel later with TensorFlow's padding. Networks learn on
        mirrored photos as well, so each pair of pixels that makes one counts alike, and the third
        row and column of a filter become light: the last ones with TensorFlow's padding, the first
        ones with PyTorch's.
        """
        leanings = []
        for layer in self.features.modules():
            if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
                energy = layer.weight.detach().square().sum(dim=(0, 1))  # (3, 3)
                energy /= energy.sum()
                leanings += [float(s[0] - s[2]) for s in (energy.sum(dim=0), energy.sum(dim=1))]
        leaning = sum(leanings) / len(leanings)
        if self.tensorflow:
            return "mobilenet_v2" if leaning < -_LEANING else None
        return "tf_mobilenet_v2" if leaning > _LEANING else None


def _norm(channels: int, tensorflow: bool) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3 if tensorflow else 1e-5)


def _unit(
    channels: int, out: int, size: int, stride: int = 1, groups: int = 1, tensorflow: bool = False
) -> nn.Sequential:
    """A convolution, batch normalisation, and a ReLU that ends at 6."""
    same = tensorflow and stride == 2
    kind, padding = (PaddedAsTensorFlow, 0) if same else (nn.Conv2d, size // 2)
    convolution = kind(channels, out, size, stride, padding, groups=groups, bias=False)
    return nn.Sequential(convolution, _norm(out, tensorflow), nn.ReLU6())
