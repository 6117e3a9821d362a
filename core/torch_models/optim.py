"""PyTorch's optimizers under the names, the options and the memory of ``core/optim.py``.

What an optimizer remembers can be taken out and put in as an engine's ``configs``, so a run
that one engine began can be gone on with by the other.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.utils import clip_grad_norm_

from core.checkpoint import ENCODER
from core.optim import numbers_of
from core.torch_models.base import TorchCaptioner
from core.torch_models.convert import to_numpy, to_torch
from core.torch_models.end_to_end import EndToEndCaptioner

# What is remembered of a parameter: the name in core/optim.py -> PyTorch's.
_MEMORY = {"m": "exp_avg", "v": "exp_avg_sq", "velocity": "momentum_buffer", "cache": "square_avg"}


def _optimizer(rule: str, parameters, numbers: Mapping[str, float]) -> torch.optim.Optimizer:
    if rule == "sgd":
        return torch.optim.SGD(parameters)
    if rule == "sgd_momentum":
        return torch.optim.SGD(parameters, momentum=numbers["momentum"])
    options = {"eps": numbers["epsilon"]}
    if rule == "rmsprop":
        return torch.optim.RMSprop(parameters, alpha=numbers["decay_rate"], **options)
    options |= {"betas": (numbers["beta1"], numbers["beta2"]), "fused": True}
    if rule == "adam":
        return torch.optim.Adam(parameters, **options)
    return torch.optim.AdamW(parameters, weight_decay=numbers["weight_decay"], **options)


class TorchOptimizer:
    """Updates a twin from the gradients that ``backward`` left in its parameters.

    Inputs:
    - model: a twin
    - update_rule: a name in ``core.optim.RULES``
    - optim_config: numbers of the rule, as for ``core.optim``
    - encoder_learning_rate: of the parameters of an encoder, if the model has one that learns
    """

    def __init__(
        self,
        model: TorchCaptioner | EndToEndCaptioner,
        update_rule: str,
        optim_config: Mapping,
        encoder_learning_rate: float | None = None,
    ):
        self.model, self.update_rule = model, update_rule
        numbers = numbers_of(update_rule, optim_config)
        self.base_rates = dict.fromkeys(model.names(), numbers.pop("learning_rate"))
        if encoder_learning_rate is not None:
            of_encoder = [name for name in self.base_rates if name.startswith(ENCODER)]
            self.base_rates |= dict.fromkeys(of_encoder, encoder_learning_rate)
        self._build(numbers, self.base_rates)

    def _build(self, numbers: dict[str, float], rates: Mapping[str, float]) -> None:
        """With the rule's other numbers, and the learning rate of each parameter."""
        self.numbers = numbers
        by_name, groups = dict(self.model.named_parameters()), {}
        names = self.model.names()
        self.parameters = {theirs: by_name[theirs] for theirs in names.values()}
        for ours, theirs in names.items():
            groups.setdefault((rates[ours], self.base_rates[ours]), []).append(by_name[theirs])
        groups = [{"params": p, "lr": rate, "base": base} for (rate, base), p in groups.items()]
        self.optimizer = _optimizer(self.update_rule, groups, numbers)

    def step(self, clip_norm: float | None = None) -> None:
        """Clips the gradients, updates the parameters, forgets the gradients."""
        if clip_norm is not None:
            clip_grad_norm_(self.parameters.values(), clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    @property
    def learning_rate(self) -> float:
        """Of the decoder."""
        return self.optimizer.param_groups[0]["lr"]

    def set_learning_rate(self, factor: float) -> None:
        """That part of the learning rates that it was built with."""
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["base"]

    @property
    def configs(self) -> dict[str, dict]:
        """For each parameter the config of its update rule in ``core/optim.py``. Assign to load.

        Assigning raises ValueError when what is remembered is of another model.
        """
        rates = {
            id(p): group["lr"] for group in self.optimizer.param_groups for p in group["params"]
        }
        configs = {
            ours: {"learning_rate": rates[id(self.parameters[theirs])], **self.numbers}
            for ours, theirs in self.model.names().items()
        }
        states = {name: self.optimizer.state[p] for name, p in self.parameters.items()}
        for ours, theirs in _MEMORY.items():
            memory = {n: s[theirs] for n, s in states.items() if s.get(theirs) is not None}
            if memory:
                for name, array in to_numpy(self.model, memory).items():
                    configs[name][ours] = array
        if self.update_rule in ("adam", "adamw"):
            for ours, theirs in self.model.names().items():
                if "step" in states[theirs]:
                    configs[ours]["t"] = int(states[theirs]["step"])
        return configs

    @configs.setter
    def configs(self, configs: Mapping[str, Mapping]) -> None:
        some = next(iter(configs.values()))
        remembered = {
            theirs: to_torch(self.model, {name: config[ours] for name, config in configs.items()})
            for ours, theirs in _MEMORY.items()
            if ours in some
        }
        rates = {name: config["learning_rate"] for name, config in configs.items()}
        self._build({name: some[name] for name in self.numbers}, rates)
        states = self.optimizer.state
        for theirs, memory in remembered.items():
            for name, tensor in memory.items():
                parameter = self.parameters[name]
                states[parameter][theirs] = tensor.to(parameter)
                # RMSprop counts steps as well, but makes no use of the number.
                step = torch.tensor(float(some.get("t", 0)), device=parameter.device)
                states[parameter]["step"] = step
