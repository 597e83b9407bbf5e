"""The CLIP text encoder (`text_encoder`) with its tokenizer (`tokenizer`)."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from fashiongen.errors import UserError
from fashiongen.nn.parts import loading


class PromptEncoder(nn.Module):
    """A frozen CLIP text encoder with its tokenizer; each prompt is encoded only once."""

    def __init__(self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> None:
        """Wrap and freeze `text_encoder`."""
        super().__init__()
        self.tokenizer = tokenizer
        self.text_encoder = loading.freeze(text_encoder)
        self._known: dict[str, Tensor] = {}

    def _apply(self, *args: Any, **kwargs: Any) -> Self:  # noqa: ANN401  nn.Module's own signature
        """Discard what is encoded when the module changes device or precision."""
        self._known = {}
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call, no-any-return]  # torch leaves it untyped

    def remembered(self, prompts: list[str]) -> Tensor:
        """Return `forward`'s states, from memory where a prompt was encoded before."""
        for prompt in set(prompts):
            if prompt not in self._known:
                self._known[prompt] = self([prompt])
        return torch.cat([self._known[prompt] for prompt in prompts])

    def forward(self, prompts: list[str]) -> Tensor:
        """Return the last hidden states of `prompts`, (len(prompts), length, C), on the encoder's device and in its dtype.

        They are ordinary tensors even in inference mode, so that training can use prompts encoded in validation.
        """
        with torch.inference_mode(False), torch.no_grad():
            tokens = self.tokenizer(
                prompts, padding="max_length", max_length=self.tokenizer.model_max_length, truncation=True, return_tensors="pt"
            )
            return self.text_encoder(tokens.input_ids.to(self.text_encoder.device)).last_hidden_state  # type: ignore[no-any-return]  # transformers is untyped


def load_prompt_encoder(folder: str, dtype: torch.dtype = torch.float32) -> PromptEncoder:
    """Load the `tokenizer` and `text_encoder` of a Stable-Diffusion-style folder, with weights of `dtype`.

    Raises:
        UserError: like `load_part`; or if the tokenizer's vocabulary is missing or does not match the text encoder.
    """
    tokenizer = loading.load_part(CLIPTokenizer, folder, "tokenizer")
    text_encoder = loading.load_part(CLIPTextModel, folder, "text_encoder", dtype=dtype)
    place = f"pretrained: {folder}/tokenizer"
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):  # transformers builds an empty one if the files are missing
        raise UserError(f"{place}: cannot load a CLIPTokenizer from there (its vocabulary is empty: vocab.json and merges.txt are missing)")
    known, positions = text_encoder.config.vocab_size, text_encoder.config.max_position_embeddings
    if len(tokenizer) > known or tokenizer.model_max_length > positions:
        sizes = f"{len(tokenizer)} tokens and {tokenizer.model_max_length} positions, the text encoder has {known} and {positions}"
        raise UserError(f"{place}: belongs to another text encoder (it has {sizes})")
    return PromptEncoder(tokenizer, text_encoder)
