"""Named wrong formulas: what each mistake makes of a layer's numbers."""

from core.gradient_check.slips.tables import Slip, lines_of, slips_of

__all__ = ["Slip", "lines_of", "slips_of"]
