"""A page on which a photo is dropped, or taken, and captioned word by word.

    pip install -e ".[app]"
    python examples/app.py                          the runs in runs/
    python examples/app.py runs/lstm model.npz      these runs, files or addresses

It asks ``inference.py`` for a caption and shows its report page: each word with its probability and
where the model looked, other ways of decoding, and the beam.
"""

import html
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where core is

import inference
from core.support.command_line import ArgumentParser, option_type, run_command
from core.support.schema import Whole

# The caption is above what is said of the model; the frame becomes as high as the page in it.
_CAPTION_FIRST = "<style>main { display: flex; flex-direction: column-reverse }</style></head>"
_FRAME = """<iframe title="the caption, word by word" style="width: 100%; height: 45rem; border: 0"
onload="this.style.height = this.contentDocument.documentElement.scrollHeight + 'px'"
srcdoc="{page}"></iframe>"""


def caption(photo: str | None, model: str, decoder: str, beam_size: float) -> str:
    """The report page of one photo, in a frame."""
    if photo is None:
        raise ValueError("there is no photo yet: drop one, or take one")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        asked = ["--checkpoint", model, "--image", photo, "--decode", decoder]
        asked += ["--beam_size", str(int(beam_size))] if decoder == "beam" else []
        inference.main([*asked, "--report", str(page)])
        shown = page.read_text(encoding="utf-8").replace("</head>", _CAPTION_FIRST, 1)
    return _FRAME.format(page=html.escape(shown))


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="RUN_OR_FILE", help="default: all of runs/")
    port = option_type(Whole(1, 65_535))
    parser.add_argument("--port", type=port, help="of the page; default: the first that is free")
    options = parser.parse_args()
    models = options.models or sorted(str(path.parent) for path in Path("runs").glob("*/best.npz"))
    if not models:
        raise ValueError("runs: no trained model there; first: python training.py --model lstm")
    try:
        import gradio
    except ImportError as error:
        raise ValueError(f'needs Gradio ({error}): pip install -e ".[app]"') from error

    def answer(*asked) -> str:
        try:
            return caption(*asked)
        except (ValueError, OSError, ImportError) as error:
            raise gradio.Error(html.escape(str(error))) from error

    with gradio.Blocks(title="Caption from Scratch", analytics_enabled=False) as app:
        gradio.Markdown("# Caption a photo")
        sources = ["upload", "webcam"]
        photo = gradio.Image(type="filepath", sources=sources, label="Photo", height=320)
        model = gradio.Dropdown(models, value=models[0], label="Model")
        decoder = gradio.Radio(["beam", "greedy", "sample"], value="beam", label="Decoder")
        beam_size = gradio.Slider(1, 20, value=5, step=1, label="Beam size, for beam")
        button, shown = gradio.Button("Caption", variant="primary"), gradio.HTML()
        for event in (button.click, photo.upload):
            event(answer, [photo, model, decoder, beam_size], shown)
    app.launch(server_port=options.port)


if __name__ == "__main__":
    run_command(main)
