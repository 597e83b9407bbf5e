"""`fashiongen retrieve`: builds the method like `test`, but ranks a folder of bottoms for a top."""

from typing import Any

from fashiongen.checkpoints import read_state
from fashiongen.cli.lightning import FashionCLI, run
from fashiongen.cli.protocols import CommandLine
from fashiongen.retrieval.search import run as retrieve


class RetrieveCLI(FashionCLI):
    """Ranks images instead of testing."""

    def __init__(self, line: CommandLine, asked: dict[str, Any]) -> None:
        """Take the arguments of `fashiongen.retrieval.search.run`."""
        self.asked = asked
        super().__init__(line)

    def _run_subcommand(self, subcommand: str) -> None:
        if self.options.ckpt_path is not None:
            self.model.load_state_dict(read_state(self.options.ckpt_path))
        self.model.to(self.trainer.strategy.root_device)
        # What affects embeddings besides weights.
        settings = {key: self.config_dump[key] for key in ("model", "seed_everything")}
        with self.trainer.precision_plugin.forward_context():
            retrieve(self.model, self.datamodule, **self.asked, settings=[settings, self.trainer.precision])


def retrieve_bottoms(args: list[str], *, debug: bool = False, **asked: Any) -> None:  # noqa: ANN401  those of `retrieval.search.run`
    """Rank the images of `catalogue` for `query` with the recipe and keys in `args`, the arguments of `test`."""
    run(["test", *args], lambda line: RetrieveCLI(line, asked), debug=debug)
