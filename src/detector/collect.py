"""From a submission's manifest to a detector: the networks that made it, its recipe, and what is known of them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.classify.checkpoint import ClassifierMetadata
from src.classify.tta import parse_tta, tta_name
from src.classify.weights import without_folder
from src.config import Config, load_config, load_sequence_config, parse_config
from src.detector.fit_distance import fit_distance
from src.detector.folder import DISTRIBUTION, Description, DistanceLimits, Member, Network, SequenceModel, Weights
from src.detector.operating import Thresholds, score_out_of_fold_bag
from src.ensemble.manifest import FORMAT_VERSION, read_record
from src.ensemble.recipe import Fitted, Recipe
from src.errors import UserError, first_few
from src.files.checksum import file_sha256
from src.files.layout import FoldFolder, Layout
from src.files.provenance import Provenance
from src.sequence.checkpoint import SequenceMetadata
from src.sequence.components import PrincipalComponents, read_components
from src.sequence.embed import components_key
from src.train.checkpoint import read_data_fingerprint, read_metadata, read_weights, settings_hash

_log = logging.getLogger(__name__)

# Keys of a conf that neither weights nor predictions depend on: a detector has none of its own.
_OF_TRAINING = {"workers": 0, "save_steps": 0}


@dataclass(frozen=True)
class Selection:
    """Which of a submission's networks to take: of some folds, of some of the classifiers' epochs, or so many in all.

    None: all.
    """

    folds: Sequence[int] | None = None
    epochs: Sequence[int] | None = None
    networks: int | None = None


@dataclass(frozen=True)
class _Source:
    """Where a network's weights come from."""

    provenance: Provenance
    folder: FoldFolder

    @property
    def checkpoint(self) -> Path:
        return self.folder.checkpoint(self.provenance.epoch)

    @property
    def is_unchanged(self) -> bool:
        """Whether the checkpoint is there, with the bytes that the predictions were made by."""
        return self.checkpoint.is_file() and file_sha256(self.checkpoint) == self.provenance.checkpoint

    @property
    def network(self) -> Network:
        """The network, as a detector names it."""
        of = self.provenance
        return Network(of.conf, of.fold, of.epoch, of.checkpoint, read_data_fingerprint(self.checkpoint))


@dataclass(frozen=True)
class _Part:
    """A network of a submission. classifier: of a sequence network, the one whose embeddings it reads."""

    own: _Source
    classifier: _Source | None = None

    @property
    def member(self) -> str:
        return f"{self.own.provenance.conf} epoch {self.own.provenance.epoch}"

    @property
    def fold(self) -> int:
        return self.own.provenance.fold

    @property
    def epoch(self) -> int:
        """The classifier's, which is what a selection means."""
        return self.sources[-1].provenance.epoch

    @property
    def sources(self) -> list[_Source]:
        """Its networks, the classifier last."""
        return [self.own] if self.classifier is None else [self.own, self.classifier]


def collect(manifest: Path, layout: Layout, selection: Selection, about: str = "") -> tuple[Description, Weights]:
    """Collect what made a submission: (description, weights of each classifier and sequence model).

    layout: where the tables of preprocessing lie, which operating points need. about: a text for people. Raises
    UserError where the manifest or a checkpoint is missing, where a checkpoint has changed since, and where a selection
    leaves nothing.
    """
    description, chosen, distribution = _describe(manifest, layout, selection, about)
    return description, _weights(chosen, description) | distribution


def describe(manifest: Path, layout: Layout) -> Description:
    """What `collect` says of all of a submission's networks, without their weights. Raises UserError like it."""
    return _describe(manifest, layout, Selection())[0]


def _describe(
    manifest: Path, layout: Layout, selection: Selection, about: str = ""
) -> tuple[Description, list[_Part], Weights]:
    """The description, the chosen networks, and the distribution of their training set."""
    record = _read_manifest(manifest)
    parts = [_find(each, layout) for each in record["predictions"]]
    chosen = _select(parts, selection)
    operating_points, figures = _score(record, manifest, layout)
    members, configs = _members(chosen), _classifiers(chosen)
    distance, distribution = _distance(chosen, configs, layout)
    description = Description(
        classifiers=configs,
        sequences=_sequences(chosen),
        members=members,
        recipe=Recipe(**record["recipe"]),
        numbers=_numbers(record["numbers"], [member.name for member in members]),
        operating_points=operating_points,
        facts={
            "submission": record["submission"]["sha256"],
            "networks_of_submission": len(_networks(parts)),
            "networks": len(_networks(chosen)),
            "out_of_fold_log_loss": record["out_of_fold"],
            **figures,
            **({"about": about} if about else {}),
        },
        distance=distance,
    )
    return description, chosen, distribution


