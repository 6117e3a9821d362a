"""PyTorch comes after the rest: who needs it and lacks it learns how it is installed."""

from __future__ import annotations

HOW_TO_INSTALL = (
    "make setup, or: python -m pip install torch "
    "--extra-index-url https://download.pytorch.org/whl/cpu"
)


def require_torch(what: str) -> None:
    """Raises ModuleNotFoundError, in one line that says how to install it, without PyTorch.

    Inputs:
    - what: needs it, "--engine torch" say
    """
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name == "torch":
            raise lacks_torch(what) from None
        raise


def lacks_torch(what: str) -> ModuleNotFoundError:
    """The error of what needs PyTorch and has none."""
    message = f"{what}: needs PyTorch, which is not installed; {HOW_TO_INSTALL}"
    return ModuleNotFoundError(message, name="torch")
