"""Builds a PyTorch encoder and puts published weights into it."""

from __future__ import annotations

import errno
import warnings
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from core.checkpoint import COUNTERS, load_checkpoint
from core.encoders.mobilenet import MobileNetV2
from core.encoders.names import as_torchvision, unwrapped
from core.encoders.resnet import ResNet
from core.encoders.squeezenet import SqueezeNet
from core.encoders.tiny_cnn import TinyCNN
from core.encoders.vgg import VGG16
from core.support.schema import shown

Array = np.ndarray

NETWORKS = {
    "tiny_cnn": TinyCNN,
    "mobilenet_v2": MobileNetV2,
    "tf_mobilenet_v2": partial(MobileNetV2, tensorflow=True),
    "squeezenet1_1": SqueezeNet,
    "vgg16": VGG16,
    "resnet50": partial(ResNet, (3, 4, 6, 3)),
    "resnet101": partial(ResNet, (3, 4, 23, 3)),
    "resnet152": partial(ResNet, (3, 8, 36, 3)),
}
# Pictures on a CPU: what more of them need does not stay in its caches, which takes MobileNetV2 1.4
# times as long and ResNet-50 1.2 times.
_AT_ONCE = 8
# torchvision's published checkpoints (the first edition, IMAGENET1K_V1); the eight
# digits are the start of the file's SHA-256, which is checked.
_URLS = {
    "mobilenet_v2": "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth",
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
    - weights: a file with a state dict (read without running code in it), the checkpoint of a run
      whose encoder learned, or 'random'

    Raises ValueError when the weights do not fit.
    """
    # Random weights are the same ones every time, and leave torch's own generator alone.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = NETWORKS[encoder]()
    if weights != "random":
        _load(network, _read(weights, encoder), encoder, weights)
    return network.eval().requires_grad_(False)


def run_network(network: nn.Module, images: Array) -> dict[str, Array]:
    """Every output of a network.

    (N, h, w, 3) float32 normalised pictures -> float32 arrays by name: grids (N, L, C), their cells
    in reading order, and vectors (N, D).
    """
    on_cpu = next(network.parameters()).device.type == "cpu"
    step = _AT_ONCE if on_cpu else len(images)
    with torch.inference_mode():
        parts = [
            network(as_batch(network, images[i : i + step])) for i in range(0, len(images), step)
        ]
    outputs = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return {
        name: (x.flatten(2).transpose(1, 2) if x.ndim == 4 else x).cpu().numpy()
        for name, x in outputs.items()
    }


def as_batch(network: nn.Module, images: Array) -> Tensor:
    """(N, h, w, 3) normalised pictures -> (N, 3, h, w) of the network's device and dtype."""
    images = torch.from_numpy(images).to(next(network.parameters()))
    return images.permute(0, 3, 1, 2)  # a view: "channels last", the faster way for convolutions


def open_stages(network: nn.Module, count: int) -> list[str]:
    """Lets the last ``count`` stages of a frozen network learn; returns their parameters' names.

    It stays in evaluation mode: a stage that learns keeps the statistics of batch normalisation
    that it came with, for those of small batches would be worse, and drops nothing out.

    Raises ValueError when it has fewer stages.
    """
    stages = network.stages
    if not 0 <= count <= len(stages):
        raise ValueError(
            f"finetune_encoder: found {count} stages, but the encoder has {len(stages)}; take no "
            "more"
        )
    for stage in stages[len(stages) - count :]:
        stage.requires_grad_(True)
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]


def state_of_stages(network: nn.Module) -> dict[str, Tensor]:
    """What the grid depends on, by the names of the state dict: no classifier."""
    own = {id(x) for stage in network.stages for x in (*stage.parameters(), *stage.buffers())}
    return {k: x for k, x in network.state_dict(keep_vars=True).items() if id(x) in own}


def put_state_of_stages(network: nn.Module, state: Mapping[str, Array]) -> None:
    """The inverse of ``state_of_stages``; raises ValueError for what is not of this network."""
    own = state_of_stages(network)
    for name in sorted(own.keys() | state.keys()):
        found, expected = (tuple(x[name].shape) if name in x else None for x in (state, own))
        if found != expected:
            raise ValueError(
                f"encoder: {name} of the checkpoint has shape {found}, expected {expected}; use "
                "another file of the run, or train again"
            )
    with torch.no_grad():
        for name, x in own.items():
            x.copy_(torch.from_numpy(np.array(state[name])))


def download(encoder: str) -> str:
    """Fetches the published weights, unless they are in torch's cache; returns the file.

    Raises ValueError when they cannot be fetched.
    """
    if encoder not in _URLS:
        raise ValueError(
            f"--weights download: nobody published a state dict of {encoder}; give a file, or "
            "'random'"
        )
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


def encoder_of(sha256: str) -> str | None:
    """The encoder whose published file has this hash, if it is one of them."""
    return next((name for name, url in _URLS.items() if url[-12:-4] == sha256[:8]), None)


def is_run(weights: str) -> bool:
    """Whether a weight file is the checkpoint of a run."""
    return weights.endswith(".npz")


