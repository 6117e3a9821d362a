"""From photos to the features that a decoder reads: encoder, preprocessing and PCA as one piece.

An ``Extractor`` is stored with the data it made and in every checkpoint trained on them, so that a
photo of tomorrow goes through the very same steps. The encoders are

    fixed_cnn        for the embedded pictures, in NumPy (``core/encoders/fixed_cnn.py``)
    mobilenet_v2     Sandler et al. 2018, 14 MB           (``core/encoders/mobilenet.py``)
    tf_mobilenet_v2  the same for TensorFlow's weights, padded as there
    squeezenet1_1    Iandola et al. 2016, 5 MB            (``core/encoders/squeezenet.py``)
    vgg16            Simonyan and Zisserman, ICLR 2015    (``core/encoders/vgg.py``)
    resnet50, resnet101, resnet152    He et al., CVPR 2016    (``core/encoders/resnet.py``)
    tiny_cnn         for the embedded pictures, to be trained (``core/encoders/tiny_cnn.py``)

PyTorch is imported by those that need it, when they are loaded, and by nothing else here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path

import numpy as np

from core.encoders.pca import PCA
from core.image_utils import normalise, resize_and_crop
from core.support.choices import OUTPUTS
from core.support.files import hash_of_file
from core.support.pytorch import require_torch

Array = np.ndarray

_IMAGENET = {"size": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
PREPROCESSING = {name: _IMAGENET for name in OUTPUTS} | {
    "fixed_cnn": {"size": 64},
    "tiny_cnn": {"size": 64, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
}


class Extractor:
    """Features of photos: crop, normalise, encode, pool and scale the grid, project.

    Inputs:
    - encoder: a key of ``OUTPUTS``
    - output: which of its outputs
    - weights: for the PyTorch encoders, a file with a state dict, a run whose encoder learned,
      'download' or 'random'
    - preprocessing: the constants; those of the encoder when None
    - pca: the projection, or None
    - sha256: of the weight file, when it must be a certain one
    - grid: average the output 'grid' to this many cells a side; None keeps the encoder's own
    - device: where a PyTorch encoder computes

    Raises ValueError for an unknown encoder or output, for a grid finer than the encoder's and for
    weights that do not fit or do not reach that far, FileNotFoundError without a weight file.
    """

    def __init__(
        self,
        encoder: str,
        output: str,
        weights: str | None = None,
        preprocessing: dict | None = None,
        pca: PCA | None = None,
        sha256: str | None = None,
        grid: int | None = None,
        device: str = "cpu",
    ):
        if encoder not in OUTPUTS:
            raise ValueError(f"encoder: found {encoder!r}, expected one of {', '.join(OUTPUTS)}")
        self.encoder, self.pca, self.mirrors, self.device = encoder, pca, False, device
        self._choose(output, grid)
        self.preprocessing = preprocessing or PREPROCESSING[encoder]
        self.weights, self.sha256 = weights, sha256
        if encoder == "fixed_cnn":
            from core.encoders import fixed_cnn

            self._encode = fixed_cnn.filter_outputs
        else:
            require_torch(f"--encoder {encoder}")
            from core.encoders.weights import is_run, load_network, run_network

            self.weights, self.sha256 = _identify(encoder, weights, sha256)
            if output == "fc7" and is_run(self.weights):
                raise ValueError(
                    f"{self.weights}: a run holds what its grid is made by, not the layers of fc7 "
                    "above; give a state dict of vgg16 with --weights"
                )
            self.network = load_network(encoder, self.weights).to(device)
            self._encode = lambda images: run_network(self.network, images)

    def _choose(self, output: str, grid: int | None) -> None:
        shapes = OUTPUTS[self.encoder]
        if output not in shapes:
            raise ValueError(
                f"encoder {self.encoder}: has no output {output!r}, expected {' or '.join(shapes)}"
            )
        side = math.isqrt(shapes["grid"][0])
        if grid is not None and not (output == "grid" and 1 <= grid <= side):
            raise ValueError(
                f"grid: found {grid} cells a side for the output {output!r} of {self.encoder}, "
                f"expected 1 to {side}, and the output 'grid'"
            )
        self.output, self.grid = output, grid

    def beside(self, output: str, grid: int | None = None) -> Extractor:
        """An extractor of another output by the same network, so that one pass serves both.

        It projects nothing.
        """
        other = copy(self)
        other._choose(output, grid)
        other.pca = None
        return other

    def mirrored(self) -> Extractor:
        """One that sees every picture in a mirror."""
        other = copy(self)
        other.mirrors = not self.mirrors
        return other

    def __call__(self, images: Sequence[Array]) -> Array:
        """(h, w, 3) uint8 pictures of any size -> (N, ...) float32 features."""
        return self.finish(self.encode(images))

    def encode(self, images: Sequence[Array]) -> dict[str, Array]:
        """Pictures of any size -> every output of the encoder by name, float32."""
        prepared = prepare_pictures(images, self.preprocessing)
        if self.mirrors:
            prepared = np.ascontiguousarray(prepared[:, :, ::-1])
        return self._encode(prepared)

    def finish(self, outputs: Mapping[str, Array]) -> Array:
        """The one output that was chosen, the grid averaged to its cells and scaled, projected.

        Raises ValueError when a feature is not finite, for then the weights are of no use.
        """
        features = outputs[self.output]
        if self.grid is not None:
            features = pool_grid(features, self.grid)
        if self.output == "grid" and self.encoder != "fixed_cnn":
            features = scale_grid(features)
        features = features if self.pca is None else self.pca(features)
        if not np.isfinite(features).all():
            raise ValueError(
                f"{self.weights or self.encoder}: gives features that are not finite; are these "
                "its weights, and its projection? Fetch them again"
            )
        return features

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the features of one picture: (D,) or (L, C)."""
        shape = OUTPUTS[self.encoder][self.output]
        if self.grid is not None:
            shape = (self.grid**2, *shape[1:])
        return shape if self.pca is None else (*shape[:-1], self.pca.components.shape[1])

    @property
    def specification(self) -> dict:
        """What rebuilds this extractor, as JSON; the projection's arrays travel beside it."""
        specification = {
            "encoder": self.encoder,
            "output": self.output,
            "preprocessing": self.preprocessing,
            "weights": self.weights,
            "sha256": self.sha256,
        }
        return specification if self.grid is None else {**specification, "grid": self.grid}

    @property
    def fingerprint(self) -> dict:
        """What tells its features from others': the hash of the weights, not their place."""
        known = {key: value for key, value in self.specification.items() if key != "weights"}
        return {**known, "mirrors": True} if self.mirrors else known

    @property
    def arrays(self) -> dict[str, Array]:
        """The projection, by name; empty without one."""
        return {} if self.pca is None else self.pca.arrays

    @classmethod
    def rebuild(
        cls,
        specification: Mapping,
        arrays: Mapping[str, Array],
        weights: str | None = None,
        trained: Mapping[str, Array] | None = None,
        device: str = "cpu",
    ) -> Extractor:
        """The extractor of a specification.

        Inputs:
        - specification, arrays: of the extractor that there was
        - weights: where its weight file is now, if it was moved
        - trained: the state of the encoder's stages, when it was trained with a decoder
        - device: where a PyTorch encoder computes
        """
        extractor = cls(
            specification["encoder"],
            specification["output"],
            "random" if trained else weights or specification["weights"],
            specification["preprocessing"],
            PCA(arrays["pca_mean"], arrays["pca_components"]) if arrays else None,
            specification["sha256"],
            specification.get("grid"),
            device,
        )
        if trained:
            from core.encoders.weights import put_state_of_stages

            put_state_of_stages(extractor.network, trained)
            # As before: it is that of the specification, with stages that have learned since.
            extractor.weights = specification["weights"]
            extractor.sha256 = specification["sha256"]
        return extractor


