"""Photos to features: the extractor, the encoders that it runs, and whole folders of photos."""

from core.encoders.extractor import (
    OUTPUTS,
    PREPROCESSING,
    Extractor,
    pool_grid,
    prepare_pictures,
    scale_grid,
)

__all__ = [
    "OUTPUTS",
    "PREPROCESSING",
    "Extractor",
    "pool_grid",
    "prepare_pictures",
    "scale_grid",
]
