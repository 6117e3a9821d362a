"""Gradients checked twice: against central differences, and against PyTorch's autograd."""

from core.gradient_check.checking import (
    DIFFERENCE_TOLERANCE,
    TORCH_TOLERANCE,
    Row,
    check_case,
)
from core.gradient_check.course import (
    eval_numerical_gradient_blobs,
    eval_numerical_gradient_net,
    grad_check_sparse,
)
from core.gradient_check.diagnosis import HINTS, diagnose, hints
from core.gradient_check.differences import (
    eval_numerical_gradient,
    eval_numerical_gradient_array,
    relative_error,
)
from core.gradient_check.learner import ImplementationError, load_implementation
from core.gradient_check.precision import told_apart
from core.gradient_check.report import Report, check

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
    "eval_numerical_gradient_blobs",
    "eval_numerical_gradient_net",
    "grad_check_sparse",
    "hints",
    "load_implementation",
    "relative_error",
    "told_apart",
]
