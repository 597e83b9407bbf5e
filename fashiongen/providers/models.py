"""The jobs done by a model: a local checkpoint (`LocalModel`) or an endpoint (`Endpoint`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from fashiongen.errors import UserError
from fashiongen.preference import ATTRIBUTES
from fashiongen.providers import prompts
from fashiongen.providers.asking import AnswerCache, Answers, Question, ask
from fashiongen.providers.jobs import Blank, History

FOUR = f"the four attributes {', '.join(ATTRIBUTES)}"
SCORE = "one integer from 1 to 10"


class ModelCaptions:
    """Captions by a vision-language model (DualFashion, section 4.2, structured caption extraction)."""

    def __init__(
        self,
        model: Answers,
        *,
        vocabulary: Mapping[str, Sequence[str]] | None = None,
        cache: str | Path | None = None,
        attempts: int = 3,
    ) -> None:
        """Ask `model`.

        Args:
            model: a vision-language model.
            vocabulary: the allowed values of each attribute; a local checkpoint then chooses by likelihood.
            cache: a file for the answers, from which a killed run goes on.
            attempts: how often an answer without all attributes is asked for.

        Raises:
            UserError: if the vocabulary lacks an attribute.
        """
        if vocabulary is not None and (missing := [name for name in ATTRIBUTES if not vocabulary.get(name)]):
            raise UserError(f"vocabulary: has no values for {', '.join(missing)}: give each of {', '.join(ATTRIBUTES)} its values")
        self._model, self._cache, self._attempts = model, AnswerCache(cache), attempts
        self._vocabulary = None if vocabulary is None else {name: tuple(vocabulary[name]) for name in ATTRIBUTES}

    def describe(self, ids: Sequence[str], images: Sequence[Tensor]) -> list[str]:
        """Return a caption for each item; see `DescribesItems`.

        Raises:
            UserError: if the model fails, or leaves out attributes in every attempt.
        """
        prompt, read = prompts.caption_prompt(self._vocabulary), partial(prompts.complete_caption, vocabulary=self._vocabulary)
        questions = [Question(id, prompt, partial(images.__getitem__, index), self._vocabulary) for index, id in enumerate(ids)]
        needs = FOUR if self._vocabulary is None else f"{FOUR} with values of the vocabulary"
        return ask(self._model, questions, read, what="caption", needs=needs, cache=self._cache, attempts=self._attempts)


class ModelPreferences:
    """Preferences that a language model reads out of the captions of a history."""

    def __init__(self, model: Answers, *, cache: str | Path | None = None, attempts: int = 3) -> None:
        """Ask `model`; arguments as of `ModelCaptions`."""
        self._model, self._cache, self._attempts = model, AnswerCache(cache), attempts

    def prefer(self, histories: Sequence[History]) -> list[str]:
        """Return a preference for each history; see `StatesPreferences`.

        Raises:
            UserError: if a history is empty, the model fails, or leaves out attributes in every attempt.
        """
        for history in histories:
            if not history.captions:
                raise UserError(f"preference of {history.id}: the history is empty, a model would invent one: leave it out")
        questions = [Question(history.id, prompts.preference_prompt(history)) for history in histories]
        read = prompts.complete_caption
        return ask(self._model, questions, read, what="preference", needs=FOUR, cache=self._cache, attempts=self._attempts)


class ModelAugmentation:
    """Captions of items that complete outfits, by a language model (DualFashion, section 4.3, whose authors ask Gemini for five)."""

    def __init__(self, model: Answers, *, cache: str | Path | None = None, attempts: int = 3) -> None:
        """Ask `model`; arguments as of `ModelCaptions`."""
        self._model, self._cache, self._attempts = model, AnswerCache(cache), attempts

    def augment(self, blanks: Sequence[Blank], n: int = 5) -> list[list[str]]:
        """Return `n` different captions for each blank; see `AugmentsText`.

        Raises:
            UserError: if the model fails, or gives fewer complete captions in every attempt.
        """
        questions = [Question(blank.id, prompts.augmentation_prompt(blank, n)) for blank in blanks]
        needs, read = f"{n} different captions with {FOUR}", partial(prompts.different_captions, n=n)
        return ask(self._model, questions, read, what="augmentation", needs=needs, cache=self._cache, attempts=self._attempts)


class ModelJudge:
    """Compatibility of captions, by a language model (DualFashion, section 5.1.3, whose authors ask Gemini for 1 to 10)."""

    def __init__(self, model: Answers, *, cache: str | Path | None = None, attempts: int = 3) -> None:
        """Ask `model`; arguments as of `ModelCaptions`. A local checkpoint chooses among the scores by likelihood."""
        self._model, self._cache, self._attempts = model, AnswerCache(cache), attempts

    def judge(self, captions: Sequence[str], blanks: Sequence[Blank]) -> list[float]:
        """Return the compatibility of each caption with its blank; see `JudgesCaptions`.

        Raises:
            UserError: if the model fails, or gives no score in every attempt.
        """
        pairs = [(index, caption, blank) for index, (caption, blank) in enumerate(zip(captions, blanks, strict=True)) if blank.given]
        choices = {"score": prompts.SCORES}
        questions = [Question(blank.id, prompts.compatibility_prompt(caption, blank), choices=choices) for _, caption, blank in pairs]
        found = ask(self._model, questions, prompts.read_score, what="judgement", needs=SCORE, cache=self._cache, attempts=self._attempts)
        scores = [math.nan] * len(captions)
        for (index, _, _), score in zip(pairs, found, strict=True):
            scores[index] = score
        return scores


class ModelImageJudge:
    """Quality of images, by a vision-language model (the quality expert of FashionDPO, whose authors ask MiniCPM-V for 1 to 10)."""

    def __init__(self, model: Answers, *, cache: str | Path | None = None, attempts: int = 3) -> None:
        """Ask `model`; arguments as of `ModelCaptions`. A local checkpoint chooses among the scores by likelihood."""
        self._model, self._cache, self._attempts = model, AnswerCache(cache), attempts

    def judge_images(self, ids: Sequence[str], images: Sequence[Tensor], categories: Sequence[str]) -> list[float]:
        """Return the quality of each image; see `JudgesImages`.

        Raises:
            UserError: if the model fails, or gives no score in every attempt.
        """
        choices = {"score": prompts.SCORES}
        questions = [
            Question(id, prompts.quality_prompt(category), partial(images.__getitem__, index), choices)
            for index, (id, category) in enumerate(zip(ids, categories, strict=True))
        ]
        read = prompts.read_score
        return ask(self._model, questions, read, what="judgement", needs=SCORE, cache=self._cache, attempts=self._attempts)
