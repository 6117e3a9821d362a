"""What a network of timm sees in photos: ConvNeXt, DINO, EfficientNet, vision transformers, ...

    pip install timm
    python examples/features_from_timm.py --images PHOTOS --out seen.h5 --model convnext_tiny
    python -m core.flickr8k --root PHOTOS --features seen.h5 --out datasets/seen

With --grid there is a vector for each place of the photo, which --model attention looks at. To
caption a photo of your own, run this on it with the same options, then
``inference.py --model lstm --image photo.jpg --features one.h5``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where core is

from core.encoders.given import add_options, describe_photos, hash_of
from core.support.command_line import ArgumentParser, run_command


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser, "convnext_tiny.fb_in22k")
    parser.add_argument(
        "--weights", default="download", metavar="FILE", help="a state dict, or 'random'"
    )
    options = parser.parse_args()
    try:
        import timm
        import torch
        from PIL import Image
    except ImportError as error:
        raise ValueError(f"needs timm ({error}): pip install timm") from error

    kept = options.weights in ("download", "random")
    torch.manual_seed(0)  # random weights are the same ones every time
    try:
        model = timm.create_model(
            options.model,
            pretrained=options.weights == "download",
            checkpoint_path="" if kept else options.weights,
        ).eval()
    except Exception as error:  # of the name, the network, the file
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--model {options.model}: cannot be had ({reason})") from error
    # The whole square in the middle, as our own encoders see it: maps are drawn on that.
    config = timm.data.resolve_model_data_config(model) | {"crop_pct": 1.0}
    prepare = timm.data.create_transform(**config, is_training=False)

    @torch.inference_mode()
    def look(photos):
        maps = model.forward_features(torch.stack([prepare(Image.fromarray(p)) for p in photos]))
        if not options.grid:
            return model.forward_head(maps, pre_logits=True).numpy()
        if not isinstance(maps, torch.Tensor) or maps.ndim not in (3, 4):
            raise ValueError(f"--model {options.model}: has no grid; leave --grid out, or another")
        if maps.ndim == 3:  # of a transformer, the first of whose tokens are no places
            return maps[:, getattr(model, "num_prefix_tokens", 0) :].numpy()
        first = maps.shape[1] == model.num_features  # the channels, in most networks
        return (maps.flatten(2).mT if first else maps.flatten(1, 2)).numpy()

    made_by = {
        "script": Path(__file__).name,
        "model": options.model,
        "grid": options.grid,
        "sha256": hash_of(model.state_dict()),
        "preprocessing": {"size": config["input_size"][-1]},
    }
    describe_photos(options.images, options.out, look, made_by)


if __name__ == "__main__":
    run_command(main)
