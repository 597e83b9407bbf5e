"""Evaluation: applies the metrics of a protocol to a method's results, outside of the method."""

from fashiongen.evaluation.divergence import TellDivergence
from fashiongen.evaluation.evaluate import Evaluate
from fashiongen.evaluation.judge import FromFiles
from fashiongen.evaluation.predictions import WritePredictions
from fashiongen.evaluation.reference import Reference

__all__ = ["Evaluate", "FromFiles", "Reference", "TellDivergence", "WritePredictions"]
