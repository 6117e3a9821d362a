"""How good are captions? BLEU, ROUGE-L and CIDEr-D: the numbers of the COCO scorers, without Java.

    python inference.py --model attention --split val --out captions.json
    python -m core.metrics --candidates captions.json --references Flickr8k
    python -m core.metrics --candidates captions.json --references Flickr8k --controls

Captions must be free-running ones: a model that is told the true words so far, as in training,
scores better than it can say.

References are a caption file (JSON {image id or file name: [captions]}, COCO's annotations,
Karpathy's JSON, ...), a photo folder as ``core.flickr8k`` reads it, or a data folder. Images are
matched by file name wherever both sides have them. The captions of a data folder are as its
vocabulary has them: each rare word is counted as a word that nobody says, and words with a hyphen
are apart. Scores to be compared with others' need the photo folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from core.coco_utils import SPLITS
from core.metrics.baselines import controls
from core.metrics.caption_files import read_candidates, read_references
from core.metrics.matching import match
from core.metrics.scores import METRICS, score
from core.support.command_line import ArgumentParser, non_negative_int, run_command


def _print_scores(rows: Mapping[str, Mapping[str, float] | None]) -> None:
    width = max(map(len, rows))
    print(" " * width + "".join(f"{name:>9}" for name in METRICS))
    for name, scores in rows.items():
        if scores is not None:
            numbers = (scores[metric] for metric in METRICS)
            cells = ("-" if number is None else f"{number:.1f}" for number in numbers)
            print(f"{name:<{width}}" + "".join(f"{cell:>9}" for cell in cells))


def counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def main() -> int:
    parser = ArgumentParser(prog="python -m core.metrics", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--candidates",
        required=True,
        metavar="FILE.json",
        help="captions in COCO's results format, as inference.py --out writes them",
    )
    parser.add_argument(
        "--references",
        required=True,
        metavar="FILE_OR_DIR",
        help="a caption file (COCO's annotations, Karpathy's JSON, {image: [captions]}, ...), "
        "a photo folder or a data folder",
    )
    parser.add_argument(
        "--split",
        choices=SPLITS,
        help="images of this split (default: the split that the candidates are of; of a data "
        "folder val)",
    )
    parser.add_argument(
        "--seed",
        type=non_negative_int,
        help="the --seed of core.flickr8k, for a photo folder without split lists",
    )
    parser.add_argument(
        "--subset", action="store_true", help="leave out images that have no candidate"
    )
    parser.add_argument(
        "--controls", action="store_true", help="score wrong and human captions, too"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead")
    options = parser.parse_args()

    rows = read_candidates(options.candidates)
    source = read_references(options.references, options.split, options.seed)
    matched = match(options.candidates, rows, source, options.subset)
    candidates, references = matched.candidates, matched.references
    result: dict = score(candidates, references)
    result |= {"images": len(candidates), "references": sum(map(len, references.values()))}
    result |= {"of": matched.of, "where": matched.where, "matched by": matched.by}
    if source.account:
        result["account"] = source.account
    failed = False
    if options.controls:
        training = None if source.training is None else source.training()
        checked = result["controls"] = controls(candidates, references, training)
        failed = checked["shuffled"]["CIDEr-D"] >= result["CIDEr-D"] / 2
        checked["passed"] = not failed
    notes = [*source.notes, *matched.remarks()]
    if notes:
        result["note"] = "; ".join(notes)
    if options.json:
        print(json.dumps(result, indent=1))
        return int(failed)

    table = {"candidates": result}
    if options.controls:
        table |= {
            "people, one against the others": checked["people"],
            "one caption for all": checked["constant"],
            "shuffled over the images": checked["shuffled"],
        }
    _print_scores(table)
    images, written = counted(result["images"], "image"), counted(result["references"], "reference")
    for line in source.account:
        print(f"references: {line}")
    print(
        f"scored {result['images']:,} of {matched.of:,} images of {matched.where}, "
        f"matched by {matched.by}"
    )
    print(
        f"{images}, {written}; the candidates have {result['length ratio']:.2f} times the words of "
        "the references"
    )
    print("scale: 0 to 100, CIDEr-D to 1,000 (the COCO tools print 0.54 for 54)")
    if options.controls:
        known = "the training captions are not known"
        novel = known if checked["novel"] is None else f"{checked['novel']:.1%}"
        print(f"distinct captions: {checked['distinct']:.1%}; novel captions: {novel}")
        print(f"one caption for all: {checked['constant caption'] or '(no words)'}")
        if checked["people"] is None:
            print("people: left out, no image has two references")
    for note in notes:
        print(f"note: {note}")
    if failed:
        print(
            "failed: CIDEr-D does not fall by more than half when captions are shuffled over the "
            "images; they say little of their own image"
        )
    return int(failed)


if __name__ == "__main__":
    run_command(main)
