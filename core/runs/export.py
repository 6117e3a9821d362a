"""A model to pass on: one file that captions photos anywhere, with a card that says what it is.

    python inference.py --checkpoint RUN --split val --out captions.json
    python -m core.runs.export --checkpoint RUN --out model.safetensors --captions captions.json
    python inference.py --checkpoint model.safetensors --image photo.jpg

The file is a checkpoint (``core/checkpoint.py``) without what only a training needs, and with the
encoder. A name that ends in .npz or .safetensors chooses the format; both hold the same, bit for
bit. The card is in the file, and beside it as FILE.md.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from core.support.choices import GIVEN
from core.support.command_line import ArgumentParser, quoted, run_command
from core.support.files import hash_of_file, parse_json, read_text, try_out, write_text
from core.support.schema import ListOf, Text

SUFFIXES = (".npz", ".safetensors")
_SHOWN = 10  # captions
_WORST = 3
_FIGURES = {
    "train_perplexity": "perplexity in training",
    "val_perplexity": "perplexity in validation",
    "BLEU-4": "BLEU-4",
    "CIDEr-D": "CIDEr-D",
}
_EMBEDDED = "shapes"  # what --data calls the pictures that the program draws
_PLACES = ("data", "weights", "init")  # settings that name a place on the machine of the training


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m core.runs.export",
        description="Write a trained model as one file to pass on, with a card.",
    )
    parser.add_argument(
        "--checkpoint", required=True, metavar="RUN_OR_FILE", help="a run folder or a checkpoint"
    )
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="to write: .npz, or .safetensors for others"
    )
    parser.add_argument(
        "--captions",
        metavar="FILE.json",
        help="what the model says, of inference.py --out: ten of them go into the card",
    )
    parser.add_argument(
        "--references",
        metavar="FILE_OR_DIR",
        help="score --captions against these, as core.metrics does",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="of the numbers; float16 takes half the room",
    )
    parser.add_argument("--weights", metavar="FILE", help="the encoder's weights, if moved")
    parser.add_argument(
        "--no_encoder", action="store_true", help="leave the encoder out, named with its hash"
    )
    parser.add_argument("--licence", metavar="TEXT", help="of the data, and of this model")
    parser.add_argument("--purpose", metavar="TEXT", help="what the model was trained for")
    parser.add_argument("--wrong", metavar="TEXT", help="what it gets wrong, in your words")
    return parser


# ---------------------------------------------------------------------------------------------
# The file
# ---------------------------------------------------------------------------------------------


def to_pass_on(checkpoint, dtype: str, encoder_state: Mapping | None = None):
    """A checkpoint without its training state and without places on this machine.

    Inputs:
    - checkpoint: a ``core.checkpoint.Checkpoint``
    - dtype: 'float32' or 'float16', of the parameters
    - encoder_state: of an encoder that did not learn, to go with it

    Raises ValueError for a parameter that float16 cannot hold.
    """
    import numpy as np

    from core.checkpoint import ENCODER

    params = dict(checkpoint.params)
    params |= {ENCODER + name: array for name, array in (encoder_state or {}).items()}
    for name, array in params.items():
        if array.dtype.kind != "f":  # counters of batch normalisation
            continue
        with np.errstate(over="ignore"):
            params[name] = array.astype(dtype)
        if not np.isfinite(params[name]).all():
            raise ValueError(
                f"--dtype {dtype}: {name} has numbers up to {np.abs(array).max():.3g}, which "
                f"{dtype} cannot hold; take a larger type"
            )
    settings = {
        name: _last_of(value) if name in _PLACES and value else value
        for name, value in checkpoint.settings.items()
    }
    if settings.get("impl"):
        settings["impl"] = settings["impl"] | {"file": Path(settings["impl"]["file"]).name}
    extractor = checkpoint.extractor
    if extractor and extractor["weights"]:
        extractor = extractor | {"weights": Path(extractor["weights"]).name}
    kept = {k: v for k, v in checkpoint.training.items() if k in ("epoch", "max_length")}
    return replace(
        checkpoint,
        config=checkpoint.config | {"dtype": "float32"},
        params=params,
        settings=settings,
        extractor=extractor,
        training=kept,
        optimizer={},
    )


def _last_of(place: str) -> str:
    """A place without the folders above it; a folder called shapes is not the embedded data."""
    name = Path(place).name
    return f"./{name}" if name == _EMBEDDED and place != _EMBEDDED else name


def without_encoder(checkpoint):
    """A checkpoint without an encoder that is in another file as well.

    Raises ValueError for one that learned with the decoder.
    """
    if checkpoint.encoder_state and checkpoint.settings.get("finetune_encoder") != 0:
        raise ValueError(
            "--no_encoder: its encoder learned with it and is in no other file; leave the option "
            "out"
        )
    return replace(checkpoint, params=checkpoint.decoder_params)


def frozen_encoder(checkpoint, weights: str | None) -> dict | None:
    """The state of an encoder that did not learn; None where there is none to pass on.

    Raises ValueError for an encoder whose features come from layers above its grid, and as
    ``core.encoders.Extractor`` does when its weights are not there.
    """
    extractor = checkpoint.extractor
    if not extractor or extractor["encoder"] in (GIVEN, "fixed_cnn") or checkpoint.encoder_state:
        return None
    if extractor["output"] == "fc7":
        raise ValueError(
            "--checkpoint: its features are fc7 of VGG16, 500 MB that nobody would want in a file "
            "with a decoder; add --no_encoder, and the file names the weights with their hash"
        )
    from core.encoders.weights import state_of_stages
    from core.runs.data import extractor_of

    network = extractor_of(checkpoint, weights).network
    return {name: x.detach().cpu().numpy() for name, x in state_of_stages(network).items()}


# ---------------------------------------------------------------------------------------------
# The card
# ---------------------------------------------------------------------------------------------


def card(options, checkpoint, name: str, row: Mapping | None) -> str:
    """The model card, in Markdown.

    Inputs:
    - options: of the command
    - checkpoint: as it will be written
    - name: of the file
    - row: what metrics.jsonl says of the epoch, or None
    """
    sections = {
        "What it is": _what(checkpoint, options.purpose, options.dtype),
        "What looks at the photos": _eyes(checkpoint),
        "Data": _data(checkpoint, options.licence),
        "Scores": _scores(options, checkpoint, row),
        **_said(options, checkpoint),
        "To use it": _use(checkpoint, name),
    }
    return f"# {name}\n\n" + "\n\n".join(f"## {k}\n\n{v}" for k, v in sections.items()) + "\n"


def _what(checkpoint, purpose: str | None, dtype: str) -> str:
    count = sum(x.size for x in checkpoint.decoder_params.values())
    return (
        f"{purpose or 'Trained to learn how captioning models learn; for no other use.'}\n\n"
        f"An image captioning model of Caption from Scratch: `{checkpoint.model}`, {count:,} "
        f"parameters in {dtype}, {len(checkpoint.idx_to_word):,} words.\n\n"
        f"    {_training_command(checkpoint)}"
    )


def _training_command(checkpoint) -> str:
    """What was typed, but for where files are: the settings that are not the defaults."""
    from core.runs.settings import DEFAULTS, MODEL_DEFAULTS, OVERFIT_DEFAULTS

    settings = checkpoint.settings
    usual = DEFAULTS | MODEL_DEFAULTS.get(checkpoint.model, {})
    if settings.get("num_samples") is not None:
        usual |= OVERFIT_DEFAULTS
    words = ["python training.py --model", checkpoint.model]
    for name, value in settings.items():
        if name in ("model", "device", "workers") or value == usual.get(name) or value is None:
            continue
        if value is False:
            continue
        value = value["file"] if name == "impl" else value
        words.append(f"--{name}" if value is True else f"--{name} {quoted(str(value))}")
    return " ".join(words)


def _eyes(checkpoint) -> str:
    extractor = checkpoint.extractor
    if not extractor:
        return "Not known: the features it was trained on do not say what made them."
    if extractor["encoder"] == GIVEN:
        made_by = json.dumps(extractor["made_by"], sort_keys=True)
        return f"Another program: `{made_by}`. Its features of a photo go with `--features`."
    grid = f", averaged to {extractor['grid']} x {extractor['grid']}" if "grid" in extractor else ""
    text = f"`{extractor['encoder']}`, output `{extractor['output']}`{grid}"
    text += ", and a PCA of it, which is in the file" if checkpoint.extractor_arrays else ""
    if checkpoint.encoder_state:
        return text + ". The encoder is in the file."
    if extractor["encoder"] == "fixed_cnn":
        return text + ". It is part of the program and has no weights."
    return (
        f"{text}. The encoder is not in the file: give its weights, `{extractor['weights']}`, with "
        f"`--weights`. Their SHA-256 is `{extractor['sha256']}`, which is checked."
    )


def _data(checkpoint, licence: str | None) -> str:
    from core.runs.data import learns_mirrored

    name = checkpoint.settings.get("data", _EMBEDDED)
    if name == _EMBEDDED:
        return (
            "The embedded pictures of coloured shapes, which the program draws. They are under its "
            f"licence, MIT. {licence or ''}".rstrip()
        )
    few = checkpoint.settings.get("num_samples")
    photos = checkpoint.data.get("train", {}).get("photos")  # a file of an early version lacks it
    count = f", {photos:,} photos to train on" if photos is not None else ""
    if photos is not None and learns_mirrored(checkpoint.settings):
        count += ", and in a mirror, too"
    if few is not None:
        count = f", {few:,} captions to train on"
    unknown = "not known. Ask those who passed this on before you use it"
    return f"`{name}`{count}. Licence: {licence or unknown}."


def _scores(options, checkpoint, row: Mapping | None) -> str:
    lines = []
    if row is not None:
        from core.recipes.validation import BEAM_SIZE, MOST

        figures = [f"{v} {row[k]:.4g}" for k, v in _FIGURES.items() if row.get(k) is not None]
        lines.append(
            f"While training, after epoch {row['epoch']}, the one that is in the file "
            f"(from metrics.jsonl, where captions are of {BEAM_SIZE} beams, and of at most "
            f"{MOST} images): {', '.join(figures)}."
        )
    if options.references:
        from core.metrics import METRICS
        from core.metrics.caption_files import read_candidates, read_references
        from core.metrics.matching import match
        from core.metrics.scores import score

        rows = read_candidates(options.captions)
        source = read_references(options.references)
        matched = match(options.captions, rows, source)
        found = score(matched.candidates, matched.references)
        figures = [f"{k} {found[k]:.1f}" for k in METRICS if found[k] is not None]
        names = [quoted(Path(each).name) for each in (options.captions, options.references)]
        lines.append(
            f"Captions of {len(matched.candidates):,} of {matched.of:,} images, from 0 to 100 and "
            f"CIDEr-D to 1,000: {', '.join(figures)}.\n\n"
            f"    python -m core.metrics --candidates {names[0]} --references {names[1]}"
        )
        lines += [f"Note: {note}." for note in [*source.notes, *matched.remarks()]]
    return "\n\n".join(lines) or "Not known: nobody said them when this file was made."


def _said(options, checkpoint) -> dict[str, str]:
    """Ten captions spread over all of them, and where they are worst."""
    from core.metrics.caption_files import read_candidates

    rows = read_candidates(options.captions)
    for row in rows:
        if fault := ListOf(Text()).fault(row.setdefault("references", [])):
            raise ValueError(
                f"--captions {options.captions}: the references of {row['image_id']}: {fault}; "
                "write the file again with inference.py --out"
            )
    said = Counter(row["caption"] for row in rows)
    words, times = said.most_common(1)[0]
    facts = [options.wrong] if options.wrong else []
    if learned := checkpoint.settings.get("num_samples"):
        facts.append(f"It was trained on {learned:,} captions, and on no others.")
    facts.append(
        f"Of {len(rows):,} captions {len(said):,} are different; the commonest, "
        f'"{_plain(words)}", was said {"once" if times == 1 else f"{times:,} times"}.'
    )
    facts.append(
        "It knows only the words and the kinds of pictures that it was trained on, and says "
        "something of any other picture all the same."
    )
    if len(rows) > 1 and all(row["references"] for row in rows):
        from core.show.report import score_captions

        _, alone = score_captions([r["caption"] for r in rows], [r["references"] for r in rows])
        wrong = [i for i, row in enumerate(rows) if row["caption"] not in row["references"]]
        worst = sorted(wrong, key=lambda i: alone[i]["CIDEr-D"])[:_WORST]
        if worst:
            table = _table([rows[i] for i in worst])
            facts.append(f"Farthest from what people wrote, by CIDEr-D:\n\n{table}")
    count = min(_SHOWN, len(rows))
    spread = [rows[i * len(rows) // count] for i in range(count)]
    title = f"{count} of the captions, evenly spread over {Path(options.captions).name}"
    return {"What it gets wrong": "\n\n".join(facts), title: _table(spread)}


def _table(rows: list[dict]) -> str:
    lines = ["| image | caption | a person wrote |", "| --- | --- | --- |"]
    for row in rows:
        name = Path(row.get("file_name") or row["image_id"]).name
        cells = (name, row["caption"] or "(no words)", (row["references"] or [""])[0])
        lines.append(f"| {' | '.join(map(_plain, cells))} |")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text as Markdown shows it, in one line: <UNK> would pass for HTML, and a bar for a column."""
    return " ".join(re.sub(r"([|*_`\\\[\]])", r"\\\1", text).replace("<", "&lt;").split())


