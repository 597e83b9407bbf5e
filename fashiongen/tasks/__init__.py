"""Tasks: one file per task, discovered automatically. Nothing outside of this package refers to a task by name."""

from fashiongen.tasks.base import Data, Filter, GalleryRow, PredictionFiles, Protocol, ReferenceSet, Repaint, Resize, Task
from fashiongen.tasks.registry import find, known, run, supported, task_of

__all__ = [
    "Data",
    "Filter",
    "GalleryRow",
    "PredictionFiles",
    "Protocol",
    "ReferenceSet",
    "Repaint",
    "Resize",
    "Task",
    "find",
    "known",
    "run",
    "supported",
    "task_of",
]
