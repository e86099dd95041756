"""Many requests of one call at once to a remote store; the rest are not made once it has stopped answering."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ...errors import StoreError

# Result of a request that was not made, or not waited for, because the store had stopped answering.
NOT_ASKED = StoreError("not asked, since earlier requests got no answer", kind="unreachable")

IsSilent = Callable[[BaseException], bool]


class _Batch:
    """The results of one batch, and whether the store has stopped answering.

    It has stopped if one request timed out and no other was answered meanwhile, or if as many requests in a row as run
    at once were refused. So a store that hangs costs one time-out, not one for each object; and one broken connection
    among good ones does not end the batch.
    """

    def __init__(self, count: int, at_once: int, patience: float) -> None:
        self.results: list[Any] = [NOT_ASKED] * count
        self.is_over = False
        self._at_once, self._patience = at_once, patience
        self._answered = float("-inf")
        self._refused = 0

    def note(self, number: int, result: Any, started: float, *, is_answer: bool) -> None:
        self.results[number] = result
        now = time.monotonic()
        if is_answer:
            self._answered, self._refused = now, 0
            return
        self._refused += 1
        hung = now - started >= self._patience and self._answered < started
        self.is_over = self.is_over or hung or self._refused >= self._at_once


async def _gather(
    ask: Callable[[int], Awaitable[Any]], count: int, at_once: int, limit: float, patience: float, is_silent: IsSilent
) -> list[Any]:
    batch = _Batch(count, at_once, patience)
    numbers = iter(range(count))
    tasks: list[asyncio.Task[None]] = []

    async def outcome(number: int) -> tuple[Any, Exception | None]:
        # Returned, not raised: asyncio would print an exception that comes while its task is being cancelled.
        try:
            return await ask(number), None
        except Exception as exc:  # noqa: BLE001 - a driver raises anything, and each object has its own result
            return None, exc

    async def work() -> None:
        for number in numbers:
            started = time.monotonic()
            try:
                result, error = await asyncio.wait_for(outcome(number), limit)
            except (TimeoutError, asyncio.TimeoutError) as exc:
                result, error = None, exc
            if error is not None:
                result = TimeoutError(f"no answer in {limit:g} s") if _is_timeout(error) else error
            is_answer = error is None or not is_silent(result)
            batch.note(number, result, started, is_answer=is_answer)
            if batch.is_over:
                for task in tasks:
                    if task is not asyncio.current_task():
                        task.cancel()
                return

    tasks += (asyncio.ensure_future(work()) for _ in range(min(count, at_once)))
    try:
        await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        for task in tasks:  # where this was cancelled itself
            task.cancel()
    return batch.results


def _is_timeout(exc: BaseException) -> bool:
    return type(exc) in (TimeoutError, asyncio.TimeoutError) and not exc.args


def on_loop(
    loop: asyncio.AbstractEventLoop,
    ask: Callable[[int], Awaitable[Any]],
    count: int,
    *,
    at_once: int,
    limit: float,
    patience: float,
    is_silent: IsSilent,
) -> list[Any]:
    """Return the result or the exception of ``ask(number)`` for each number below `count`.

    The loop runs in another thread. A request that takes more than `limit` seconds is a TimeoutError; one that fails
    after more than `patience` seconds counts as timed out. `is_silent` tells whether an exception means that nobody
    answered.
    """
    # More than all can take: for a driver that blocks the loop, or ignores its cancellation.
    longest = (count // at_once + 2) * limit
    future = asyncio.run_coroutine_threadsafe(_gather(ask, count, at_once, limit, patience, is_silent), loop)
    try:
        return future.result(longest)
    except concurrent.futures.TimeoutError:
        return [TimeoutError(f"no answer in {longest:g} s, and the driver cannot be stopped")] * count
    finally:
        future.cancel()


def in_threads(
    ask: Callable[[int], Any], count: int, *, at_once: int, limit: float, patience: float, is_silent: IsSilent
) -> list[Any]:
    """Do what `on_loop` does in threads, for a driver without an event loop.

    After `limit` seconds without an answer, the rest is not waited for. A thread that hangs cannot be stopped; it is
    left behind, and does not keep the process from ending. Threads are started for each batch: that takes less than one
    request, and a fork cannot lose them.
    """
    batch = _Batch(count, at_once, patience)
    numbers = iter(range(count))
    changed = threading.Condition()
    n_running = 0
    heard = time.monotonic()

    def work() -> None:
        nonlocal n_running, heard
        while True:
            with changed:
                number = None if batch.is_over else next(numbers, None)
                if number is None:
                    n_running -= 1
                    changed.notify()
                    return
            started = time.monotonic()
            result: Any
            try:
                result, is_answer = ask(number), True
            except Exception as exc:  # noqa: BLE001 - a driver raises anything, and each object has its own result
                result, is_answer = exc, not is_silent(exc)
            with changed:
                heard = time.monotonic()
                if not batch.is_over:
                    batch.note(number, result, started, is_answer=is_answer)

    with changed:
        for _ in range(min(count, at_once)):
            try:
                threading.Thread(target=work, daemon=True, name="hf_audio_cache").start()
            except RuntimeError:  # the process may have no more, or is ending: those that run do the work
                break
            n_running += 1
        while n_running and not batch.is_over and (left := heard + limit - time.monotonic()) > 0:
            changed.wait(left)
        batch.is_over = True
        return list(batch.results)
