"""Pack what made a submission into one folder, the detector: weights, recipe, operating points and a model card."""

from pathlib import Path

from src.arguments import Parser, natural, positive
from src.detector.card import model_card
from src.detector.collect import Selection, collect
from src.detector.folder import require_place, size_of, write_folder
from src.detector.onnx_export import export_models
from src.errors import UserError, run_command, shortened
from src.files.layout import Layout
from src.progress import progress

MOST_TEXT = 20_000  # characters about a detector


def read_about(path: Path) -> str:
    """A text about a detector. Raises UserError where it is missing, empty, no UTF-8 or far too long."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no text that can be read ({shortened(error)}); expected Markdown") from error
    if not text or len(text) > MOST_TEXT:
        raise UserError(f"{path} has {len(text)} characters; expected a sentence at least, and at most {MOST_TEXT}")
    return text


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
    parser.add_argument(
        "--onnx",
        action="store_true",
        help="add an ONNX model of each network, which takes seconds each and as much room",
    )
    parser.add_argument(
        "--about",
        type=Path,
        metavar="FILE",
        help="text for the model card: its first line, a sentence, goes with each result too",
    )
    args = parser.parse_args()
    about = read_about(args.about) if args.about else ""
    layout = Layout(args.root)
    manifest = args.manifest or layout.submission.with_name("manifest.json")
    output = args.output or layout.detector
    require_place(output)
    description, weights = collect(manifest, layout, Selection(args.folds, args.epochs, args.networks), about)
    size, with_models = size_of(weights), f", {size_of(weights, with_models=True) / 1e6:.1f} MB with their ONNX models"
    count = len(description.networks)
    print(f"{output}: {count} networks, {size / 1e6:.1f} MB{with_models if args.onnx else ''}", flush=True)
    models = progress(export_models(description, weights), desc="ONNX", total=count) if args.onnx else None
    write_folder(output, description, weights, model_card(description), models)
    print(f"{output}: written, with its model card; python: Detector.load({str(output)!r})")


if __name__ == "__main__":
    run_command(main)
