"""Unpack the CSV files of Kaggle's zip that are not there yet; the slices stay in the zip."""

from pathlib import Path

from src.arguments import Parser
from src.dicom.archive import extract, find_members
from src.errors import UserError, run_command
from src.files.atomic import replacing
from src.files.tables import MOST_CSV_BYTES

NAMES = tuple(f"stage_{stage}_{name}.csv" for stage in (2, 1) for name in ("train", "sample_submission"))


def main() -> None:
    """Read the arguments, unpack, and report."""
    parser = Parser(
        prog="python -m src.preprocess.unpack_csv",
        description=__doc__,
        epilog="example: python -m src.preprocess.unpack_csv "
        "--archive input/rsna-intracranial-hemorrhage-detection.zip --output input",
    )
    parser.add_argument("--archive", type=Path, required=True, help="Kaggle's zip")
    parser.add_argument("--output", type=Path, required=True, help="folder for the CSV files")
    args = parser.parse_args()
    if not args.archive.is_file():
        raise UserError(f"{args.archive} is missing; expected Kaggle's zip")
    members = [each for each in find_members(args.archive, list(NAMES)) if each is not None]
    if not members:
        raise UserError(f"{args.archive} holds none of {', '.join(NAMES)}; is it this competition's?")
    inflated = sum(each.size for each in members)
    if inflated > MOST_CSV_BYTES:
        raise UserError(f"{args.archive}: its CSV files inflate to {inflated} bytes; expected {MOST_CSV_BYTES} at most")
    lacking = [name for name in NAMES if not (args.output / name).exists()]
    unpacked = extract(args.archive, lacking)
    for name, contents in unpacked.items():
        with replacing(args.output / name) as temporary:
            temporary.write_bytes(contents)
    print(f"{args.output}: {', '.join(unpacked) or 'nothing new'} from {args.archive.name}")


if __name__ == "__main__":
    run_command(main)
