"""Preferences drawn from the captions of histories: Preference Weighted Sampling (DualFashion, eq. 12)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from fashiongen.preference import count_frequencies, preference_text, sample_preference
from fashiongen.providers.jobs import History


class SampledPreferences:
    """Preferences drawn by `fashiongen.preference.sample_preference`, keyed by (seed, user, category)."""

    def __init__(self, seed: int = 0, *, temperature: float = 1.0, draws: int = 10, score: Literal["count", "share"] = "count") -> None:
        """Draw with the settings of `sample_preference`."""
        self._seed, self._temperature, self._draws, self._score = seed, temperature, draws, score

    def prefer(self, histories: Sequence[History]) -> list[str]:
        """Return a preference for each history; see `StatesPreferences`. Of an empty history every value is "Unknown"."""
        return [preference_text(self._sample(history)) for history in histories]

    def _sample(self, history: History) -> dict[str, list[str]]:
        frequency, names = count_frequencies(history.captions), (history.user, history.category)
        return sample_preference(frequency, names, self._seed, temperature=self._temperature, draws=self._draws, score=self._score)
