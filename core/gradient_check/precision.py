"""Are there enough digits? What becomes of a small step, and of a small difference, in a computer.

A step of 1e-5 is 84 times the spacing of float32 beside 1, and nothing at all beside 1,000: a
numerical gradient in float32 is wrong, and one of whole numbers is nonsense.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def check_point(x: Array, h: float) -> None:
    """Raises ValueError unless the entries of x can be moved by h, in place, to three digits."""
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f":
        found = x.dtype if isinstance(x, np.ndarray) else f"a {type(x).__name__}"
        raise ValueError(
            f"x: found {found}, expected an array of floating-point numbers, since it is moved by "
            f"h = {h:g} in place; take np.array(x, dtype=np.float64)"
        )
    _check_step("x", x.dtype, h, float(np.abs(x[np.isfinite(x)]).max(initial=1)))


def check_value(out, h: float):
    """A value of f as it is; raises ValueError when f computes in too few digits for a step h."""
    if isinstance(out, np.ndarray | np.generic) and out.dtype.kind == "f":
        _check_step("f(x)", out.dtype, h, 1.0)
    return out


def _check_step(name: str, dtype: np.dtype, h: float, largest: float) -> None:
    least = 1000 * float(np.finfo(dtype).eps) * largest
    if h < least:
        raise ValueError(
            f"{name}: a step of h = {h:g} is lost to rounding in {dtype} numbers up to "
            f"{largest:.3g}; compute in float64, or take an h of about {2 * least:.1g}"
        )


def told_apart(a: float, b: float) -> tuple[str, str]:
    """Two numbers as text, with as many digits as it takes to see that they differ."""
    a, b = a + 0.0, b + 0.0  # which makes 0 of -0
    texts = (f"{a:.6g}", f"{b:.6g}")
    return texts if texts[0] != texts[1] else (f"{a:.17g}", f"{b:.17g}")
