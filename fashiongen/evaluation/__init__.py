"""Evaluation: a method's results meet the metrics of a protocol here, never in the method."""

from fashiongen.evaluation.evaluate import Evaluate
from fashiongen.evaluation.predictions import WritePredictions
from fashiongen.evaluation.reference import Reference

__all__ = ["Evaluate", "Reference", "WritePredictions"]
