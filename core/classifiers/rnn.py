"""``CaptioningRNN`` where the course's notebooks look for it; it is in ``core/models``."""

from core.models import CaptioningRNN

__all__ = ["CaptioningRNN"]
