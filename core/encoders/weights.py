"""Builds a PyTorch encoder and puts published weights into it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from core.encoders.resnet import ResNet
from core.encoders.squeezenet import SqueezeNet
from core.encoders.vgg import VGG16

Array = np.ndarray

NETWORKS = {
    "squeezenet1_1": SqueezeNet,
    "vgg16": VGG16,
    "resnet50": partial(ResNet, (3, 4, 6, 3)),
    "resnet101": partial(ResNet, (3, 4, 23, 3)),
    "resnet152": partial(ResNet, (3, 8, 36, 3)),
}
# torchvision's published checkpoints (of the ResNets the first edition, IMAGENET1K_V1); the eight
# digits are the start of the file's SHA-256, which is checked.
_URLS = {
    "squeezenet1_1": "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
    "vgg16": "https://download.pytorch.org/models/vgg16-397923af.pth",
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "resnet101": "https://download.pytorch.org/models/resnet101-63fe2227.pth",
    "resnet152": "https://download.pytorch.org/models/resnet152-394f9c45.pth",
}


def load_network(encoder: str, weights: str) -> nn.Module:
    """A frozen network: dropout off, the statistics of batch normalisation fixed, no gradients.

    Inputs:
    - encoder: a key of ``NETWORKS``
    - weights: a file with a state dict (read without running code in it), or 'random'

    Raises ValueError when the weights do not fit.
    """
    # Random weights are the same ones every time, and leave torch's own generator alone.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = NETWORKS[encoder]()
    if weights != "random":
        _load(network, _read(weights), encoder, weights)
    return network.eval().requires_grad_(False)


def look(network: nn.Module, images: Array) -> dict[str, Array]:
    """Every output of a network.

    (N, h, w, 3) float32 normalised pictures -> float32 arrays by name: grids (N, L, C), their cells
    in reading order, and vectors (N, D).
    """
    with torch.inference_mode():
        outputs = network(torch.from_numpy(images).permute(0, 3, 1, 2))
    return {
        name: (x.flatten(2).transpose(1, 2) if x.ndim == 4 else x).numpy()
        for name, x in outputs.items()
    }


def download(encoder: str) -> str:
    """Fetches the published weights, unless they are in torch's cache; returns the file.

    Raises ValueError when they cannot be fetched.
    """
    url = _URLS[encoder]
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=url[-12:-4])
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"{url}: could not be fetched ({error}); "
                "fetch it by hand and give the file with --weights"
            ) from error
    return str(path)


def _read(weights: str) -> dict:
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # torn zip, foreign pickle, no state dict: torch raises many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{weights}: cannot be read as a PyTorch state dict ({reason})") from error
    if not isinstance(state, dict):
        raise ValueError(f"{weights}: holds a {type(state).__name__}, expected a state dict")
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{weights}: {name} is a {type(value).__name__}, expected a tensor")
    return state


def _load(network: nn.Module, state: dict, encoder: str, weights: str) -> None:
    """Loads strictly; absent may be what is not computed: the classifier, and the number of batches
    that batch normalisation has seen, which older files do not have.
    """
    own = network.state_dict()
    missing = [
        key
        for key in own
        if key not in state
        and not key.startswith(network.UNUSED)
        and not key.endswith(".num_batches_tracked")
    ]
    unknown = [key for key in state if key not in own]
    wrong = [key for key in state if key in own and state[key].shape != own[key].shape]
    for keys, what in ((missing, "has no"), (unknown, "has an unknown"), (wrong, "has a misfit")):
        if keys:
            raise ValueError(
                f"{weights}: {what} {keys[0]!r} ({len(keys)} such keys); "
                f"expected torchvision's state dict of {encoder}"
            )
    network.load_state_dict(state, strict=False)
