"""A new study by a detector on a CPU, start-up included: PyTorch against ONNX Runtime, each in processes of its own.

    python -m benchmarks.infer

The detector is what `MEMBERS=last` makes: both classifiers of each fold, and a GRU over each. Its weights are random.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import alone, machine, table

# torch is imported where it is needed: what its import takes is part of what is measured
REPOSITORY = Path(__file__).parents[1]
CONFS = ("se_resnext50_32x4d", "efficientnet-b2")
RUNTIMES = ("torch", "onnx")


def make_detector(folder: Path, confs: Sequence[str], folds: int, image_size: int) -> int:
    """Write a detector with ONNX models: number of its classifiers. All folds have the same random weights."""
    import torch

    from src.classify.network import build_network
    from src.config import load_config, load_sequence_config
    from src.detector.folder import Description, Member, Network, SequenceModel, Weights, model_files, write_folder
    from src.detector.onnx_export import export_models
    from src.ensemble.recipe import Recipe
    from src.sequence.network import SequenceNetwork

    classifiers, sequences, members, weights = {}, {}, [], Weights()
    gru = load_sequence_config(REPOSITORY / "conf/sequence/gru.yaml")
    for name in confs:
        classifiers[name] = load_config(REPOSITORY / f"conf/{name}.yaml", [f"image_size={image_size}"])
        network, second = build_network(classifiers[name], pretrained="none"), f"{name}+gru"
        dimensions = network.classifier.in_features
        sequences[second] = SequenceModel(gru, name, dimensions, None)
        built = {name: network, second: SequenceNetwork(gru, dimensions, torch.zeros(6))}
        of = {each: [Network(each, fold, 3, f"{fold}" * 64, "none") for fold in range(folds)] for each in built}
        for each, module in built.items():
            tensors = module.state_dict().items()
            weights[each] = {
                network.prefix + key: value.clone(memory_format=torch.contiguous_format)
                for network in of[each]
                for key, value in tensors
            }
        members.append(Member(second, of[second], of[name]))
    numbers = {"weights": {member.name: 1 / len(members) for member in members}, "smooth_mm": 0.0}
    description = Description(classifiers, sequences, members, Recipe(), numbers, {}, {})
    one = [Member(each.name, each.networks[:1], each.classifiers[:1]) for each in members]
    first = Description(classifiers, sequences, one, Recipe(), numbers, {}, {})
    made = {name.split(".fold")[0]: model for name, model in export_models(first, weights)}
    models = ((name, made[name.split(".fold")[0]]) for name in model_files(description.networks).values())
    write_folder(folder, description, weights, "", models)
    return len(confs) * folds


def answer(folder: str, runtime: str, slices: int) -> tuple[float, float, float]:
    """(seconds of imports and loading, of a study, of the study on all cores together), in a fresh process."""
    started = time.perf_counter()
    import numpy as np

    from src.ct.series import Series
    from src.detector import Detector

    detector = Detector.load(folder, runtime=runtime, device="cpu")
    loaded, busy = time.perf_counter(), time.process_time()
    random = np.random.default_rng(0)
    pixels = [random.integers(-200, 301, (512, 512)).astype(np.int16) for _ in range(slices)]
    detector(Series(pixels, np.arange(slices) * 5.0, [str(i) for i in range(slices)]))
    return loaded - started, time.perf_counter() - loaded, time.process_time() - busy


def compare(folder: Path, slices: int, rounds: int) -> dict[str, list[float]]:
    """Medians by runtime, which take turns: what `answer` returns, and peak memory in MB."""
    found: dict[str, list[list[float]]] = {runtime: [] for runtime in RUNTIMES}
    for _ in range(rounds):
        for runtime in RUNTIMES:
            _, megabytes, seconds = alone(answer, str(folder), runtime, slices)
            found[runtime].append([*seconds, megabytes])
    return {
        runtime: [statistics.median(each) for each in zip(*measured, strict=True)]
        for runtime, measured in found.items()
    }


def main() -> None:
    """Read arguments, measure, print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.infer", description=__doc__)
    parser.add_argument("--confs", nargs="+", default=CONFS, help="classifiers of conf/ (default both)")
    parser.add_argument("--networks", type=int, nargs="+", default=[1, 5], help="folds of each (default %(default)s)")
    parser.add_argument("--slices", type=int, default=30, help="of the study, 512 x 512 (default %(default)s)")
    parser.add_argument("--image-size", type=int, default=512, help="of the networks, in pixels (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the comparison (default %(default)s)")
    args = parser.parse_args()
    print(f"{machine()}; load before: {os.getloadavg()[0]:.1f}")
    measures = ("start-up, s", "a study, s", "CPU of a study, s", "peak MB")
    rows: list[tuple[object, ...]] = []
    for folds in args.networks:
        with tempfile.TemporaryDirectory() as folder:
            count = make_detector(Path(folder) / "detector", args.confs, folds, args.image_size)
            found = compare(Path(folder) / "detector", args.slices, args.rounds)
        for runtime, measured in found.items():
            pairs = zip(measured, found["torch"], strict=True)
            rows.append(
                (f"{count} and {count} GRUs", runtime, *(f"{own:.4g} ({own / base:.2f})" for own, base in pairs))
            )
    table(
        f"A study of {args.slices} slices at {args.image_size} px; ratios to torch in brackets",
        ("networks", "runtime", *measures),
        rows,
    )
    print(f"load after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
