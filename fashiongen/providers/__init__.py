"""Captions, preferences, text augmentation and judges: from files, a local checkpoint, an endpoint, or the wardrobe's truth."""

from fashiongen.providers.asking import AnswerCache, Answers, Question
from fashiongen.providers.checkpoint import LocalModel
from fashiongen.providers.endpoint import Endpoint
from fashiongen.providers.files import FileAugmentation, FileCaptions, FileImageJudge, FileJudge, FilePreferences
from fashiongen.providers.jobs import AugmentsText, Blank, DescribesItems, History, JudgesCaptions, JudgesImages, StatesPreferences
from fashiongen.providers.models import ModelAugmentation, ModelCaptions, ModelImageJudge, ModelJudge, ModelPreferences
from fashiongen.providers.rule import WardrobeAugmentation, WardrobeCaptions, WardrobeImageJudge, WardrobeJudge, WardrobePreferences
from fashiongen.providers.sampled import SampledPreferences

__all__ = [
    "AnswerCache",
    "Answers",
    "AugmentsText",
    "Blank",
    "DescribesItems",
    "Endpoint",
    "FileAugmentation",
    "FileCaptions",
    "FileImageJudge",
    "FileJudge",
    "FilePreferences",
    "History",
    "JudgesCaptions",
    "JudgesImages",
    "LocalModel",
    "ModelAugmentation",
    "ModelCaptions",
    "ModelImageJudge",
    "ModelJudge",
    "ModelPreferences",
    "Question",
    "SampledPreferences",
    "StatesPreferences",
    "WardrobeAugmentation",
    "WardrobeCaptions",
    "WardrobeImageJudge",
    "WardrobeJudge",
    "WardrobePreferences",
]
