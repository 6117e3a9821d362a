"""Principal component analysis, for features that are wider than a decoder needs.

Pearson 1901, Hotelling 1933; fitted on training images only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.coco_utils.tables import Blocks

Array = np.ndarray


@dataclass(frozen=True)
class PCA:
    """The projection ``(x - mean) components``.

    - mean: (D,) float32
    - components: (D, K) float32, orthonormal columns divided by a common scale, so that the
      projected training features have a mean square of 1 over all K columns
    - explained: share of the variance of the training features that the K columns keep
    """

    mean: Array
    components: Array
    explained: float = 1.0

    def __call__(self, x: Array) -> Array:
        """(..., D) -> (..., K) float32."""
        return (np.asarray(x, np.float32) - self.mean) @ self.components

    @property
    def arrays(self) -> dict[str, Array]:
        """What it is made of, by the names under which it is stored."""
        return {"pca_mean": self.mean, "pca_components": self.components}


def fit_pca(x: Array | Blocks, width: int) -> PCA:
    """Fits a PCA, in the memory of D x D numbers, or of n x D when that is less.

    Inputs:
    - x: (n, D) one row a sample; read twice
    - width: K, number of components

    Raises ValueError when there are not more samples than components (n samples less their mean
    span n - 1 dimensions), or fewer columns.

    The sign of each component is chosen so that its largest entry is positive: an eigenvector is
    known up to its sign, and a rerun should give the same features.
    """
    n, D = x.shape
    if not 1 <= width <= min(n - 1, D):
        raise ValueError(
            f"PCA to {width} components needs more samples than that, at least as wide, "
            f"found {n} samples of width {D}; use more images or fewer components"
        )
    blocks = Blocks.of(x).blocks
    mean = sum(block.sum(axis=0, dtype=np.float64) for block in blocks()) / n
    centred = (block - mean for block in blocks())  # in float64, as the mean
    # The eigenvectors of the smaller of x'x and xx' carry the same information.
    if n < D:
        x = np.concatenate(list(centred))
        values, vectors = np.linalg.eigh(x @ x.T)
        vectors = x.T @ vectors[:, ::-1][:, :width]
    else:
        values, vectors = np.linalg.eigh(sum(block.T @ block for block in centred))
        vectors = vectors[:, ::-1][:, :width]
    values = np.maximum(values[::-1], 0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=0), 1e-12)
    vectors *= np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(width)])
    kept = values[:width].sum()
    scale = np.sqrt(kept / (n * width)) or 1.0
    return PCA(
        mean.astype(np.float32),
        (vectors / scale).astype(np.float32),
        float(kept / values.sum()) if kept else 1.0,
    )