def prepare_pictures(images: Sequence[Array], preprocessing: Mapping) -> Array:
    """Pictures of any size -> what the encoder reads: (N, size, size, 3), cropped and normalised.

    uint8 as they are where the preprocessing has no mean.
    """
    cropped = np.stack([resize_and_crop(image, preprocessing["size"]) for image in images])
    if "mean" not in preprocessing:
        return cropped
    return normalise(cropped, preprocessing["mean"], preprocessing["std"])


def scale_grid(grid):
    """(N, L, C), an array or a tensor, divided by the root of the mean square of each picture.

    The last layer of a pretrained network gives mostly zeros and some numbers near 100; a tanh or a
    sigmoid that reads those is full from the first step on, and learns nothing.
    """
    return grid / ((grid * grid).mean(axis=(1, 2), keepdims=True) + 1e-12) ** 0.5


def pool_grid(grid: Array, cells: int) -> Array:
    """Averages a square grid to ``cells`` x ``cells``; (N, L, C) -> (N, cells * cells, C).

    Adaptive average pooling: new cell i is the mean of the old ones that it touches, from
    floor(i s / cells) to ceil((i + 1) s / cells) of s a side. Where s is no multiple of ``cells``,
    neighbours share old cells.
    """
    N, L, C = grid.shape
    s = math.isqrt(L)
    i, old = np.arange(cells)[:, None], np.arange(s)
    touched = (old >= i * s // cells) & (old < -(-(i + 1) * s // cells))  # (cells, s)
    average = (touched / touched.sum(axis=1, keepdims=True)).astype(grid.dtype)
    rows = average @ grid.reshape(N, s, s * C)
    both = average @ rows.reshape(N, cells, s, C)  # of each row, the columns
    return both.reshape(N, cells * cells, C)


def _identify(encoder: str, weights: str | None, sha256: str | None) -> tuple[str, str]:
    """The weights by their full path, and their hash; refuses a file with another hash."""
    if weights is None:
        raise ValueError(f"weights: {encoder} needs a weight file, 'download' or 'random'")
    if weights == "random":
        return weights, "random"
    from core.encoders.weights import download, encoder_of

    if weights == "download":
        weights = download(encoder)
    path = Path(os.path.realpath(weights))
    if path.is_dir():
        weights = path = path / "best.npz"  # of a run
    if not path.is_file():
        raise FileNotFoundError(
            f"{weights}: no such weight file; give a state dict of {encoder} with --weights"
        )
    found = hash_of_file(path)
    published = encoder_of(found)
    if published not in (None, encoder):
        raise ValueError(
            f"{weights}: is the published file of {published}, not of {encoder}; take --encoder "
            f"{published}, or give another file with --weights"
        )
    if sha256 is not None and found != sha256:
        raise ValueError(
            f"{weights}: is not the weight file that the features were made with "
            f"(SHA-256 {found[:12]}..., expected {sha256[:12]}...); give that one with --weights"
        )
    return str(path), found
