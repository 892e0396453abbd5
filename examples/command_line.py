"""What the command lines of all examples share: where the picture goes, and a short form."""

import argparse
import os
from pathlib import Path

from matplotlib.figure import Figure


def new_parser(doc, picture, quick="a few short runs, to see it work"):
    """A parser with `--output` and `--quick`, described by the first line of an example's text."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    words = f"the picture, whose ending says the format ({picture})"
    parser.add_argument("--output", type=picture_path, default=picture, help=words)
    parser.add_argument("--quick", action="store_true", help=quick)
    return parser


def picture_path(text):
    """A file that can be drawn to; argparse says what is wrong before anything is computed."""
    path = Path(text)
    formats = sorted(Figure().canvas.get_supported_filetypes())
    if path.suffix[1:].lower() not in formats:
        wanted = ", .".join(formats)
        raise argparse.ArgumentTypeError(f"should end in one of .{wanted}, got {text}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write to {text}")
    return path
