"""Lightning's warnings that do not apply here are hidden; `--debug` shows everything."""

import logging
import warnings

import pytest

from fashiongen.cli import main
from fashiongen.cli.messages import quiet

MEANINGLESS = (
    "Found 3 module(s) in eval mode at the start of training.",
    "`isinstance(treespec, LeafSpec)` is deprecated, use `isinstance(treespec, TreeSpec) and treespec.is_leaf()` instead.",
    "The 'train_dataloader' does not have many workers which may be a bottleneck.",
    "Using ModelCheckpoint with manual optimization and every_n_train_steps, but no pre-optimization state was saved.",
)
ADVERTISEMENT = "💡 Tip: For seamless cloud logging and experiment tracking, try installing another product."


class Log(logging.Handler):
    """Stores what is logged."""

    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


def shown(debug):
    """Return which of these messages, and of the important ones, reach the user."""
    logger, log = logging.getLogger("lightning.pytorch.utilities.rank_zero"), Log()
    logger.addHandler(log)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with quiet(debug):
            for text in (*MEANINGLESS, "your data are empty"):
                warnings.warn(text, stacklevel=1)
            logger.warning(ADVERTISEMENT)
            logger.warning("GPU available: False")
    logger.removeHandler(log)
    return [str(warning.message) for warning in seen], log.messages


def test_meaningless_warnings_are_hidden():
    assert shown(False) == (["your data are empty"], ["GPU available: False"])


def test_debug_shows_everything():
    assert shown(True) == ([*MEANINGLESS, "your data are empty"], [ADVERTISEMENT, "GPU available: False"])


@pytest.mark.parametrize("debug", [False, True])
def test_a_training_is_quiet(debug, recipe, capsys):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        main(["fit", "--config", recipe, *(["--debug"] if debug else [])])
    assert any("LeafSpec" in str(warning.message) for warning in seen) == debug
