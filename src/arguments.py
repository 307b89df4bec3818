"""Command lines: what argparse finds wrong is a user's mistake like any other, told in one line."""

import argparse
from typing import NoReturn

from src.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse's parser, whose errors are UserErrors."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message}; see {self.prog} -h")


def positive(text: str) -> int:
    """An integer of at least 1, as an argparse type."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: expected 1 or more")
    return number


def share(text: str) -> float:
    """A number from 0 to 1, as an argparse type."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{number}: expected a share from 0 to 1")
    return number


def natural(text: str) -> int:
    """An integer of at least 0, as an argparse type."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number}: expected 0 or more")
    return number
