"""The captioning models once more, made fast: the same parameters, arguments and numbers."""

from core.fast.engine import FastEngine
from core.fast.models import FAST_MODELS, build_fast_model

__all__ = ["FAST_MODELS", "FastEngine", "build_fast_model"]
