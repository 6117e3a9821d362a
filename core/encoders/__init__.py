"""From photos to the features that a decoder reads: encoder, preprocessing and PCA as one piece.

An ``Extractor`` is stored with the data it made and in every checkpoint trained on them, so that a
photo of tomorrow goes through the very same steps. The encoders are

    fixed_cnn        for the embedded pictures, in NumPy (``core/encoders/fixed_cnn.py``)
    squeezenet1_1    Iandola et al. 2016, 3 MB            (``core/encoders/squeezenet.py``)
    vgg16            Simonyan and Zisserman, ICLR 2015    (``core/encoders/vgg.py``)

PyTorch is imported by the two that need it, when they are loaded, and by nothing else here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from core.encoders.pca import PCA
from core.image_utils import normalise, resize_and_crop

Array = np.ndarray

IMAGENET = {"size": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
# encoder -> what it computes for a picture, and how the picture is prepared
OUTPUTS = {
    "fixed_cnn": ("strips", "grid"),
    "squeezenet1_1": ("pooled",),
    "vgg16": ("fc7",),
}
WIDTHS = {"pooled": 512, "fc7": 4096}
PREPROCESSING = {"fixed_cnn": {"size": 64}, "squeezenet1_1": IMAGENET, "vgg16": IMAGENET}


class Extractor:
    """Features of photos: crop, normalise, encode, project.

    Inputs:
    - encoder: a key of ``OUTPUTS``
    - output: which of its outputs
    - weights: for the PyTorch encoders, a file with a state dict, 'download' or 'random'
    - preprocessing: the constants; those of the encoder when None
    - pca: the projection, or None
    - sha256: of the weight file, when it must be a certain one

    Raises ValueError for an unknown encoder or output and for weights that do not fit,
    FileNotFoundError when there is no weight file.
    """

    def __init__(
        self,
        encoder: str,
        output: str,
        weights: str | None = None,
        preprocessing: dict | None = None,
        pca: PCA | None = None,
        sha256: str | None = None,
    ):
        if encoder not in OUTPUTS:
            raise ValueError(f"encoder: found {encoder!r}, expected one of {', '.join(OUTPUTS)}")
        if output not in OUTPUTS[encoder]:
            expected = " or ".join(OUTPUTS[encoder])
            raise ValueError(f"encoder {encoder}: has no output {output!r}, expected {expected}")
        self.encoder, self.output, self.pca = encoder, output, pca
        self.preprocessing = preprocessing or PREPROCESSING[encoder]
        self.weights, self.sha256 = weights, sha256
        if encoder == "fixed_cnn":
            from core.encoders import fixed_cnn

            self._encode = {
                "grid": fixed_cnn.grid_features,
                "strips": lambda images: fixed_cnn.strips(fixed_cnn.grid_features(images)),
            }[output]
        else:
            from core.encoders.weights import load_network

            self.weights, self.sha256 = _identify(encoder, weights, sha256)
            network = load_network(encoder, self.weights)
            mean, std = self.preprocessing["mean"], self.preprocessing["std"]
            self._encode = lambda images: network(normalise(images, mean, std))

    def __call__(self, images: Sequence[Array]) -> Array:
        """(h, w, 3) uint8 pictures of any size -> (N, ...) float32 features."""
        batch = np.stack([resize_and_crop(image, self.preprocessing["size"]) for image in images])
        features = self._encode(batch)
        return features if self.pca is None else self.pca(features)

    @property
    def specification(self) -> dict:
        """What rebuilds this extractor, as JSON; the projection's arrays travel beside it."""
        return {
            "encoder": self.encoder,
            "output": self.output,
            "preprocessing": self.preprocessing,
            "weights": self.weights,
            "sha256": self.sha256,
        }

    @property
    def arrays(self) -> dict[str, Array]:
        """The projection, by name; empty without one."""
        if self.pca is None:
            return {}
        return {"pca_mean": self.pca.mean, "pca_components": self.pca.components}

    @classmethod
    def rebuild(
        cls, specification: Mapping, arrays: Mapping[str, Array], weights: str | None = None
    ) -> Extractor:
        """The extractor of a specification; ``weights`` says where its weight file is now."""
        pca = PCA(arrays["pca_mean"], arrays["pca_components"]) if arrays else None
        return cls(
            specification["encoder"],
            specification["output"],
            weights or specification["weights"],
            specification["preprocessing"],
            pca,
            specification["sha256"],
        )


def _identify(encoder: str, weights: str | None, sha256: str | None) -> tuple[str, str]:
    """The weights by their full path, and their hash; refuses a file with another hash."""
    if weights is None:
        raise ValueError(f"weights: {encoder} needs a weight file, 'download' or 'random'")
    if weights == "random":
        return weights, "random"
    if weights == "download":
        from core.encoders.weights import download

        weights = download(encoder)
    path = Path(weights).resolve()
    if not path.is_file():
        raise FileNotFoundError(
            f"{weights}: no such weight file; give a state dict of {encoder} with --weights"
        )
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    found = digest.hexdigest()
    if sha256 is not None and found != sha256:
        raise ValueError(
            f"{weights}: is not the weight file that the features were made with "
            f"(SHA-256 {found[:12]}..., expected {sha256[:12]}...); give that one with --weights"
        )
    return str(path), found
