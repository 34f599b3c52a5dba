"""Why a store gave no object: to be tried again, this object's own, or the same for all others."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Any, Literal

from numclip_runtime.errors import causes, first_line
from numclip_runtime.remote.addresses import without_secrets

# passing: may succeed when tried again. missing: there is no such object. refused: this object may
# not be read. credentials, store: no object of the store can be. other: none of these.
FailureKind = Literal["passing", "missing", "refused", "credentials", "store", "other"]

PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))  # status codes of HTTP
_CODES: dict[str, FailureKind] = {
    **dict.fromkeys(
        ("SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout"), "passing"
    ),
    **dict.fromkeys(("Throttling", "ThrottlingException", "OperationAborted"), "passing"),
    **dict.fromkeys(("ServerBusy", "OperationTimedOut", "RequestLimitExceeded"), "passing"),
    **dict.fromkeys(("NoSuchBucket", "ContainerNotFound", "InvalidBucketName"), "store"),
    **dict.fromkeys(("PermanentRedirect", "AuthorizationHeaderMalformed"), "store"),
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "RequestExpired"), "credentials"),
    **dict.fromkeys(("InvalidAccessKeyId", "SignatureDoesNotMatch"), "credentials"),
    **dict.fromkeys(("InvalidToken", "InvalidClientTokenId", "NotSignedUp"), "credentials"),
    **dict.fromkeys(("TokenRefreshRequired", "RequestTimeTooSkewed"), "credentials"),
    **dict.fromkeys(("AuthenticationFailed", "InvalidAuthenticationInfo"), "credentials"),
    **dict.fromkeys(("NoSuchKey", "NoSuchVersion", "BlobNotFound", "404"), "missing"),
    **dict.fromkeys(("AccessDenied", "AllAccessDisabled", "InvalidObjectState", "403"), "refused"),
}
# Classes of the libraries below s3fs, gcsfs, adlfs and aiohttp, by their names
_CLASSES: dict[str, FailureKind] = {
    **dict.fromkeys(("NoCredentialsError", "PartialCredentialsError"), "credentials"),
    **dict.fromkeys(("CredentialRetrievalError", "TokenRetrievalError"), "credentials"),
    **dict.fromkeys(("SSOError", "ProfileNotFound", "DefaultCredentialsError"), "credentials"),
    **dict.fromkeys(("RefreshError", "ClientAuthenticationError", "LoginError"), "credentials"),
    **dict.fromkeys(("HTTPClientError", "IncompleteReadError", "IncompleteRead"), "passing"),
    **dict.fromkeys(("ResponseParserError", "ClientPayloadError"), "passing"),
    **dict.fromkeys(("HttpProcessingError",), "passing"),  # what aiohttp means by "400, message:"
    **dict.fromkeys(("ClientConnectionError", "ServiceRequestError"), "passing"),
    **dict.fromkeys(("ServiceResponseError", "IncompleteBodyError"), "passing"),
}
_CUT = frozenset(("ClientPayloadError", "IncompleteReadError", "IncompleteRead"))
_NETWORK = frozenset(
    getattr(errno, name)
    for name in (
        *("ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "EPIPE", "ETIMEDOUT"),
        *("EHOSTUNREACH", "ENETUNREACH", "ENETDOWN", "EBUSY", "EAGAIN"),
    )
    if hasattr(errno, name)
)


class IncompleteError(OSError):
    """An object of which not all bytes came."""


class StatusError(OSError):
    """An answer of a web server that is not the picture.

    Args:
        status: Code of HTTP.
        retry_after_s: The server's wish; None: it has none.
    """

    def __init__(self, status: int, reason: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(f"{status} {reason}".strip())
        self.status, self.retry_after_s = status, retry_after_s


@dataclass(frozen=True)
class Failure:
    """One failure of a store."""

    kind: FailureKind
    reason: str  # for people, without secrets and full stop
    wait_s: float = 0.0  # that the store asks for before the next try


def failure_of(error: BaseException) -> Failure:
    """Tell what an exception of fsspec, or of the libraries below it, means."""
    found = causes(error)
    kinds = [kind for one in found if (kind := _kind_of(one)) is not None]
    wait = next((w for one in found if (w := getattr(one, "retry_after_s", None))), 0.0)
    # what was said first, by the store itself, is the most precise
    return Failure(kinds[-1] if kinds else "other", _reason(found), wait)


def _kind_of(error: BaseException) -> FailureKind | None:
    if known := [_CLASSES[name] for name in _names(error) if name in _CLASSES]:
        return known[0]
    code, status = _answer(error)
    if code in _CODES:
        return _CODES[code]
    if status is not None and status >= 300:
        if status in PASSING:
            return "passing"
        if status in (401, 403, 407, 451):
            return "refused"
        return "missing" if status in (404, 410) else "other"
    if isinstance(error, FileNotFoundError):
        return "missing"
    if isinstance(error, PermissionError):
        return "refused"
    named = type(error).__name__ in ("FSTimeoutError", "TimeoutError")  # asyncio's, Python 3.10
    if named or isinstance(error, (TimeoutError, ConnectionError, IncompleteError)):
        return "passing"
    return "passing" if getattr(error, "errno", None) in _NETWORK else None


def _answer(error: BaseException) -> tuple[str, int | None]:
    """Return the store's code of an error, and the status code of HTTP, where it carries them."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):  # of botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return str(response.get("Error", {}).get("Code", "")), status
    code = getattr(error, "error_code", "") or ""  # of azure.core
    for name in ("status", "status_code", "code"):  # aiohttp, azure.core, gcsfs
        status = getattr(error, name, None)
        if isinstance(status, int) or (isinstance(status, str) and status.isdecimal()):
            return str(getattr(code, "value", code)), int(status)
    return str(getattr(code, "value", code)), None


def _reason(found: list[BaseException]) -> str:
    deepest = found[-1]
    response: Any = getattr(deepest, "response", None)
    if isinstance(response, dict) and (told := response.get("Error")):
        text = f"{told.get('Code', '')}: {told.get('Message', '')}".strip(": ")
        text = text.splitlines()[0] if text else type(deepest).__name__
    elif type(found[0]).__name__ == "TooManyRedirects":
        text = "too many redirects"
    elif "Redirect" in type(found[0]).__name__ or "InvalidU" in type(found[0]).__name__:
        text = "redirected to something that is no address on the web"
    elif any(name in _CUT for one in found for name in _names(one)):
        text = "the connection ended before the content did"
    elif any("Timeout" in name for name in _names(found[0])):
        text = "timed out"
    elif (status := getattr(deepest, "status", None)) and not isinstance(deepest, StatusError):
        text = f"status {status}"
    elif isinstance(deepest, OSError) and deepest.strerror:
        text = deepest.strerror
    else:
        text = first_line(deepest)
    return without_secrets(text.strip()).rstrip(".") or type(deepest).__name__


def _names(error: BaseException) -> list[str]:
    return [one.__name__ for one in type(error).__mro__]
