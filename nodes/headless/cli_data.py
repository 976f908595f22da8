"""`graft data ...`: looking at pictures before anything is trained on them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...training.errors import InputError, NotPassedError
from .terminal import Reporter

Add = Callable[..., argparse.ArgumentParser]
TABLE_ENDINGS = (".jsonl", ".csv")
"""Of tables of pictures that lie beside them."""
SHEET_PICTURES, SHEET_LIMIT = 12, 96
"""As the node Check Dataset has them."""
KIND_NAMES = ("auto", "folder", "table", "tar", "parquet")
"""As training.data.sources.choose.KINDS, which takes a second to import."""


def add_data(commands: Any, add: Add) -> None:
    """The command and its own commands.

    Args:
        commands: the top parser's.
        add: makes one command of a name, a function and a text.
    """
    text = "look at pictures before they are trained on"
    inner = commands.add_parser("data", help=text, description=f"{text.capitalize()}.").add_subparsers(required=True, metavar="COMMAND")
    _add_check(inner, add)
    _add_bench(inner, add)


def _add_check(commands: Any, add: Add) -> None:
    epilog = (
        "Exit codes: 0 if nothing stands in the way of training, 1 if something does (the report says what), 2 if the path cannot be looked at or an "
        "option is wrong. What is read is remembered, so that a second check is fast and encoding need not "
        "read it again; --forget reads everything anew."
    )
    added = add(commands, "check", _check, "report what is in a folder, table or archive of pictures, and what is wrong with it", epilog)
    added.add_argument("path", type=Path, metavar="FOLDER", help="a folder, a table (.jsonl, .csv), a .tar archive or a .parquet table")
    added.add_argument("--json", action="store_true", help="print JSON, every problem listed")
    added.add_argument("--sheet", type=Path, metavar="PNG", help="write a contact sheet there: pictures as they are trained, with hints and captions")
    added.add_argument("--sheet-pictures", type=int, default=SHEET_PICTURES, metavar="N", help=f"pictures on it (default: {SHEET_PICTURES})")
    added.add_argument("--decode", action="store_true", help="decode every picture too: finds what is damaged inside of whole files")
    added.add_argument("--kind", choices=KIND_NAMES, default="auto", help="what it is (default: by what lies there)")
    added.add_argument("--hints", type=Path, metavar="FOLDER", help="ready-made hints under the pictures' names")
    added.add_argument("--resolution", type=int, default=512, metavar="PX", help="side of the square that is trained in (default: 512)")
    added.add_argument("--buckets", metavar="MIN-MAX/STEP", help="buckets in place of the square, such as 256-1024/64")
    added.add_argument("--held-out", type=int, default=0, metavar="N", help="pictures to hold out (default: 0)")
    added.add_argument("--held-out-share", type=float, default=0.0, metavar="SHARE", help="share of the pictures to hold out (default: 0)")
    added.add_argument("--missing-captions", choices=("stop", "empty", "folder name"), default="stop", help="as in Picture Source (default: stop)")
    added.add_argument("--picture-column", default="", metavar="NAME", help="column of pictures (default: the usual names)")
    added.add_argument("--caption-column", default="", metavar="NAME", help="column of captions")
    added.add_argument("--hint-column", default="", metavar="NAME", help="column of hints")
    added.add_argument("--cache", type=Path, metavar="FOLDER", help="where it would be encoded to (default: this command's own cache)")
    added.add_argument("--forget", action="store_true", help="do not believe what is remembered of files")


def _check(arguments: argparse.Namespace, reporter: Reporter) -> None:
    from ...training.data.check import check_dataset
    from ...training.data.check_sheet import contact_sheet
    from ...training.data.check_text import counted, report_text
    from ...training.data.encoded import ENCODED_FOLDER
    from ...training.data.known import IN_MEMORY, known_in
    from .host import HeadlessHost

    _require_sheet(arguments)
    dataset = _dataset(arguments)
    cache = arguments.cache or HeadlessHost().cache_folder() / ENCODED_FOLDER
    known = IN_MEMORY if arguments.forget else known_in(cache)
    check = check_dataset(dataset, str(arguments.path), cache, known, reporter.progress(), decode=arguments.decode)
    sheet, report = contact_sheet(dataset, check, arguments.sheet_pictures)
    reporter.clear()
    if arguments.sheet is not None:
        _write_png(arguments.sheet, sheet)
        reporter.line(f"contact sheet: {arguments.sheet}")
    print(json.dumps(report.as_json(), ensure_ascii=False, indent=2) if arguments.json else report_text(report))
    if not report.is_sound:
        found = report.split_problem or (counted(len(report.problems), "problem") if report.problems else "no pictures")
        raise NotPassedError(str(arguments.path), expected="pictures that can all be trained on", found=found, remedy="See the report.")


def _require_sheet(arguments: argparse.Namespace) -> None:
    """Raises:
    InputError: the contact sheet is to be no PNG file, or to lie among the pictures, one of which it might replace.
    """
    sheet = arguments.sheet
    if not 1 <= arguments.sheet_pictures <= SHEET_LIMIT:
        raise InputError("--sheet-pictures", expected=f"1 to {SHEET_LIMIT}", found=arguments.sheet_pictures, remedy="12 fill two rows.")
    if sheet is None:
        return
    if sheet.suffix.lower() != ".png":
        raise InputError("--sheet", expected="the name of a .png file", found=sheet, remedy="Call it sheet.png, for example.")
    pictures = arguments.path if arguments.path.is_dir() else arguments.path.parent if arguments.path.suffix in TABLE_ENDINGS else None
    if pictures is not None and sheet.resolve().is_relative_to(pictures.resolve()):
        raise InputError("--sheet", expected="a file outside of the pictures' folder", found=sheet, remedy="It would count as one of the pictures.")


def _add_bench(commands: Any, add: Add) -> None:
    epilog = (
        "Draws two sets of large pictures, one with a tenth of the other's, and one of many small ones; measures the memory of checking, encoding "
        "and loading, pictures per second beside PIL with torch's DataLoader, and how soon a second start has its first batch; removes the sets. "
        "With the default sizes it takes about 14 GB on the disk and, on two cores that nobody else uses, about 15 minutes."
    )
    added = add(commands, "bench", _bench, "measure memory and speed of checking, encoding and loading pictures", epilog)
    added.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as JSON")
    added.add_argument("--pictures", type=int, default=6000, metavar="N", help="large pictures (default: 6000)")
    added.add_argument("--size", type=int, default=1024, metavar="PX", help="side of the large pictures (default: 1024)")
    added.add_argument("--small", type=int, default=100_000, metavar="N", help="small pictures (default: 100000)")
    added.add_argument("--small-size", type=int, default=64, metavar="PX", help="side of the small pictures (default: 64)")
    added.add_argument("--folder", type=Path, metavar="DIR", help="where the sets lie meanwhile (default: the system's temporary folder)")


def _bench(arguments: argparse.Namespace, reporter: Reporter) -> None:
    from ...training.data.bench_data import BenchSets, describe, run_data_bench

    sets = BenchSets(pictures=arguments.pictures, size_px=arguments.size, small=arguments.small, small_px=arguments.small_size)
    figures = run_data_bench(arguments.json, sets, arguments.folder, reporter.progress())
    reporter.clear()
    print(describe(figures))


def _dataset(arguments: argparse.Namespace) -> Any:
    from ...training.data.canny import CannyRecipe
    from ...training.data.dataset import GivenHints
    from ...training.data.picture_set import PictureSet
    from ...training.data.sources.choose import Origin, gives_hints, open_source
    from ...training.data.sources.columns import Columns

    columns = Columns(picture=arguments.picture_column, caption=arguments.caption_column, hint=arguments.hint_column)
    source = open_source(Origin(path=arguments.path, kind=arguments.kind, columns=columns, hints=arguments.hints))
    return PictureSet(
        source=source, resolution_px=arguments.resolution, hint=GivenHints() if gives_hints(source) else CannyRecipe(), held_out=arguments.held_out,
        held_out_share=arguments.held_out_share, caption_missing=arguments.missing_captions, framing=_framing(arguments.buckets),
    )  # fmt: skip


def _framing(text: str | None) -> Any:
    """`256-1024/64`: shortest side, longest side, step."""
    from ...training.data.buckets import Buckets
    from ...training.data.framing import PLAIN, Framing

    if text is None:
        return PLAIN
    ends, _, step = text.partition("/")
    try:
        low, high = (int(end) for end in ends.split("-"))
        return Framing(buckets=Buckets(min_px=low, max_px=high, step_px=int(step or 64)))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError("--buckets", expected="MIN-MAX/STEP in pixels", found=text, remedy="256-1024/64 is usual.") from error


def _write_png(path: Path, picture: Any) -> None:
    from ...training.files.write import write_bytes
    from ...training.opencv import cv2

    write_bytes(path, cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes())
