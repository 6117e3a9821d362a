"""From an empty file to a captioner made only of your own code.

    python -m core.workbook new my_layers.py        every function of the road, empty
    python -m core.workbook watch my_layers.py      an answer at every save
    python -m core.workbook check my_layers.py      how far it is

Exit code of check: 0 when all functions of the file hold, 1 when one does not.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from core.support.command_line import ArgumentParser, quoted, run_command
from core.workbook.road import ROAD, Chapter


def main() -> int:
    parser = ArgumentParser(
        prog="python -m core.workbook",
        description=__doc__.split("\n")[0],
        epilog="new takes --only and --from, check takes --hint: see COMMAND --help",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    new = commands.add_parser("new", help="write the file, with every function of the road empty")
    check = commands.add_parser("check", help="say once what holds, what is wrong, what is empty")
    watch = commands.add_parser("watch", help="answer at every save, with hints")
    for command in (new, check, watch):
        command.add_argument("file", metavar="FILE.py", help="your functions")
    chapters = new.add_mutually_exclusive_group()
    names = ", ".join(chapter.name for chapter in ROAD)
    chapters.add_argument(
        "--only", type=_chapters, metavar="NAME[,NAME]", help=f"these chapters alone: {names}"
    )
    chapters.add_argument(
        "--from", dest="first", type=_chapter, metavar="NAME", help="from here on"
    )
    check.add_argument(
        "--hint",
        type=int,
        choices=(1, 2, 3),
        default=1,
        help="how much to say of what is wrong",
    )
    arguments = parser.parse_args()

    if arguments.command == "new":
        return _new(arguments.file, arguments.only, arguments.first)
    if arguments.command == "check":
        from core.workbook.checking import check

        return check(arguments.file, arguments.hint)
    from core.workbook.watching import watch

    return watch(arguments.file)


def _new(file: str, only: Sequence[Chapter] | None, first: Chapter | None) -> int:
    from core.workbook.new import write_workbook

    chapters = ROAD[ROAD.index(first) :] if first else only or ROAD
    write_workbook(file, chapters)
    count = sum(len(chapter.functions) for chapter in chapters)
    print(f"{file}: {count} functions to write, beginning with {chapters[0].functions[0]}")
    print(f"next: python -m core.workbook watch {quoted(file)}")
    return 0


def _chapter(text: str) -> Chapter:
    """A chapter by its name, or by the number of its lesson."""
    for chapter in ROAD:
        if text.strip() in (chapter.name, str(chapter.number)):
            return chapter
    names = ", ".join(f"{chapter.name} ({chapter.number})" for chapter in ROAD)
    raise argparse.ArgumentTypeError(f"found {text!r}, expected one of {names}")


def _chapters(text: str) -> list[Chapter]:
    wanted = [_chapter(name) for name in text.split(",")]
    return [chapter for chapter in ROAD if chapter in wanted]


if __name__ == "__main__":
    run_command(main)