def _use(checkpoint, name: str) -> str:
    extractor, images = checkpoint.extractor, "--image photo.jpg"
    inside = "Preprocessing and vocabulary are in the file"
    if not extractor:
        images = "--data DIR --split val"
        inside = "DIR is the data set, with its features; the vocabulary is in the file"
    elif extractor["encoder"] == GIVEN:
        images += " --features FILE.h5"
    elif extractor["sha256"] is not None and not checkpoint.encoder_state:
        images += f" --weights {quoted(extractor['weights'])}"
    return (
        f"    python inference.py --checkpoint {quoted(name)} {images}\n\n"
        f"An address, https://..., does as well as a file. {inside}; nothing in it is run."
    )


# ---------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------


def row_of_epoch(path: Path, epoch: int | None) -> dict | None:
    """What metrics.jsonl beside a checkpoint says of its epoch; None where it says nothing."""
    metrics = path.with_name("metrics.jsonl")
    if not metrics.is_file():
        return None
    rows = [parse_json(metrics, line) for line in read_text(metrics).splitlines() if line.strip()]
    return next((r for r in rows if isinstance(r, dict) and r.get("epoch") == epoch), None)


def main() -> None:
    options = build_parser().parse_args()
    out = Path(options.out)
    if out.suffix not in SUFFIXES:
        raise ValueError(f"--out {out}: expected a name that ends in {' or '.join(SUFFIXES)}")
    beside = out.with_name(out.name + ".md")
    for path in (out, beside):
        if path.exists():
            raise FileExistsError(f"--out {path}: is there already; remove it, or take another")
    try_out("--out", out)
    from core.runs.settings import find_checkpoint

    path = find_checkpoint("--checkpoint", options.checkpoint)
    if options.captions is None:
        run = quoted(options.checkpoint)
        raise ValueError(
            "--captions: a card shows ten captions; make them with python inference.py "
            f"--checkpoint {run} --split val --out captions.json, then add --captions captions.json"
        )
    from core.checkpoint import load_checkpoint, save_checkpoint

    found = load_checkpoint(path)
    found = without_encoder(found) if options.no_encoder else found
    state = None if options.no_encoder else frozen_encoder(found, options.weights)
    if options.weights and state is None:
        raise ValueError(
            f"--weights {options.weights}: no encoder is read from a file here; leave the option "
            "out"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = to_pass_on(found, options.dtype, state)
    row = row_of_epoch(path, found.training.get("epoch"))
    checkpoint = replace(checkpoint, card=card(options, checkpoint, out.name, row))
    save_checkpoint(out, checkpoint)
    digest = hash_of_file(out)
    write_text(beside, checkpoint.card + f"\nSHA-256 of the file: `{digest}`\n")
    print(f"{out}: {out.stat().st_size / 1e6:,.1f} MB; its card: {beside}")
    print(f"from an address, take it with its hash: ADDRESS#sha256={digest}")


if __name__ == "__main__":
    run_command(main)
