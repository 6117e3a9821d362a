"""What a run is built of, by its settings: its model, what takes the steps, its solver.

Heavy modules are imported by what needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from core.runs.settings import MODEL_OPTIONS, TRAINED_ON, optim_config
from core.support.choices import SELECT


def model_config(settings: dict, data: dict) -> dict:
    """The arguments that build the model of a run, besides the vocabulary."""
    names = ("wordvec_dim", "hidden_dim", "dtype", "dropout")
    names += MODEL_OPTIONS.get(settings["model"], ())
    config = {name: settings[name] for name in names}
    config["input_dim"] = data["train_features"].shape[-1]
    if settings["model"] == "transformer":
        config["norm_first"] = not config.pop("post_norm")
        captions = [
            data[f"{split}_captions"] for split in TRAINED_ON if f"{split}_captions" in data
        ]
        config["max_length"] = max(50, *(each.shape[1] for each in captions))
    return config


def model_builder(engine: str, device: str = "cpu") -> Callable:
    """``core.models.build_model`` or its twin, by the name of an engine."""
    if engine == "plain":
        from core.models import build_model

        return build_model
    if engine == "numpy":
        from core.fast import build_fast_model

        return build_fast_model
    from core.torch_models import build_torch_model

    return partial(build_torch_model, device=device)


def run_model(settings: dict, config: dict, data: dict, start, extractor, device: str):
    """The model of a run.

    Inputs:
    - settings, data: of the run
    - config: from ``model_config``
    - start: a checkpoint whose parameters to put in; None draws them
    - extractor: what looks at pictures; its encoder becomes part of a model that teaches it
    - device: where the torch engine computes
    """
    import numpy as np

    build = model_builder(settings["engine"], device)
    if settings["finetune_encoder"]:
        from core.torch_models import build_end_to_end

        how = {"stages": settings["finetune_encoder"]}
        how |= {name: settings[name] for name in ("flip", "crop")}
        build = partial(build_end_to_end, device=device, extractor=extractor, **how)
    params = start.params if start else None
    rng = np.random.default_rng([settings["seed"], 1])
    model = build(settings["model"], config, data["idx_to_word"], params=params, rng=rng)
    decoder = model.decoder if settings["finetune_encoder"] else model
    for name in ("label_smoothing", "feature_dropout"):
        setattr(decoder, name, settings[name])
    if settings["objective"] == "scst":
        from core.recipes.self_critical import TOP_K

        decoder.top_k = TOP_K
    return model


def threads_of_run(settings: dict, model) -> int | None:
    """How many cores a run is worth: one for the definitions; None where PyTorch sees to it."""
    if settings["engine"] == "torch":
        return None
    return 1 if settings["engine"] == "plain" else model.threads_for(settings["batch_size"])


def run_solver(settings: dict, model, data: dict, **more):
    """The solver of a run; ``more`` is what its settings do not say."""
    import numpy as np

    from core.captioning_solver import BestEpoch, CaptioningSolver, Schedule, ShuffledCaptions
    from core.runs.data import caption_scores

    source = ShuffledCaptions(data, settings["bucketed"], settings["workers"])
    if settings["objective"] == "scst":
        from core.recipes.self_critical import SelfCritical

        source = SelfCritical(data, settings["samples"], settings["bleu_reward"])
    overfit = settings["num_samples"] is not None
    select = "train_loss" if overfit else SELECT[settings["select"]]
    return CaptioningSolver(
        model,
        data,
        **{name: settings[name] for name in ("update_rule", "num_epochs", "batch_size")},
        optim_config=optim_config(settings),
        clip_norm=settings["clip_norm"] or None,
        schedule=Schedule(settings["schedule"], settings["lr_decay"], settings["warmup"]),
        source=source,
        best=BestEpoch(select, caption_scores(settings, data), settings["patience"]),
        engine=_engine(settings),
        rng=np.random.default_rng([settings["seed"], 2]),
        **more,
    )


def _engine(settings: dict) -> Callable:
    if settings["engine"] == "plain":
        from core.captioning_solver import NumpyEngine

        return NumpyEngine
    if settings["engine"] == "numpy":
        from core.fast import FastEngine

        return FastEngine
    from core.torch_models import TorchEngine

    rate = settings["encoder_learning_rate"] if settings["finetune_encoder"] else None
    return partial(TorchEngine, precision=settings["precision"], encoder_learning_rate=rate)
