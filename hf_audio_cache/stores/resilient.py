"""When a remote store fails: what is retried and how often, when it is given up, and who is told."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ..errors import StoreError
from .base import Range, Store, StoredObject, check_name
from .circuit_breaker import CircuitBreaker, OpenCircuit
from .evidence import Evidence
from .presence import find_by_listing
from .wrapper import WrappingStore

logger = logging.getLogger(__name__)


class _Policy(NamedTuple):
    """What is done about one kind of error."""

    retries: int  # of one object
    rounds: int  # in a row and without any answer, which open the circuit
    says: str
    check: str


CHECK_NETWORK = "Check the network, the endpoint and the region"
RUN_GOES_ON = "The run goes on, and computes what is not found (with strict=True it ends)."

_POLICIES = {
    "throttled": _Policy(4, 10, "asks for fewer requests", "Use fewer processes at once"),
    # More rounds than one batch has: a single object that the server stumbles over is no reason for a pause.
    "unreachable": _Policy(2, 4, "does not answer", CHECK_NETWORK),
    "denied": _Policy(0, 1, "denied {action}", "Check which credentials are used, and that they allow {action} there"),
    "unauthenticated": _Policy(
        0,
        1,
        "denied {action}",
        "Check this machine's clock and the credentials, or renew these: the next try takes those that the environment "
        "or a profile has then; those of storage_options= stay as they are",
    ),
    "no bucket": _Policy(0, 1, "is in no bucket", "Check its name and the endpoint; no bucket is ever created"),
}
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 1.0
_SLOW = 2.0  # a round that took longer and has no answer ran into a time-out, and another one would too
_BY_CREDENTIALS = ("denied", "unauthenticated")
_RENEWAL_LASTS = 30.0  # as long as the first pause: a client that is made anew connects anew

# A generator that the user has seeded must not advance, and forked workers must not wait for equal times.
_jitter = random.SystemRandom()


class _Health:
    """What is known of the remote store; a `ResilientStore` and its children share it."""

    def __init__(
        self, location: str, renew: Callable[[], bool], clock: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        self.evidence = Evidence(clock)
        self._renew, self._renewed = renew, -_RENEWAL_LASTS
        self._location, self._clock, self._sleep = location, clock, sleep
        self._server = CircuitBreaker(clock)
        self._permissions = {action: CircuitBreaker(clock) for action in ("reading", "writing", "deleting")}
        self._told: set[str] = set()

    def ask(
        self, action: str, names: Sequence[str], request: Callable[[Sequence[str]], Mapping[str, StoreError]]
    ) -> dict[str, StoreError]:
        """Return the errors that `request` still gives for `names` after the retries."""
        if not names:
            return {}
        circuit = self._permissions[action].refusal() or self._server.refusal()
        if circuit is not None:
            return self._not_asked(circuit, names)
        if self._permissions[action].is_in_doubt:  # a try after a pause
            self._is_renewed(self._clock())
        failed: dict[str, StoreError] = {}
        attempt = 0
        while True:
            started = self._clock()
            errors = request(names)
            denied = [name for name, error in errors.items() if error.kind in _BY_CREDENTIALS]
            if denied and self._is_renewed(started):
                errors = {**{name: e for name, e in errors.items() if name not in denied}, **request(denied)}
            for name in names:
                failed.pop(name, None)
            failed.update(errors)
            self._judge(action, names, errors, started)
            names = [n for n, e in errors.items() if e.kind in _POLICIES and attempt < _POLICIES[e.kind].retries]
            if not names or self._server.open_circuit:
                return failed
            self._sleep(_jitter.uniform(0, min(_FIRST_DELAY * 2**attempt, _LONGEST_DELAY)))
            attempt += 1

    def _is_renewed(self, started: float) -> bool:
        """Make the client anew, unless that was done of late; return whether its credentials may be newer than then."""
        if self._renewed > started:  # by another thread
            return True
        if self._clock() - self._renewed < _RENEWAL_LASTS or not self._renew():
            return False
        self._renewed = self._clock()
        logger.info("%s is asked with the credentials that there are now", self._location)
        return True

    def refusal(self, action: str, names: Iterable[str]) -> dict[str, StoreError]:
        """Return what `ask` would return at once, without asking."""
        circuit = self._permissions[action].open_circuit or self._server.open_circuit
        return self._not_asked(circuit, names) if circuit is not None else {}

    def _not_asked(self, circuit: OpenCircuit, names: Iterable[str]) -> dict[str, StoreError]:
        until = time.strftime("%H:%M:%S", time.localtime(time.time() + circuit.until - self._clock()))
        message = f"{self._location} failed before, and is not asked until {until}: {circuit.reason}"
        return {check_name(name): StoreError(message, name=name, kind="circuit open") for name in names}

    def _judge(self, action: str, names: Sequence[str], errors: Mapping[str, StoreError], started: float) -> None:
        """Draw the conclusions from one round of requests."""
        failures = [error for error in errors.values() if error.kind in _POLICIES]
        worst = min(failures, key=lambda error: _POLICIES[error.kind].rounds, default=None)
        is_answered = len(failures) < len(names)
        own = self._permissions[action]
        if is_answered and own.succeeded(started):
            logger.info("%s allows %s again", self._location, action)
        if (is_answered or (worst and worst.kind in _BY_CREDENTIALS)) and self._server.succeeded(started):
            logger.info("%s answers again", self._location)
        if worst is None or is_answered:
            return
        policy = _POLICIES[worst.kind]
        breaker, what = (own, action) if worst.kind in _BY_CREDENTIALS else (self._server, "asking it")
        reason = f"{self._location} {policy.says.format(action=action)} ({worst})"
        hangs = worst.kind == "unreachable" and self._clock() - started >= _SLOW
        circuit = breaker.failed(reason, started, 1 if hangs else policy.rounds)
        if circuit is not None:
            subject = f"{policy.says} {what}"
            logger.log(
                logging.INFO if subject in self._told else logging.WARNING,
                "%s; no more %s for %d s. %s %s.",
                *(reason, what, circuit.seconds, RUN_GOES_ON, policy.check.format(action=action)),
            )
            self._told.add(subject)

    def is_in_doubt(self, started: float) -> bool:
        """Return whether what began at `started` may have found nothing because of a failure."""
        took_long = self._clock() - started >= _SLOW
        return took_long or self._server.is_in_doubt or self._permissions["reading"].is_in_doubt

    def denied_is_absent(self) -> bool:
        """Return whether a denied read means that there is no such object."""
        return self.evidence.denied_is_absent(writing_is_denied=self._permissions["writing"].is_in_doubt)


class ResilientStore(WrappingStore):
    """A remote store whose failures cost little.

    - **Retries**: an object that failed as "throttled" or "unreachable" is asked for again, up to four times and twice,
      after random and growing delays. A batch that ran into a time-out as a whole is not.
    - **Circuit breaker**: some rounds in a row in which nothing was answered, or one that took long, open the circuit.
      For 30 s, then twice as long each time up to five minutes, every call returns a `StoreError` of the kind
      "circuit open" for each name, at once. Then a single batch is let through; an answer closes the circuit.
      "no bucket" opens it at once; so does "denied", but only for what was denied: reading, writing or deleting.
    - **Credentials**: after "denied" or "unauthenticated", and before the batch that is let through after a pause, the
      client is made anew, once in 30 s at most, and what was denied is asked for again. So credentials that expire in
      mid-run are renewed when the environment, a profile or an instance's role has new ones.
    - **Denied or absent**: S3 denies the read of an absent object to those who may not list. So a denied read is a miss
      while the credentials are known to be good: an object was read or written in the last minute, or the last one that
      was still exists. Where no object was seen yet it is a miss too, for a few rounds, unless writing was denied as
      well. It is never a miss if the store has said of any object that it is absent: then it tells the two apart.

    The state belongs to the process, and children share it. The first pause of each kind is logged as a warning, later
    ones as information. `scan` is handed on as it is.
    """

    def __init__(
        self,
        wrapped: Store,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(wrapped)
        self._clock = clock
        self._health = _Health(str(wrapped.location()), wrapped.renew, clock, sleep)

    def get_many(self, names: Sequence[str]) -> list[bytes | StoreError | None]:
        found: dict[str, bytes | None] = {}
        failed = self._health.ask("reading", list(dict.fromkeys(names)), lambda wanted: self._read(wanted, found))
        return [failed[name] if name in failed else found[name] for name in names]

    def get_ranges(self, ranges: Sequence[Range]) -> list[bytes | StoreError | None]:
        names = [f"{check_name(name)}/{start}-{n_bytes}" for name, start, n_bytes in ranges]
        asked = dict(zip(names, ranges, strict=True))
        found: dict[str, bytes | StoreError | None] = {}

        def read(wanted: Sequence[str]) -> dict[str, StoreError]:
            found.update(zip(wanted, self._wrapped.get_ranges([asked[name] for name in wanted]), strict=True))
            return {name: error for name in wanted if isinstance(error := found[name], StoreError)}

        failed = self._health.ask("reading", list(asked), read)
        return [failed[name] if name in failed else found[name] for name in names]

    def listing(self, prefix: str) -> list[StoredObject]:
        where = prefix.rstrip("/")
        answers: list[list[StoredObject] | StoreError] = []

        def look(_: Sequence[str]) -> dict[str, StoreError]:
            try:
                answers.append(self._wrapped.listing(prefix))
            except StoreError as exc:
                if exc.kind != "denied":
                    return {where: exc}
                answers.append(exc)  # it says nothing of reading
            return {}

        failed = self._health.ask("reading", [where], look)
        answer = [*answers, *failed.values()][-1]
        if isinstance(answer, StoreError):
            raise answer
        return answer

    def get_again(self, names: Sequence[str]) -> list[bytes | StoreError | None]:
        return self.get_many(names)  # a network may have damaged what it brought

    def _read(self, names: Sequence[str], found: dict[str, bytes | None]) -> dict[str, StoreError]:
        """Add what was answered to `found`; return the errors."""
        errors = {}
        for name, answer in zip(names, self._wrapped.get_many(names), strict=True):
            if isinstance(answer, StoreError):
                errors[name] = answer
                continue
            found[name] = answer
            if answer is None:
                self._health.evidence.tells_absence = True
            else:
                self._health.evidence.saw(self._wrapped, name)
        denied = [name for name, error in errors.items() if error.kind == "denied"]
        if denied and self._health.denied_is_absent():
            found.update(dict.fromkeys(denied))
            errors = {name: error for name, error in errors.items() if name not in found}
        return errors

    def put_many(self, objects: Mapping[str, bytes]) -> dict[str, StoreError]:
        def write(names: Sequence[str]) -> dict[str, StoreError]:
            errors = self._wrapped.put_many({name: objects[name] for name in names})
            stored = next((name for name in names if name not in errors), None)
            if stored is not None:
                self._health.evidence.saw(self._wrapped, stored)
            return errors

        return self._health.ask("writing", list(objects), write)

    def refuse_puts(self, names: Iterable[str]) -> dict[str, StoreError]:
        return self._health.refusal("writing", names)

    def exists_many(self, names: Sequence[str]) -> list[bool]:
        known: dict[str, bool] = {}

        def look(wanted: Sequence[str]) -> dict[str, StoreError]:
            started = self._clock()
            try:
                listed = find_by_listing(self._wrapped, wanted)
            except StoreError as exc:
                if exc.kind in ("no bucket", "throttled", "unreachable"):
                    return dict.fromkeys(wanted, exc)
                listed = None  # who may not list may still ask for each
            if listed is not None:
                known.update((name, name in listed) for name in wanted)
                return {}
            try:
                known.update(zip(wanted, self._wrapped.exists_many(wanted), strict=True))
                if any(known.values()) or not self._health.is_in_doubt(started):
                    return {}
            except StoreError:
                known.update(dict.fromkeys(wanted, False))
            # `exists_many` cannot say why it found nothing; a read can.
            return {name: error for error in self._read(wanted[:1], {}).values() for name in wanted}

        failed = self._health.ask("reading", list(dict.fromkeys(names)), look)
        return [name not in failed and known[name] for name in names]

    def delete(self, names: Iterable[str]) -> dict[str, StoreError]:
        return self._health.ask("deleting", list(dict.fromkeys(names)), self._wrapped.delete)

    def bare(self) -> Store:
        return self._wrapped.bare()
