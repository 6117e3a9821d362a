"""Several models that caption together: a decoder like any other for ``core/decoding.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class FeaturesOfEach:
    """Features of the same images for each model of an ensemble; or tables of them, to be sliced.

    - of_model: for each model (N, ...) one image a row, as that model reads it
    """

    of_model: Sequence

    def __len__(self) -> int:
        return len(self.of_model[0])

    def __getitem__(self, rows) -> FeaturesOfEach:
        return FeaturesOfEach([features[rows] for features in self.of_model])


class Ensemble:
    """Several decoders as one: the mean of the probabilities that they give each word.

    Inputs:
    - models: decoders of the same vocabulary; they may read different features

    Raises ValueError for other special words.
    """

    def __init__(self, models: Sequence):
        for name in ("null", "start", "end", "unknown"):
            found = {getattr(model, name) for model in models}
            if len(found) != 1:
                raise ValueError(f"ensemble: its models disagree on {name}: {found}")
            setattr(self, name, found.pop())
        self.models = models
        positions = [m.max_length for m in models if m.max_length is not None]
        self.max_length = min(positions, default=None)

    def begin(self, features: FeaturesOfEach) -> list:
        return [m.begin(x) for m, x in zip(self.models, features.of_model, strict=True)]

    def step(self, states: list, tokens: Array) -> tuple[Array, list]:
        steps = [m.step(state, tokens) for m, state in zip(self.models, states, strict=True)]
        log_probs = np.logaddexp.reduce([each for each, _ in steps]) - np.log(len(steps))
        return log_probs, [state for _, state in steps]

    def select(self, states: list, rows: Array) -> list:
        return [m.select(state, rows) for m, state in zip(self.models, states, strict=True)]
