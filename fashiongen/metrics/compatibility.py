"""How well the items of a completed outfit go together, by a trained evaluator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fashiongen.errors import UserError
from fashiongen.metrics.features import CLIP_EXTRACTORS, FrozenNetwork
from fashiongen.metrics.outfits import OutfitMetric, embed, embed_rows, mean_of_draws, slot_table
from fashiongen.nn.compatibility import FashionEvaluator
from fashiongen.outfit_batches import Completed


class Compatibility(OutfitMetric):
    """The evaluator's probability that the given items and the generated ones of a draw fit, in slot order; range [0, 1], higher is better.

    Source: DiFashion's code (`evaluate_compatibility_given_data`), with `clip-vit-h-14`, whose features are not normalised, and the
    authors' file of `FashionEvaluator`. For outfit recommendations their script scores an outfit as four copies of one image, since all
    its blanks point to the same one; here each blank is its own image. The extractor is part of the name, the evaluator's file is in the
    record.

    Degenerate input: a non-finite image, generated or given, scores NaN; an outfit of fewer than two items is undefined.
    """

    higher_is_better = True

    def __init__(
        self,
        weights: str | None = None,
        extractor: str = "clip-vit-h-14",
        network: nn.Module | None = None,
        extractor_weights: str | None = None,
        evaluator: FashionEvaluator | None = None,
    ) -> None:
        """Score with an evaluator that was trained on the features of the named extractor.

        Args:
            weights: the evaluator's file.
            extractor: one of `fashiongen.metrics.features.CLIP_EXTRACTORS`.
            network: instead, a module with `features(images)`, reported as `custom` or under its own `extractor` name.
            extractor_weights: the extractor's folder, by default its repository in the hub's cache.
            evaluator: instead of `weights`, an evaluator.
        """
        super().__init__()
        if (weights is None) == (evaluator is None):
            raise UserError("Compatibility takes the evaluator's file `weights`, or an evaluator: give one of them")
        self._network = FrozenNetwork(extractor, network, extractor_weights, CLIP_EXTRACTORS)
        self._evaluator = FrozenNetwork("fashion-evaluator", evaluator, weights, ("fashion-evaluator",))
        self.weights = weights
        self.extractor = self._network.name

    def prepare(self) -> None:
        """Load both networks."""
        super().prepare()
        self._evaluator.on(self.device)

    def provenance(self) -> dict[str, str] | None:
        """Return what the record holds of the extractor, and `{evaluator, evaluator_sha256}`; None for networks passed in."""
        evaluator = self._evaluator.provenance()
        of_evaluator = {} if evaluator is None else {"evaluator": evaluator["weights"], "evaluator_sha256": evaluator["sha256"]}
        return {**(super().provenance() or {}), **of_evaluator} or None

    def score(self, completed: Completed) -> tuple[Tensor, Tensor]:
        """Return an outfit's mean over draws, (B,)."""
        name = type(self).__name__
        network, evaluator = (part.on(completed.images.device) for part in (self._network, self._evaluator))
        generated = embed(name, "generated", completed.images, network, "features", network.features)
        if generated.shape[-1] != evaluator.width:
            raise UserError(
                f"Compatibility: the evaluator takes {evaluator.width} features and {self.extractor} gives {generated.shape[-1]}: "
                "choose the extractor that it was trained with"
            )
        given = embed_rows(name, "given", completed.given, network, "features", network.features, generated)
        table, present = slot_table(name, completed)
        draws, outfits = len(generated), completed.n_samples
        items = torch.cat([given.expand(draws, -1, -1), generated], dim=1)[:, table]  # (D, B, L, F)
        probability = evaluator.probability(items.flatten(0, 1), present.repeat(draws, 1)).reshape(draws, outfits)
        return mean_of_draws(probability.double(), (present.sum(dim=1) >= 2).expand(draws, -1))
