import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def trace(tmp_path, monkeypatch):
    """The file in which toy commands log their starts."""
    path = tmp_path / "trace.txt"
    path.touch()
    monkeypatch.setenv("TOY_TRACE", str(path))
    return path
