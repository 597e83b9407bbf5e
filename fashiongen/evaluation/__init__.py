"""Evaluation: what a method's verb returns meets the task's metrics here, never in the method."""

from fashiongen.evaluation.evaluate import Evaluate
from fashiongen.evaluation.predictions import WritePredictions
from fashiongen.evaluation.reference import Reference

__all__ = ["Evaluate", "Reference", "WritePredictions"]
