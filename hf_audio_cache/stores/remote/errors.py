"""Exceptions of the remote stores' drivers as `StoreError`, without the secrets that they may quote."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import StoreError

_MISSING = "missing"

# Error codes of S3 and Azure.
_CODES = {
    code: kind
    for kind, codes in {
        "no bucket": "NoSuchBucket ContainerNotFound ContainerBeingDeleted",
        "throttled": "SlowDown ServerBusy TooManyRequests Throttling RequestLimitExceeded ThrottlingException "
        "TooManyRequestsException BandwidthLimitExceeded",
        "denied": "AccessDenied AllAccessDisabled AccountProblem AuthorizationFailure",
        "unauthenticated": "InvalidAccessKeyId SignatureDoesNotMatch RequestTimeTooSkewed ExpiredToken "
        "ExpiredTokenException InvalidToken TokenRefreshRequired AuthenticationFailed NoAuthenticationInformation "
        "AuthorizationHeaderMalformed AuthorizationQueryParametersError InvalidAuthenticationInfo",
        "unreachable": "RequestTimeout OperationTimedOut InternalError ServiceUnavailable",
        _MISSING: "NoSuchKey BlobNotFound",
    }.items()
    for code in codes.split()
}

# Classes of errors without a code and a status. By name: most of these libraries are not installed, and none has to be
# imported for this.
_CLASSES = {
    "builtins.FileNotFoundError": _MISSING,
    "builtins.PermissionError": "denied",
    "builtins.TimeoutError": "unreachable",
    "asyncio.exceptions.TimeoutError": "unreachable",  # another class before Python 3.11
    "builtins.ConnectionError": "unreachable",
    "socket.gaierror": "unreachable",
    "aiohttp.client_exceptions.ClientError": "unreachable",
    "requests.exceptions.RequestException": "unreachable",
    "httpx.TransportError": "unreachable",
    "urllib3.exceptions.HTTPError": "unreachable",
    "botocore.exceptions.ConnectionError": "unreachable",
    "botocore.exceptions.HTTPClientError": "unreachable",
    "botocore.exceptions.FlexibleChecksumError": "unreachable",
    "botocore.exceptions.NoCredentialsError": "unauthenticated",
    "botocore.exceptions.PartialCredentialsError": "unauthenticated",
    "botocore.exceptions.CredentialRetrievalError": "unauthenticated",
    "botocore.exceptions.TokenRetrievalError": "unauthenticated",
    "botocore.exceptions.SSOError": "unauthenticated",
    "azure.core.exceptions.ServiceRequestError": "unreachable",
    "azure.core.exceptions.ServiceResponseError": "unreachable",
    "azure.core.exceptions.ClientAuthenticationError": "unauthenticated",
    "google.auth.exceptions.TransportError": "unreachable",
    "google.auth.exceptions.GoogleAuthError": "unauthenticated",
    "huggingface_hub.errors.GatedRepoError": "denied",
    "huggingface_hub.errors.RepositoryNotFoundError": "no bucket",
    "huggingface_hub.errors.BucketNotFoundError": "no bucket",
    "obstore.exceptions.PermissionDeniedError": "denied",
    "obstore.exceptions.UnauthenticatedError": "unauthenticated",
}

# Errors that say it only in their text: gcsfs's 403, and obstore's.
_DOCUMENT_IN_TEXT = re.compile(r"<Code>(\w+)</Code>(?:\s*<Message>([^<\n]*))?")
_STATUS_IN_TEXT = re.compile(r"\b(?:status code: |Forbidden: )(?P<status>\d{3})?")
_BROKEN_IN_TEXT = re.compile(r"^Generic \w+ error: .*\bHTTP error: ")


def kind_of(exc: BaseException) -> str:
    """Return the `StoreError.kind` of a driver's exception."""
    if isinstance(exc, StoreError):
        return exc.kind
    found = _find(exc)
    return "" if found == _MISSING else found


def is_missing(exc: BaseException) -> bool:
    """Return whether an exception means: no such object, in a bucket that exists."""
    return _find(exc) == _MISSING


def _find(exc: BaseException) -> str:
    """Return the kind; codes first, since s3fs calls a missing bucket a missing file, with the code in its cause."""
    links = list(_chain(exc))
    for of_link in (_by_class_of_the_hub, _by_code, _by_status, _by_class):
        for link in links:
            if found := of_link(link):
                return found
    return ""


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    for _ in range(6):
        if exc is None:
            return
        yield exc
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)


def _by_class_of_the_hub(exc: BaseException) -> str:
    # The Hub's classes say more than the HTTP status beneath them.
    return _by_class(exc) if type(exc).__module__.startswith("huggingface_hub.") else ""


