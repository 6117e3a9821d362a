"""Named wrong formulas: what each mistake makes of a layer's numbers."""

from core.gradient_check.slips.tables import Slip, slips_of

__all__ = ["Slip", "slips_of"]