def _read_manifest(path: Path) -> dict[str, Any]:
    record = read_record(path)
    try:
        Fitted.from_numbers(Recipe(**record["recipe"]), list(record["numbers"]["weights"]), record["numbers"])
        if record["format"] != FORMAT_VERSION or not record["predictions"] or not record["submission"]["sha256"]:
            raise ValueError(f"format {record['format']}, {len(record['predictions'])} predictions")
        record["out_of_fold"]
        return record
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no manifest of a submission ({type(error).__name__}: {error})") from error


def _score(record: dict[str, Any], manifest: Path, layout: Layout) -> tuple[Thresholds, dict[str, Any]]:
    """Operating points and figures, where the submission was scored out of fold."""
    if record["out_of_fold"] is None:
        return {}, {}
    path = _out_of_fold_file(manifest)
    if not path.is_file() or record.get("out_of_fold_file") not in (None, file_sha256(path)):
        raise UserError(f"{path} is missing or of another submission than {manifest}", step="ensemble")
    return score_out_of_fold_bag(path, layout)


def _out_of_fold_file(manifest: Path) -> Path:
    """The out-of-fold predictions that lie beside a manifest: `manifest.json`, or `x.manifest.json`."""
    return manifest.with_name(f"{manifest.name.removesuffix('manifest.json')}out_of_fold.parquet")


def _find(record: dict[str, Any], layout: Layout) -> _Part:
    """The network of a prediction file, as the manifest records it."""
    try:
        provenance = Provenance.from_record(record)
        folders = [layout.fold(provenance.conf, provenance.fold), FoldFolder(Path(record["path"]).parent)]
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{record.get('path')} was not made by a network of this pipeline, so no detector can be made of it"
        ) from error
    # under the root, which may have moved, or where the predictions lay
    sources = [_Source(provenance, folder) for folder in folders]
    own = next((each for each in sources if each.is_unchanged), None) or next(
        (each for each in sources if each.checkpoint.is_file()), sources[0]
    )
    _require_unchanged(own)
    if provenance.classifier is None:
        return _Part(own)
    metadata = read_metadata(own.checkpoint, SequenceMetadata, step="sequence")
    classifier = _Source(
        replace(
            provenance,
            conf=metadata.classifier,
            epoch=metadata.classifier_epoch,
            checkpoint=metadata.classifier_checkpoint,
            classifier=None,
            classifier_epoch=None,
            classifier_checkpoint=None,
        ),
        FoldFolder(own.folder.path.parents[1] / metadata.classifier / own.folder.path.name),
    )
    _require_unchanged(classifier)
    return _Part(own, classifier)


def _require_unchanged(source: _Source) -> None:
    if not source.checkpoint.is_file():
        raise UserError(f"{source.checkpoint} is missing; the submission was made with it", step="train")
    if not source.is_unchanged:
        raise UserError(f"{source.checkpoint} has changed since the submission was made", step="predict")


def _select(parts: Sequence[_Part], selection: Selection) -> list[_Part]:
    """The chosen networks. Of a number, fold after fold and late epochs first, so that members stay balanced."""
    have = sorted({(part.fold, part.epoch) for part in parts})
    unknown = [f"fold {fold}" for fold in selection.folds or () if fold not in {each[0] for each in have}]
    unknown += [f"epoch {epoch}" for epoch in selection.epochs or () if epoch not in {each[1] for each in have}]
    chosen = [part for part in parts if selection.folds is None or part.fold in selection.folds]
    chosen = [part for part in chosen if selection.epochs is None or part.epoch in selection.epochs]
    if selection.networks is not None:
        first = sorted(chosen, key=lambda part: (part.fold, -part.epoch))[: selection.networks]
        chosen = [part for part in chosen if part in first]
    if unknown or not chosen:
        named = first_few((f"fold {fold} epoch {epoch}" for fold, epoch in have), 10)
        raise UserError(f"no network of the submission is of {' and '.join(unknown) or 'them'}; it has {named}")
    return chosen


def _networks(parts: Sequence[_Part]) -> set[Network]:
    return {source.network for part in parts for source in part.sources}


def _members(chosen: Sequence[_Part]) -> list[Member]:
    members = []
    for name in dict.fromkeys(part.member for part in chosen):
        of_member = [part for part in chosen if part.member == name]
        classifiers = [part.classifier.network for part in of_member if part.classifier is not None]
        members.append(Member(name, [part.own.network for part in of_member], classifiers))
    return members


def _numbers(numbers: dict[str, Any], members: Sequence[str]) -> dict[str, Any]:
    """The recipe's numbers for some of its members: their weights sum to one again."""
    if len(members) == len(numbers["weights"]):
        return numbers
    weights = {name: numbers["weights"][name] for name in members}
    total = sum(weights.values())
    scaled = {name: weight / total if total > 0 else 1 / len(members) for name, weight in weights.items()}
    return numbers | {"weights": scaled}


