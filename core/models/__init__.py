"""The captioning models, hand-written in NumPy."""

from core.models.captioning_rnn import CaptioningRNN

__all__ = ["CaptioningRNN"]