def _by_code(exc: BaseException) -> str:
    codes = [getattr(exc, "error_code", None)]
    response = getattr(exc, "response", None)
    if isinstance(response, Mapping):
        codes.append(response.get("Error", {}).get("Code"))
    if in_text := _DOCUMENT_IN_TEXT.search(_text(exc)):
        codes.append(in_text[1])
    return next((_CODES[code] for code in codes if isinstance(code, str) and code in _CODES), "")


def _by_status(exc: BaseException) -> str:
    response = getattr(exc, "response", None)
    if isinstance(response, Mapping):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        places: tuple[tuple[Any, str], ...] = ((exc, "status_code"), (response, "status_code"))
        places += ((exc, "status"), (exc, "code"))
        status = next((value for place, name in places if (value := getattr(place, name, None)) is not None), None)
    if status is None and (in_text := _STATUS_IN_TEXT.search(_text(exc))):
        status = in_text["status"] or 403
    try:
        status = int(status)
    except (TypeError, ValueError):
        return ""
    if status in (401, 403):
        return "denied" if status == 403 else "unauthenticated"
    if status == 404:
        return _MISSING
    if status == 429:
        return "throttled"
    return "unreachable" if status == 408 or status >= 500 else ""


def _by_class(exc: BaseException) -> str:
    for base in type(exc).__mro__:
        if found := _CLASSES.get(f"{base.__module__}.{base.__qualname__}"):
            return found
    return "unreachable" if _BROKEN_IN_TEXT.search(_text(exc)) else ""


def _text(exc: BaseException) -> str:
    """Return an exception's message, without what obstore adds for its own developers."""
    return str(exc).partition("\n\nDebug source:")[0]


# Secrets -------------------------------------------------------------------------------------------------------------

_HARMLESS = {
    *("endpoint_url", "region_name", "account_name", "account_host", "project", "host", "hostname", "port", "protocol"),
    *("accountname", "blobendpoint", "endpointsuffix", "defaultendpointsprotocol", "endpoint", "type", "access"),
    *("token_uri", "auth_uri", "signature_version", "addressing_style", "consistency", "default_location"),
    "universe_domain",
}
_SHORTEST = 4
_IN_ENVIRONMENT = re.compile(r"(AWS|AZURE|GOOGLE|GCS|HF|HUGGING)\w*(KEY|SECRET|TOKEN|PASSWORD|CONNECTION_STRING)\w*")
_QUERY = re.compile(r"\?[^\s'\"<>]+")  # a signed URL is a key
_PASSWORD = re.compile(r"(?<=://)[^/\s@]*:[^/\s@]*@")
_SIGNED = re.compile(r"(?i)\b(?:bearer|sharedkey\w*|aws4-hmac-sha256)\s+\S+|\b(?:sig|signature|credential)=[^\s&,]+")
_CUT = "…"


def without_password(url: str) -> str:
    """Return a URL without the user and password before its host."""
    return _PASSWORD.sub("", url)


def _strings_in(value: object, name: str = "") -> Iterator[str]:
    """Yield each string in storage options that may be secret: all but those under names known to be harmless."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _strings_in(each, str(key))
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _strings_in(each, name)
    elif isinstance(value, str) and name.lower() not in _HARMLESS:
        yield value
        for piece in re.split("[;&?]", value):  # a connection string, a signature in a query
            key, separator, rest = piece.partition("=")
            if separator:
                yield from _strings_in(rest, key)


class Redactor:
    """Cuts secrets out of texts: strings of these options, queries and passwords of URLs, signatures."""

    def __init__(self, *options: object) -> None:
        self._secrets = set(_strings_in(options))

    def __call__(self, text: str) -> str:
        environment = (value for name, value in os.environ.items() if _IN_ENVIRONMENT.fullmatch(name))
        for secret in sorted(self._secrets.union(environment), key=len, reverse=True):
            if len(secret) >= _SHORTEST:
                text = text.replace(secret, _CUT)
        text = _QUERY.sub("?" + _CUT, _PASSWORD.sub("", text))
        return _SIGNED.sub(_CUT, text)


class _QuotedError(Exception):
    """Stands for a driver's exception that quotes a secret."""


def store_error(action: str, location: object, name: str, exc: BaseException, redact: Redactor) -> StoreError:
    """Return the error for an object, from its driver's exception."""
    if isinstance(exc, StoreError):
        said = str(exc)
    else:
        text = redact(_text(exc))
        document = _DOCUMENT_IN_TEXT.search(text)
        lines = filter(None, document.groups()) if document else (line for line in text.split("\n")[:1] if line)
        said = ": ".join((type(exc).__name__, *lines))[:300]
    number = getattr(exc, "errno", None)
    error = StoreError(
        f"could not {action} {location}: {said}",
        name=name,
        errno=number if isinstance(number, int) else None,
        kind=kind_of(exc),
    )
    is_clean = all(redact(text) == text for link in _chain(exc) for text in (str(link), repr(link)))
    error.__cause__ = exc if is_clean else _QuotedError(said)
    return error