def _classifiers(chosen: Sequence[_Part]) -> dict[str, Config]:
    configs: dict[str, Config] = {}
    for source in (part.sources[-1] for part in chosen):
        of, conf = source.provenance, source.folder.conf
        config = load_config(conf)
        metadata = read_metadata(source.checkpoint, ClassifierMetadata)
        expected = ClassifierMetadata.of(config, of.fold, of.epoch, metadata.data_fingerprint, metadata.patients)
        if metadata != replace(expected, settings=metadata.settings and expected.settings):
            raise UserError(f"{conf} is not the conf of {source.checkpoint}", step="train")
        if tta_name(config) != of.tta:  # prediction may have had other views
            config = parse_config(config.model_dump(mode="json") | {"tta": parse_tta(of.tta)}, Config, str(conf))
        network = config.network.model_copy(update={"pretrained": without_folder(config.network.pretrained)})
        config = config.model_copy(update=_OF_TRAINING | {"network": network})
        first = configs.setdefault(of.conf, config)
        if _essence(first) != _essence(config):
            raise UserError(f"the networks of {of.conf} differ in conf or views", step="predict")
    return configs


def _essence(config: Config) -> dict[str, Any]:
    """The keys of a conf that prediction depends on."""
    keys = {"network", "image_size", "neighbours", "windows", "channels_last", "tta", "precision"}
    return config.model_dump(include=keys)


def _sequences(chosen: Sequence[_Part]) -> dict[str, SequenceModel]:
    models: dict[str, SequenceModel] = {}
    for own in (part.own for part in chosen if part.classifier is not None):
        config = load_sequence_config(own.folder.conf)
        metadata = read_metadata(own.checkpoint, SequenceMetadata, step="sequence")
        if config.order != "z":
            raise UserError(
                f"{own.folder.conf}: order {config.order} is the control of an experiment, not for detectors"
            )
        settings = metadata.settings and settings_hash(config)
        if (metadata.model, metadata.order, metadata.settings) != (config.model.model_dump(), config.order, settings):
            raise UserError(f"{own.folder.conf} is not the conf of {own.checkpoint}", step="sequence")
        model = SequenceModel(
            config.model_copy(update=_OF_TRAINING), metadata.classifier, metadata.dimensions, metadata.components
        )
        first = models.setdefault(own.provenance.conf, model)
        if first != model:
            raise UserError(f"the networks of {own.provenance.conf} differ in conf or embeddings", step="sequence")
    return models


def _weights(chosen: Sequence[_Part], description: Description) -> Weights:
    weights: Weights = {name: {} for name in (*description.classifiers, *description.sequences)}
    for part in chosen:
        for source in part.sources:
            prefix = source.network.prefix
            tensors = read_weights(source.checkpoint)
            weights[source.provenance.conf] |= {prefix + name: tensor for name, tensor in tensors.items()}
        if part.classifier is not None and description.sequences[part.own.provenance.conf].components is not None:
            weights[part.own.provenance.conf] |= _components(part.own, part.classifier)
    return weights


def _distance(
    chosen: Sequence[_Part], configs: dict[str, Config], layout: Layout
) -> tuple[DistanceLimits | None, Weights]:
    """The limits and the distribution of distances from the training set, by the first network that gives embeddings.

    None where no embeddings were kept that fit: a detector does without.
    """
    part = next((part for part in chosen if part.classifier is not None), None)
    if part is None or part.classifier is None:
        _log.info("no distance from the training set: without a second stage, no embeddings of it were kept")
        return None, {}
    classifier, projection = part.classifier, None
    metadata = read_metadata(part.own.checkpoint, SequenceMetadata, step="sequence")
    if metadata.components is not None:
        arrays = _components(part.own, classifier)
        projection = PrincipalComponents(*(each.numpy() for each in arrays.values()))
    neighbours = configs[classifier.provenance.conf].neighbours
    try:
        limits, fitted = fit_distance(classifier.network, neighbours, classifier.folder, layout, projection)
    except UserError as error:
        _log.warning("no distance from the training set: %s", error)
        return None, {}
    return limits, {DISTRIBUTION: fitted.tensors()}


def _components(own: _Source, classifier: _Source) -> dict[str, torch.Tensor]:
    """The principal components that a sequence network's embeddings are reduced to."""
    of_embeddings = replace(
        classifier.provenance,
        data_fingerprint=read_data_fingerprint(classifier.checkpoint),
        components=read_metadata(own.checkpoint, SequenceMetadata, step="sequence").components,
    )
    path = classifier.folder.components(classifier.provenance.epoch)
    components = read_components(path, components_key(of_embeddings))
    if components is None:
        raise UserError(f"{path} is missing or of another network; delete the embeddings beside it", step="sequence")
    arrays = {"components.mean": components.mean, "components.axes": components.axes}
    prefix = own.network.prefix
    return {prefix + name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
