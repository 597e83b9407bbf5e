"""A local transformers checkpoint that answers questions: a causal language model, or a vision-language model."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoProcessor,
    AutoTokenizer,
)

from fashiongen.checkpoints import locate
from fashiongen.errors import UserError
from fashiongen.nn.noise import keys
from fashiongen.nn.parts import freeze, load_part
from fashiongen.providers.asking import Question

Inputs = dict[str, Tensor]


class LocalModel:
    """Answers questions with a checkpoint in a folder, without the network and without code from the folder.

    A question with `choices` is answered by likelihood: the JSON object is written key by key, each with the value for which the checkpoint
    gives the whole text the highest probability. So a small model that cannot write JSON, or leaves the scale, still judges and
    describes. All other questions are answered by generating text, the likeliest token first, further attempts by sampling, keyed by
    (seed, sample, attempt).
    """

    def __init__(
        self,
        pretrained: str,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        constrained: bool = True,
        max_new_tokens: int = 512,
        batch_size: int = 1,
        retry_temperature: float = 0.7,
        seed: int = 0,
        local_files_only: bool = True,
    ) -> None:
        """Load the checkpoint.

        Args:
            pretrained: a folder in the transformers layout, or a hub id `owner/name@revision` that the hub's cache holds.
            device: where it runs, such as `cuda`.
            dtype: of the weights: `float32`, `bfloat16` or `float16`.
            constrained: whether questions with choices are answered by likelihood rather than freely.
            max_new_tokens: the length of a generated answer, at most.
            batch_size: how many questions or choices are run at a time.
            retry_temperature: of further answers to a question whose first one was bad.
            seed: of their draws.
            local_files_only: False allows a hub id to be downloaded.

        Raises:
            UserError: if the folder is missing, has unsuitable files, is neither kind of model, or needs code of its own.
        """
        folder = locate(pretrained, "language")
        options: dict[str, Any] = {"local_files_only": local_files_only, "trust_remote_code": False}
        config = load_part(AutoConfig, folder, **options)
        self.sees_images = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        mapping: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING if self.sees_images else MODEL_FOR_CAUSAL_LM_MAPPING
        if type(config) not in mapping:
            raise UserError(f"pretrained: {pretrained}: a {config.model_type} is no language model: name a causal or a vision-language one")
        if not isinstance(kind := getattr(torch, dtype, None), torch.dtype):
            raise UserError(f"dtype: {dtype!r} is unknown: choose float32, bfloat16 or float16")
        self._processor = load_part(AutoProcessor if self.sees_images else AutoTokenizer, folder, **options)
        self._tokenizer = self._processor.tokenizer if self.sees_images else self._processor
        chosen = mapping[type(config)]
        chosen = chosen[0] if isinstance(chosen, tuple) else chosen
        self._model = freeze(load_part(chosen, folder, dtype=kind, local_files_only=local_files_only)).to(device)
        if len(self._tokenizer) > (size := self._model.get_input_embeddings().num_embeddings):
            raise UserError(
                f"pretrained: {pretrained}: the tokenizer has {len(self._tokenizer)} tokens, the model {size}: take both from one"
            )
        self._pretrained, self._device, self._constrained = pretrained, device, constrained
        self._max_new_tokens, self._batch_size = max_new_tokens, batch_size
        self._retry_temperature, self._seed = retry_temperature, seed
        self._weights = fingerprint(self._model)
        self._positions: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)

    @property
    def identity(self) -> str:
        """The checkpoint and its settings."""
        return f"{self._pretrained} {self._weights} {'constrained' if self._constrained else 'free'}"

    @torch.inference_mode()
    def answers(self, questions: Sequence[Question], attempt: int) -> Iterator[tuple[int, str]]:
        """Yield (index, answer), batch by batch.

        Raises:
            UserError: if a question is longer than the model reads.
        """
        free = []
        for index, question in enumerate(questions):
            if self._constrained and question.choices is not None:
                yield index, self._choose(question, question.choices)
            else:
                free.append(index)
        size = 1 if attempt else self._batch_size  # a sampled answer does not depend on the batch
        for start in range(0, len(free), size):
            chosen = free[start : start + size]
            yield from zip(chosen, self._generate([questions[index] for index in chosen], attempt), strict=True)

    def log_likelihoods(self, question: Question, texts: Sequence[str]) -> list[float]:
        """Return log p(text | question) of each text, up to a constant that all share: what their common first tokens add is left out."""
        rows = [self._encode(question, text) for text in texts]
        tokens = [row["input_ids"][0].tolist() for row in rows]
        common = len(list(takewhile(lambda column: len(set(column)) == 1, zip(*tokens, strict=False))))
        found: list[float] = []
        for start in range(0, len(rows), self._batch_size):
            part = rows[start : start + self._batch_size]
            inputs = self._padded(part, left=False)
            # The logits of a position are of the next token.
            logits = self._model(**inputs).logits[:, common - 1 : -1].float()
            targets, mask = inputs["input_ids"][:, common:], inputs["attention_mask"][:, common:]
            scores = torch.log_softmax(logits, dim=-1).gather(2, targets[..., None])[..., 0]
            found += (scores * mask).sum(dim=1).tolist()
        return found

    def _choose(self, question: Question, choices: Mapping[str, Sequence[str]]) -> str:
        """Return the JSON object whose values are the likeliest, one after the other."""
        answer = "{"
        for number, (name, values) in enumerate(choices.items()):
            start = f"{answer}{', ' if number else ''}{json.dumps(name)}: "
            # The closing quote belongs to the value, or "1" would be at least as likely as "10".
            texts = [start + json.dumps(value, ensure_ascii=False) for value in values]
            scores = self.log_likelihoods(question, texts) if len(texts) > 1 else [0.0]
            answer = texts[scores.index(max(scores))]
        return answer + "}"

    def _generate(self, questions: Sequence[Question], attempt: int) -> list[str]:
        rows = [self._encode(question, "", self._max_new_tokens) for question in questions]
        inputs = self._padded(rows, left=True)
        options: dict[str, Any] = {"do_sample": False}
        if attempt:
            options = {"do_sample": True, "temperature": self._retry_temperature, "top_k": 0, "top_p": 1.0}
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        with torch.random.fork_rng(devices), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sampling settings in the folder that greedy decoding does not use
            torch.manual_seed(int(keys([questions[0].id], self._seed, "answer", attempt)[0]) & 0x7FFFFFFFFFFFFFFF)
            found = self._model.generate(**inputs, max_new_tokens=self._max_new_tokens, pad_token_id=self._pad(), **options)
        length = inputs["input_ids"].shape[1]
        return [self._tokenizer.decode(tokens[length:], skip_special_tokens=True) for tokens in found]

    def _encode(self, question: Question, answer: str, room: int = 0) -> Inputs:
        """Return the model's inputs for one question and the start of its answer, a batch of one.

        Raises:
            UserError: if they and `room` for further tokens exceed the model's positions.
        """
        image = None if question.image is None else question.image()
        templated = bool(self._processor.chat_template)
        if templated:
            parts = [{"type": "image"}] * (image is not None) + [{"type": "text", "text": question.prompt}]
            messages = [{"role": "user", "content": parts if self.sees_images else question.prompt}]
            text = self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        else:
            token = getattr(self._processor, "image_token", "") if image is not None else ""
            text = f"{token}{question.prompt}\n"
        arguments: dict[str, Any] = {"images": image} if image is not None else {}
        # A template has written the special tokens.
        inputs = dict(self._processor(text=[text + answer], return_tensors="pt", add_special_tokens=not templated, **arguments))
        length = inputs["input_ids"].shape[1] + room
        if self._positions is not None and length > self._positions:
            raise UserError(
                f"{question.id}: the question and its answer take {length} tokens, {self._pretrained} reads {self._positions}: "
                "name another model, or fewer max_new_tokens"
            )
        return inputs

    def _padded(self, rows: Sequence[Inputs], *, left: bool) -> Inputs:
        """Join batches of one; what has a column per token is padded with 0, tokens with the padding token."""
        lengths = [row["input_ids"].shape[1] for row in rows]
        joined = {}
        for name in rows[0]:
            parts = [row[name] for row in rows]
            if all(part.shape == row["input_ids"].shape for part, row in zip(parts, rows, strict=True)):
                blank = self._pad() if name == "input_ids" else 0
                gaps = [max(lengths) - length for length in lengths]
                parts = [
                    torch.nn.functional.pad(part, (gap, 0) if left else (0, gap), value=blank)
                    for part, gap in zip(parts, gaps, strict=True)
                ]
            value = torch.cat(parts).to(self._device)
            joined[name] = value.to(self._model.dtype) if value.is_floating_point() else value
        return joined

    def _pad(self) -> int:
        """Return the padding token, which the attention mask hides anyway."""
        return next((token for token in (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id) if token is not None), 0)


def fingerprint(model: nn.Module) -> str:
    """Return a short hash over the first weights of every parameter: other weights in the same folder are another model."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.detach().flatten()[:16].tolist()}".encode())
    return digest.hexdigest()[:12]
