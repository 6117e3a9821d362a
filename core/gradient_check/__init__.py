"""Gradients checked twice: against central differences, and against PyTorch's autograd."""

from core.gradient_check.checking import (
    DIFFERENCE_TOLERANCE,
    HINTS,
    TORCH_TOLERANCE,
    ImplementationError,
    Report,
    Row,
    check,
    check_case,
    diagnose,
    eval_numerical_gradient,
    eval_numerical_gradient_array,
    hints,
    load_implementation,
    relative_error,
)

__all__ = [
    "DIFFERENCE_TOLERANCE",
    "HINTS",
    "TORCH_TOLERANCE",
    "ImplementationError",
    "Report",
    "Row",
    "check",
    "check_case",
    "diagnose",
    "eval_numerical_gradient",
    "eval_numerical_gradient_array",
    "hints",
    "load_implementation",
    "relative_error",
]
