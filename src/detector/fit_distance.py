"""What a detector keeps of its training set, to tell what is unlike it: from the embeddings that training left."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from threadpoolctl import threadpool_limits

from src.detector.folder import DistanceLimits, Network
from src.detector.training_distance import TrainingDistribution, fit_distribution, limits_of
from src.errors import UserError
from src.files.embeddings import Embeddings
from src.files.layout import FoldFolder, Layout
from src.sequence.components import PrincipalComponents
from src.sequence.series import read_slices_by_series

MOST = 10_000  # slices that the distribution is fitted on, and as many for the limits


def fit_distance(
    network: Network, neighbours: int, folder: FoldFolder, layout: Layout, projection: PrincipalComponents | None
) -> tuple[DistanceLimits, TrainingDistribution]:
    """The distribution of the slices that a classifier's network was trained on, and limits from those of its fold.

    folder: of the network's fold, where its embeddings lie; projection: what these went through. The same bits whatever
    the number of threads. Raises UserError where embeddings or what they were made of are missing, damaged or of
    another network, and where there are too few of them.
    """
    embeddings = Embeddings(folder.embeddings("train", network.epoch))
    slices = read_slices_by_series(layout, "train", neighbours)
    of = embeddings.provenance
    if (of.checkpoint, of.slices) != (network.checkpoint, slices.inputs.fingerprint()):
        raise UserError(f"{embeddings.path} is of another network, or of other slices", step="sequence")
    assert slices.folds is not None  # noqa: S101 - of training slices
    unseen = slices.folds[slices.starts[:-1]] == network.fold
    with threadpool_limits(limits=1):  # their number decides the last bits
        fitted = fit_distribution(np.concatenate(list(_sample(embeddings, slices.starts, ~unseen))), projection)
        if fitted is None:
            raise UserError(f"{embeddings.path} has too few slices to tell how they are distributed")
        read = TrainingDistribution(fitted.mean, fitted.axes, fitted.noise)  # which these have been through
        distances = [read.distance(each) for each in _sample(embeddings, slices.starts, unseen)]
    starts = np.cumsum([0, *map(len, distances)])
    return DistanceLimits(network, *limits_of(np.concatenate(distances), starts)), fitted


def _sample(embeddings: Embeddings, starts: np.ndarray, which: np.ndarray) -> Iterator[np.ndarray]:
    """The embeddings of whole series, of those that `which` (S,) marks, until there are MOST slices or no more."""
    bounds = list(pairwise(starts.tolist()))
    count = 0
    for i in np.random.default_rng(0).permutation(np.flatnonzero(which)):
        if count >= MOST:
            break
        yield embeddings.read(*bounds[i])[1]
        count += bounds[i][1] - bounds[i][0]