def _read(weights: str, encoder: str) -> dict:
    """A state dict: of a PyTorch file, or what a run has made of its encoder."""
    if is_run(weights):
        run = load_checkpoint(weights)
        state = run.encoder_state
        if not state:
            raise ValueError(
                f"{weights}: its encoder did not learn; give a weight file, or another run"
            )
        if run.extractor and run.extractor["encoder"] != encoder:
            raise ValueError(
                f"{weights}: its encoder is {run.extractor['encoder']}, expected {encoder}; give "
                "that --encoder, or another run"
            )
        return {name: torch.from_numpy(np.array(x)) for name, x in state.items()}
    advice = "fetch it again, or give another file with --weights"
    _check_zip(weights, advice)
    try:
        if weights.endswith(".safetensors"):
            from safetensors.torch import load_file

            state = load_file(weights)
        else:
            with warnings.catch_warnings():  # torch's advice is not for a reader of files
                warnings.simplefilter("ignore")
                state = torch.load(weights, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except ImportError as error:
        raise ValueError(
            f"{weights}: is read by the package safetensors, which is not there; pip install "
            "safetensors, or give a state dict of PyTorch with --weights"
        ) from error
    except Exception as error:  # torn zip, foreign pickle, no state dict: torch raises many kinds,
        # and advises to load such a file unsafely: that is never passed on
        raise ValueError(
            f"{weights}: cannot be read as a PyTorch state dict ({type(error).__name__}); {advice}"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{weights}: holds a {type(state).__name__}, expected a state dict")
    state = unwrapped(weights, state)
    for name, value in state.items():
        if fault := _fault_of_tensor(name, value):
            raise ValueError(f"{weights}: {shown(name)} {fault}; {advice}")
    return as_torchvision(state)


def _check_zip(weights: str, advice: str) -> None:
    """Raises ValueError unless the checksums in a zip are right, which torch does not compare, and
    OSError when the file cannot be read. Older files are no zip.
    """
    try:
        with open(weights, "rb") as file:
            if not zipfile.is_zipfile(file):
                return
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # which a torn zip makes of a seek
            raise OSError(f"{weights}: cannot be read ({error.strerror}); is it yours?") from error
        damaged = "its directory"
    except Exception as error:  # torn, encrypted, compressed in an unknown way
        damaged = type(error).__name__
    if damaged is not None:
        raise ValueError(f"{weights}: is damaged ({shown(damaged)}); {advice}")


def _fault_of_tensor(name, value) -> str | None:
    """What is wrong with an entry of a state dict, or None."""
    if not isinstance(name, str):
        return "is a name that is no text"
    if not isinstance(value, Tensor):
        return f"is a {type(value).__name__}, expected a tensor"
    if value.is_meta or value.is_quantized or value.layout != torch.strided or value.is_nested:
        return "is a tensor without plain numbers (meta, quantised, sparse or nested)"
    if name.endswith(COUNTERS):
        whole = not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
        return None if whole else f"holds {value.dtype} numbers, expected whole ones"
    if not value.is_floating_point():
        return f"holds {value.dtype} numbers, expected floating-point ones"
    if not torch.isfinite(value.float()).all():
        return "holds numbers that are not finite"
    return None


def _load(network: nn.Module, state: dict, encoder: str, weights: str) -> None:
    """Loads strictly; absent may be what is not computed: the classifier, and the number of batches
    that batch normalisation has seen, which older files do not have. A run has what its grid needs.
    A classifier of other classes, as of a network that was trained on, is left out.
    """
    own = network.state_dict()
    others = [
        k
        for k, x in state.items()
        if k.startswith(network.UNUSED) and (k not in own or x.shape != own[k].shape)
    ]
    state = {name: x for name, x in state.items() if name not in others}
    needed = state_of_stages(network) if is_run(weights) else own
    faults = {
        "missing": [
            k
            for k in needed
            if k not in state and not k.startswith(network.UNUSED) and not k.endswith(COUNTERS)
        ],
        "unexpected": [k for k in state if k not in own],
        "misshapen": [
            f"{k} {tuple(state[k].shape)}, expected {tuple(own[k].shape)}"
            for k in state
            if k in own and state[k].shape != own[k].shape
        ],
    }
    if any(faults.values()):
        found = "; ".join(
            f"{len(keys):,} {what} ({_some(keys)})" for what, keys in faults.items() if keys
        )
        raise ValueError(
            f"{weights}: its keys are not those of {encoder} as torchvision or timm name them: "
            f"{found}; give that network's weights, or another --encoder"
        )
    if others:
        warnings.warn(
            f"{weights}: its classifier is another one than ImageNet's ({_some(others)}); it is "
            "left out, for it is not computed",
            stacklevel=4,
        )
    network.load_state_dict(state, strict=False)
    if isinstance(network, MobileNetV2):
        if not is_run(weights):  # whose state is that of a network that was settled
            network.settle()
        if other := network.other_padding():
            warnings.warn(
                f"{weights}: its filters lean as if learned for {other}, which pads otherwise; "
                f"if so, features are much worse: take --encoder {other}",
                stacklevel=4,
            )


def _some(keys: list[str]) -> str:
    """The first few of some keys, in letters that any terminal has."""
    return ", ".join(map(ascii, keys[:3])).replace("'", "") + (", ..." if len(keys) > 3 else "")
