"""Pack what made a submission into one folder, the detector: weights, recipe, operating points and a model card."""

from pathlib import Path

from src.arguments import Parser, natural, positive
from src.detector.card import model_card
from src.detector.collect import Selection, collect
from src.detector.folder import require_place, size_of, write_folder
from src.detector.onnx_export import export_models
from src.errors import run_command
from src.files.layout import Layout
from src.progress import progress


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
    args = parser.parse_args()
    layout = Layout(args.root)
    manifest = args.manifest or layout.submission.with_name("manifest.json")
    output = args.output or layout.detector
    require_place(output)
    description, weights = collect(manifest, layout, Selection(args.folds, args.epochs, args.networks))
    size, with_models = size_of(weights), f", {size_of(weights, with_models=True) / 1e6:.1f} MB with their ONNX models"
    count = len(description.networks)
    print(f"{output}: {count} networks, {size / 1e6:.1f} MB{with_models if args.onnx else ''}", flush=True)
    models = progress(export_models(description, weights), desc="ONNX", total=count) if args.onnx else None
    write_folder(output, description, weights, model_card(description), models)
    print(f"{output}: written, with its model card; python: Detector.load({str(output)!r})")


if __name__ == "__main__":
    run_command(main)
