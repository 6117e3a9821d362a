from core.fast.engine import FastEngine
from core.models import build_model as build_fast_model

__all__ = ["FastEngine", "build_fast_model"]
