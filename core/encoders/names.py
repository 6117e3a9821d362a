"""Weight files as others write them, under the names that torchvision gives the same networks.

timm keeps torchvision's names for ResNets and has its own for MobileNetV2 and VGG16; scripts that
train save more than the weights, and put ``module.`` before each name.
"""

from __future__ import annotations

import re
import warnings

from torch import Tensor

from core.support.schema import shown

_INSIDE = ("state_dict", "model_state_dict", "model")  # where scripts keep the weights
_MOBILENET = {"conv_stem": "features.0.0", "bn1": "features.0.1"}
_MOBILENET |= {"conv_head": "features.18.0", "bn2": "features.18.1", "classifier": "classifier.1"}
_FIRST_BLOCK = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}
_BLOCK = {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "conv_pwl": "2"}
_BLOCK |= {"bn3": "3"}
_FIRST_OF_STAGE = (1, 2, 4, 7, 11, 14, 17)  # their numbers among torchvision's features
_VGG = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3"}
_VGG |= {"head.fc": "classifier.6"}


def unwrapped(weights: str, content: dict) -> dict:
    """The state dict in what was read; a warning says what else there was."""
    for name in _INSIDE:
        state = content.get(name)
        if isinstance(state, dict) and state and isinstance(next(iter(state.values())), Tensor):
            if others := [shown(other) for other in content if other != name]:
                more = ", ..." if len(others) > 5 else ""
                warnings.warn(
                    f"{weights}: its {name!r} is read, the rest is left out: "
                    f"{', '.join(others[:5])}{more}",
                    stacklevel=5,
                )
            content = state
            break
    names = [name for name in content if isinstance(name, str)]
    if len(names) == len(content) and all(name.startswith("module.") for name in names):
        content = {name.removeprefix("module."): x for name, x in content.items()}
    return content


def as_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same state dict under torchvision's names, where they are timm's."""
    if "conv_stem.weight" in state:
        return {_of_mobilenet(name): x for name, x in state.items()}
    if "pre_logits.fc1.weight" in state:  # convolutions over all that is left of the picture
        state = {k: x.flatten(1) if x.ndim == 4 and "fc" in k else x for k, x in state.items()}
        return {_renamed(name, _VGG): x for name, x in state.items()}
    return state


def _of_mobilenet(name: str) -> str:
    block = re.fullmatch(r"blocks\.([0-6])\.(\d)\.(\w+)\.(\w+)", name)
    if block is None:
        return _renamed(name, _MOBILENET)
    stage, number, layer, what = block.groups()
    known = _BLOCK if int(stage) else _FIRST_BLOCK
    if layer not in known:
        return name
    place = _FIRST_OF_STAGE[int(stage)] + int(number)
    return f"features.{place}.conv.{known[layer]}.{what}"


def _renamed(name: str, known: dict[str, str]) -> str:
    layer, _, what = name.rpartition(".")
    return f"{known[layer]}.{what}" if layer in known else name
