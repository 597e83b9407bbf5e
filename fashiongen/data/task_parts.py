"""The parts of a sample that a task reads: the fields of its batch type, by name."""

from collections.abc import Collection
from dataclasses import MISSING, fields

from fashiongen.batches import Batch
from fashiongen.errors import UserError


def required_parts(batch_type: type[Batch]) -> tuple[str, ...]:
    """Return the fields that every sample must fill, besides its id."""
    names = [field.name for field in fields(batch_type) if field.default is MISSING and field.default_factory is MISSING]
    return tuple(name for name in names if name != "ids")


def readable_parts(batch_type: type[Batch], known: Collection[str], owner: str) -> tuple[str, ...]:
    """Return the fields of a batch type that a reader can fill, in the order of the fields.

    Args:
        batch_type: the type of the samples.
        known: the parts that the reader supports.
        owner: the dataset, for error messages.

    Raises:
        UserError: if the batch type requires a field that the reader does not support.
    """
    if unknown := [name for name in required_parts(batch_type) if name not in known]:
        raise UserError(
            f"{owner}: a {batch_type.__name__} needs {', '.join(unknown)}, which this dataset's reader does not know (it reads "
            f"{', '.join(sorted(known))}); choose another data.task or another dataset"
        )
    return tuple(field.name for field in fields(batch_type) if field.name in known)
