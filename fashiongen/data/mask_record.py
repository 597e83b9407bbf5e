"""`masks.json`: how `fashiongen data masks` made the masks of a folder. They move the metrics, so what reads the folder reads it too."""

import json
from pathlib import Path
from typing import Any, NamedTuple

RECORD = "masks.json"
MADE_BY = "fashiongen data masks"


class MaskRecord(NamedTuple):
    """The content of `masks.json`.

    Attributes:
        settings: what all masks were made with: `from` (parse, segformer or box), its settings, such as the sha256 of a checkpoint's files,
            and those of the shape.
        photos: by id, the photo's sha256, its name in the folder, its category and the covered share.
    """

    settings: dict[str, Any]
    photos: dict[str, dict[str, Any]]

    def as_json(self) -> str:
        """Return the file's text."""
        content = {"made_by": MADE_BY, "settings": self.settings, "photos": self.photos}
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read_record(root: Path) -> MaskRecord | None:
    """Read the record of a folder; None if `data masks` has not made its masks (another program's `masks.json` is not read)."""
    try:
        content = json.loads((root / RECORD).read_text(encoding="utf-8"))
        if content["made_by"] != MADE_BY:
            return None
        photos = {str(id_): dict(photo) for id_, photo in content["photos"].items()}
        return MaskRecord(dict(content["settings"]), photos)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
