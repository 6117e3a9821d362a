"""The shapes of a model's parameters, without room for a single one of them.

A checkpoint is compared with them before its arrays are read, and a run is refused before it takes
memory that is not there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from core.models import MODELS


class _Shape:
    """Stands in for an array while a model is built: adding to it and writing into it do nothing.

    ``shape`` and ``size`` as an array's.
    """

    def __init__(self, *shape: int):
        self.shape, self.size = shape, math.prod(shape)

    def __add__(self, other) -> _Shape:
        return self

    def __setitem__(self, where, value) -> None:
        pass


def parameter_shapes(name: str, config: Mapping, words: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of each parameter of a model.

    Inputs:
    - name, config: as for ``core.models.build_model``
    - words: of the vocabulary

    Raises ValueError as the model does, for numbers that do not go together.
    """
    model_class, implied = MODELS[name]

    class Sketch(model_class):
        def _normal(self, *shape: int, scale: float) -> _Shape:
            return _Shape(*shape)

        def _zeros(self, *shape: int) -> _Shape:
            return _Shape(*shape)

    if config.get("positions") == "sinusoidal":
        config = {**config, "max_length": 1}  # a table of them is no parameter
    vocabulary = {"<NULL>": 0} | {i: i for i in range(1, words)}
    model = Sketch(vocabulary, **implied, **config)
    return {key: value.shape for key, value in model.params.items()}
