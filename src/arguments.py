"""Command lines: the arguments that many commands share, and mistakes in them told in one line."""

import argparse
from pathlib import Path
from typing import NoReturn

from src.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse's parser, whose errors are UserErrors."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message}; see {self.prog} -h")

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """Parse as argparse does, and raise UserError for text and paths that no file could name again.

        Names of files are bytes to the system, but paths are written into tables and JSON, which hold UTF-8 alone.
        """
        parsed = super().parse_args(args, namespace)
        for name, value in vars(parsed).items():
            for each in value if isinstance(value, list) else [value]:
                # a relative path, or a link, may lead to a folder with another name
                text = str(each.absolute().resolve()) if isinstance(each, Path) else str(each)
                try:
                    text.encode()
                except UnicodeEncodeError:
                    shown = ascii(text.encode(errors="surrogateescape"))[2:-1]
                    raise UserError(f"{name} {shown}: expected a name in UTF-8; rename it") from None
        return parsed

    def add_detector(self) -> None:
        """Add `--detector`, the folder of a trained detector; None for the one that a command finds by itself."""
        self.add_argument(
            "--detector",
            type=Path,
            help="the detector's folder (default: model/detector under --root, else the one in the box)",
        )

    def add_root(self) -> None:
        """Add `--root`."""
        self.add_argument(
            "--root", type=Path, default=Path(), help="folder of input/ cache/ model/ submission/ (default: here)"
        )

    def add_overrides(self) -> None:
        """Add `--set`, a list of `key=value`."""
        self.add_argument(
            "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override keys of the conf"
        )

    def add_folds(self, what: str) -> None:
        """Add `--fold`, a list of folds without repetition. what: the networks of these folds do."""
        self.add_argument(
            "--fold", type=int, nargs="+", action=Distinct, required=True, metavar="K", help=f"{what}, from 0"
        )

    def add_epoch(self) -> None:
        """Add `--epoch`, the classifier's whose checkpoints embed."""
        self.add_argument(
            "--epoch", type=positive, default=3, metavar="E", help="epoch of the classifier's checkpoints (default 3)"
        )

    def add_epochs(self) -> None:
        """Add `--epochs`, a list of epochs without repetition."""
        self.add_argument(
            "--epochs",
            type=positive,
            nargs="+",
            action=Distinct,
            default=[2, 3],
            metavar="E",
            help="epochs whose checkpoints predict (default 2 3)",
        )


class Distinct(argparse.Action):
    """Store a list of values, each once, in the order given."""

    def __call__(self, parser, namespace, values, option_string=None):  # type: ignore[no-untyped-def]
        """Store them: argparse calls this."""
        setattr(namespace, self.dest, list(dict.fromkeys(values)))


def positive(text: str) -> int:
    """An integer of at least 1, as an argparse type."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: expected 1 or more")
    return number


def fraction(text: str) -> float:
    """A number from 0 to 1, as an argparse type."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{number}: expected a fraction from 0 to 1")
    return number


def natural(text: str) -> int:
    """An integer of at least 0, as an argparse type."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number}: expected 0 or more")
    return number
