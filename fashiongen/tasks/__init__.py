"""Tasks: one file a task, found by discovery. Nothing outside of this package names a task."""

from fashiongen.tasks.base import Data, GalleryRow, Protocol, ReferenceSet, Task
from fashiongen.tasks.registry import find, known, run, supported, task_of

__all__ = ["Data", "GalleryRow", "Protocol", "ReferenceSet", "Task", "find", "known", "run", "supported", "task_of"]
