"""Pack what made a submission into one folder, the detector: weights, recipe, operating points and a model card."""

from pathlib import Path

from src.arguments import Parser, natural, positive
from src.detector.card import model_card
from src.detector.collect import Selection, collect
from src.detector.folder import require_place, size_of, write_folder
from src.errors import run_command
from src.files.layout import Layout


def main() -> None:
    """Read arguments, collect, write, report."""
    parser = Parser(
        prog="python -m src.detector.export",
        description=__doc__,
        epilog="example: python -m src.detector.export --folds 0    (one fold: a fifth of the size and time)",
    )
    parser.add_root()
    parser.add_argument(
        "--manifest", type=Path, help="of the submission (default: submission/manifest.json under --root)"
    )
    parser.add_argument("--output", type=Path, help="the folder to write (default: model/detector under --root)")
    parser.add_argument("--folds", type=natural, nargs="+", metavar="K", help="networks of these folds alone")
    parser.add_argument("--epochs", type=positive, nargs="+", metavar="E", help="classifiers of these epochs alone")
    parser.add_argument(
        "--networks",
        type=positive,
        metavar="N",
        help="the first N networks alone, fold after fold, late epochs first; sequence networks with their classifiers",
    )
    args = parser.parse_args()
    layout = Layout(args.root)
    manifest = args.manifest or layout.submission.with_name("manifest.json")
    output = args.output or layout.detector
    require_place(output)
    description, weights = collect(manifest, layout, Selection(args.folds, args.epochs, args.networks))
    count = len(description.networks)
    print(f"{output}: {count} networks, {size_of(weights) / 1e6:.1f} MB", flush=True)
    write_folder(output, description, weights, model_card(description))
    print(f"{output}: written, with its model card; python: Detector.load({str(output)!r})")


if __name__ == "__main__":
    run_command(main)
