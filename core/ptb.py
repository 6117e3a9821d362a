"""The earlier name of ``core.metrics.ptb``, which code of others imports."""

from core.metrics.ptb import ptb_tokenize as tokenize

__all__ = ["tokenize"]
