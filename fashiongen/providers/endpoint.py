"""A model behind an OpenAI-compatible endpoint, named by its URL; nothing is contacted unless a URL is given."""

from __future__ import annotations

import base64
import io
import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from PIL import Image
from torch import Tensor

from fashiongen.errors import UserError
from fashiongen.providers.asking import Question, shortened

COMPLETIONS = "/chat/completions"
RETRIED = frozenset({408, 409, 425, 429})
"""The statuses below 500 that may pass."""

LENGTHS = ("max_tokens", "max_completion_tokens")
"""The names of the length of an answer in requests."""

LONGEST_WAIT = 60.0
"""Seconds between two tries, at most, whatever a server asks for."""

MOST_BYTES = 1 << 23
"""The size of a response, at most."""


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: urllib would send the key to wherever it points."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  the base's own
        """Leave the redirect as an error."""
        return None


class Endpoint:
    """Asks a model by `POST {url}/chat/completions`, several questions at a time.

    The key is read from the environment for each call and stands only in the request's header: not in messages, caches or this object.

    Attributes:
        url: the base of the interface, such as `http://localhost:8000/v1`.
        model: the model's name there.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key_variable: str | None = None,
        *,
        sees_images: bool = True,
        temperature: float = 0.0,
        retry_temperature: float = 0.7,
        parameters: Mapping[str, Any] | None = None,
        timeout: float = 60.0,
        retries: int = 5,
        backoff: float = 1.0,
        workers: int = 4,
    ) -> None:
        """Prepare to ask; contacts nothing yet.

        Args:
            url: the base of the interface, http or https, without a query or a password.
            model: the model's name.
            key_variable: the name of the environment variable that holds the key; None if there is none.
            sees_images: whether the model takes images.
            temperature: of the first answer.
            retry_temperature: of further answers to a question whose first one was bad.
            parameters: further fields of each request, by default `{"max_tokens": 512}`.
            timeout: seconds until a silent server counts as failed.
            retries: how often a request that failed by the network, a status 429 or 5xx, or an unreadable response is sent again.
            backoff: seconds before the first of them; each further wait is twice as long. A server's `Retry-After` may make it longer.
            workers: how many requests are under way at a time.

        Raises:
            UserError: if the URL or a number is unsuitable.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(
                f"url: {shortened(parts.netloc.rpartition('@')[2] or url)!r} is no http address; give one such as http://localhost:8000/v1"
            )
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UserError(
                f"url of {parts.hostname}: holds a name, a password or a query; name the key's variable by key_variable instead"
            )
        if not (timeout > 0 and retries >= 0 and backoff >= 0 and workers >= 1):
            raise UserError(
                f"endpoint {url}: timeout {timeout}, retries {retries}, backoff {backoff}, workers {workers}: give a timeout above 0, at "
                "least 0 retries and backoff, and at least 1 worker"
            )
        self.url, self.model, self.sees_images = url.rstrip("/").removesuffix(COMPLETIONS), model, sees_images
        self._key_variable, self._workers = key_variable, workers
        self._temperature, self._retry_temperature = temperature, retry_temperature
        self._parameters = {"max_tokens": 512} if parameters is None else dict(parameters)
        self._timeout, self._retries, self._backoff = timeout, retries, backoff
        self._opener = urllib.request.build_opener(NoRedirects)

    @property
    def identity(self) -> str:
        """The model and its settings; where it runs and how long an answer may be do not matter to a complete answer."""
        settings = {name: value for name, value in self._parameters.items() if name not in LENGTHS}
        return f"{self.model} {json.dumps({'temperature': self._temperature} | settings, sort_keys=True)}"

    def answers(self, questions: Sequence[Question], attempt: int) -> Iterator[tuple[int, str]]:
        """Yield (index, answer) as answers come.

        Raises:
            UserError: one line, if the key is missing, a request is refused, or all tries of one have failed.
        """
        key = self._key()
        stop = threading.Event()
        pool = ThreadPoolExecutor(self._workers)
        try:
            jobs = {pool.submit(self._answer, question, attempt, key, stop): index for index, question in enumerate(questions)}
            for job in as_completed(jobs):
                yield jobs[job], job.result()
        finally:  # also when the caller stops: what waits is not sent, and who waits for another try gives up
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _key(self) -> str | None:
        if self._key_variable is None:
            return None
        key = os.environ.get(self._key_variable, "").strip()
        if not key:
            raise UserError(f"{self.url}: the environment variable {self._key_variable} is empty: set it to the key")
        if not (key.isascii() and key.isprintable()):  # http.client would tell the whole header
            raise UserError(f"{self.url}: the key in {self._key_variable} has letters that no header can hold: set it anew")
        return key

    def _answer(self, question: Question, attempt: int, key: str | None, stop: threading.Event) -> str:
        content: Any = question.prompt
        if question.image is not None:
            content = [{"type": "image_url", "image_url": {"url": data_url(question.image())}}, {"type": "text", "text": question.prompt}]
        body = {"model": self.model, "messages": [{"role": "user", "content": content}], "temperature": self._temperature}
        if attempt:
            body |= {"temperature": self._retry_temperature, "seed": attempt}
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        data = json.dumps(body | self._parameters).encode()
        request = urllib.request.Request(self.url + COMPLETIONS, data=data, headers=headers, method="POST")
        return self._hidden(self._send(request, question.id, key, stop), key)

    def _send(self, request: urllib.request.Request, id: str, key: str | None, stop: threading.Event) -> str:
        """Send a request until it succeeds.

        Raises:
            UserError: if it is refused, or the last try has failed.
        """
        place = f"{self.url} ({self.model}), asked about {id}"
        problem, asked_wait = "", 0.0
        for tried in range(self._retries + 1):
            if tried and stop.wait(min(LONGEST_WAIT, max(asked_wait, self._backoff * 2 ** (tried - 1)))):
                break
            asked_wait = 0.0
            try:
                with self._opener.open(request, timeout=self._timeout) as response:
                    content = _content(response.read(MOST_BYTES))
                if content is not None:
                    return content
                problem = "its response is no chat completion"
            except urllib.error.HTTPError as error:
                told = self._told(error, key)
                if error.code not in RETRIED and error.code < 500:
                    raise UserError(f"{place}: refused with status {error.code}{told}: check the URL, the model and the key") from None
                problem, asked_wait = f"status {error.code}{told}", _seconds(error.headers.get("Retry-After"))
            except (OSError, HTTPException) as error:  # refused, reset, silent, cut off
                reason = getattr(error, "reason", None) or error
                problem = self._hidden(shortened(f"{reason}" or type(error).__name__), key)
        raise UserError(f"{place}: {self._retries + 1} tries failed, the last with: {problem}; run again to go on from the cached answers")

    def _told(self, error: urllib.error.HTTPError, key: str | None) -> str:
        """Return what a server says of an error, in brackets, without the key."""
        try:
            with error:
                text = error.read(2000).decode("utf-8", "replace")
        except (OSError, HTTPException):
            return ""
        return f" ({shortened(self._hidden(text, key))})" if text.strip() else ""

    def _hidden(self, text: str, key: str | None) -> str:
        """Return a text without the key, which a server might echo."""
        return text.replace(key, "***") if key else text


def data_url(image: Tensor) -> str:
    """Return an image, (3, H, W) uint8 RGB, as a PNG in a `data:` URL."""
    buffer = io.BytesIO()
    Image.fromarray(image.cpu().permute(1, 2, 0).contiguous().numpy()).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _content(body: bytes) -> str | None:
    """Return the text of a chat completion; None if it is none."""
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None
    return content if isinstance(content, str) else None


def _seconds(header: str | None) -> float:
    """Return the seconds of a `Retry-After` header; 0 without, or for a date."""
    return float(header) if header is not None and header.strip().isdigit() else 0.0
