"""A store that answers as its script says, for the tests of the stores around it."""

from __future__ import annotations

from hf_audio_cache.errors import StoreError
from hf_audio_cache.stores import Store, StoredObject


class ScriptedStore(Store):
    """Objects in memory, and failures on command.

    `fails` gives the kind of the error for an action and a name, or None; every request takes `seconds` of `now`.
    """

    def __init__(self, inside=""):
        self.inside = inside
        self.objects = {}
        self.requests = []
        self.fails = lambda action, name: None
        self.now = 1000.0
        self.seconds = 0.01
        self.slept = []

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    def _request(self, action, names):
        self.requests.append((action, list(names)))
        self.now += self.seconds
        errors = {}
        for name in names:
            kind = self.fails(action, name)
            if kind is not None:
                errors[name] = StoreError(f"could not {action} {name}: {kind or 'broken'}", name=name, kind=kind)
        return errors

    def get_many(self, names):
        errors = self._request("get", names)
        return [errors.get(name, self.objects.get(name)) for name in names]

    def put_many(self, objects):
        errors = self._request("put", objects)
        self.objects.update({name: content for name, content in objects.items() if name not in errors})
        return errors

    def exists_many(self, names):
        errors = self._request("exists", names)
        return [name in self.objects and name not in errors for name in names]

    def delete(self, names):
        errors = self._request("delete", list(names))
        for name in names:
            if name not in errors:
                self.objects.pop(name, None)
        return errors

    def scan(self, prefix=""):
        for error in self._request("scan", [prefix]).values():
            raise error
        yield from (StoredObject(name, len(content), 0.0) for name, content in self.objects.items())

    def location(self, name=""):
        return f"far://bucket/{name}"

    def child(self, prefix):
        return self  # the tests of children look at what is shared, and not at names


def kinds(answers):
    return [answer.kind if isinstance(answer, StoreError) else answer for answer in answers]


def down(action, name):
    return "unreachable"


def fine(action, name):
    return None


def denied(*actions):
    return lambda action, name: "denied" if action in actions else None
