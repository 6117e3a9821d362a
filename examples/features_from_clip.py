"""What CLIP sees in photos, by Hugging Face transformers.

    pip install transformers
    python examples/features_from_clip.py --images PHOTOS --out clip.h5
    python -m core.flickr8k --root PHOTOS --features clip.h5 --out datasets/clip

One vector per photo, in the space that CLIP shares with text; with --grid one for each patch, which
--model attention looks at. To caption a photo of your own, run this on it with the same options,
then ``inference.py --model lstm --image photo.jpg --features one.h5``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where core is

from core.encoders.given import add_options, describe_photos, hash_of
from core.support.command_line import ArgumentParser, run_command


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser, "openai/clip-vit-base-patch32")
    options = parser.parse_args()
    try:
        import torch
        from transformers import AutoImageProcessor, CLIPVisionModelWithProjection
    except ImportError as error:
        raise ValueError(f"needs transformers ({error}): pip install transformers") from error

    try:
        model = CLIPVisionModelWithProjection.from_pretrained(options.model).eval()
        prepare = AutoImageProcessor.from_pretrained(options.model)
    except Exception as error:  # of the name, the network, the folder
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--model {options.model}: cannot be had ({reason})") from error

    @torch.inference_mode()
    def look(photos):
        seen = model(prepare(images=photos, return_tensors="pt")["pixel_values"])
        # The first token is the whole photo's, the others are the patches', row by row.
        return (seen.last_hidden_state[:, 1:] if options.grid else seen.image_embeds).numpy()

    made_by = {
        "script": Path(__file__).name,
        "model": options.model,
        "grid": options.grid,
        "sha256": hash_of(model.state_dict()),
        "preprocessing": {"size": model.config.image_size},
    }
    describe_photos(options.images, options.out, look, made_by)


if __name__ == "__main__":
    run_command(main)
