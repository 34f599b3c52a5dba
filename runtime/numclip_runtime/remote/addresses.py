"""Addresses of pictures: which schemes are read, by which package, and what of them is shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from numclip_runtime.errors import UsageError
from numclip_runtime.model_files.given import kind_of

# A drive letter of Windows is one letter
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
# The same once `Path` has merged the slashes
_MERGED = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):[/\\]{1,2}(?=[^/\\])")
WEB = ("http", "https")
# In a query: parameters by which one who reads them could fetch the picture
_SECRET_NAME = re.compile(
    r"sig|token|cred|secret|pass|pwd|auth|key|policy|session|jwt|^code$|^s[ek]", re.IGNORECASE
)
_LONG_VALUE = 32  # characters; of a signature under another name
_IN_TEXT = re.compile(r"https?://[^\s'\"<>()]+", re.IGNORECASE)


@dataclass(frozen=True)
class Scheme:
    """What reads the addresses of one scheme."""

    module: str | None  # that fsspec imports for it; None: it needs none
    package: str | None  # that pip installs
    credentials: str = ""  # how people renew them


_S3 = Scheme(
    "s3fs",
    "s3fs",
    "log in again (`aws sso login`), or set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY; for a public bucket FSSPEC_S3_ANON=true",
)
_GS = Scheme("gcsfs", "gcsfs", "log in again with `gcloud auth application-default login`")
_AZ = Scheme("adlfs", "adlfs", "set AZURE_STORAGE_ACCOUNT_NAME, and log in again with `az login`")
_WEB = Scheme("aiohttp", "aiohttp")
SCHEMES = {
    **{"s3": _S3, "s3a": _S3, "gs": _GS, "gcs": _GS, "az": _AZ, "abfs": _AZ, "abfss": _AZ},
    **{"https": _WEB, "http": _WEB, "memory": Scheme(None, None)},
}


def scheme_of(text: str) -> str | None:
    """Return the scheme of an address, such as "s3"; None: it is a path on this machine."""
    found = _ADDRESS.match(text)
    return found[1].lower() if found else None


def refuse_address(path: object, what: str) -> None:
    """Refuse an address where only a path on this machine is meant, also one that is a `Path`.

    Raises:
        UsageError: naming the scheme.
    """
    if (found := _MERGED.match(str(path))) and found[1].lower() not in ("hf", "file"):
        place = f"{found[1]}://{str(path)[found.end() :]}"
        raise UsageError(f"{masked(place)}: is an address; {what}.")


def is_web_picture(text: str) -> bool:
    """Return whether this is the address of a picture on the web; other addresses are streams."""
    return scheme_of(text) in WEB and kind_of(unquote(urlsplit(text).path)) == "a picture"


def check_address(text: str) -> str:
    """Return the scheme of an address that can be read.

    Raises:
        UsageError: if the scheme is none of `SCHEMES`, or the address holds a password.
    """
    scheme = scheme_of(text)
    if scheme == "file":
        raise UsageError(f"{text}: give the path alone: {text[7:]}")
    if scheme not in SCHEMES:
        known = " ".join(f"{name}://" for name in SCHEMES if name != "memory")
        raise UsageError(f"{masked(text)}: {scheme}:// is not read (but {known}).")
    place = text[text.index("://") + 3 :].split("/", 1)[0]
    user, at, host = place.rpartition("@")
    # abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/... is an address without a secret
    if at and (":" in user or SCHEMES[scheme] is not _AZ):
        raise UsageError(
            f"{scheme}://...@{host}: holds a user's name or password; leave it out: credentials "
            "are read from the environment or its files."
        )
    if not place:
        raise UsageError(f"{masked(text)}: names no {'host' if scheme in WEB else 'bucket'}.")
    return scheme


def masked(address: str) -> str:
    """Return an address for messages and records: values in its query that are secrets are `***`.

    A query is what follows "?" on the web; in a bucket, "?" is a character of a name.
    """
    scheme = scheme_of(address)
    if scheme is None:
        return address
    head, slashes, rest = address.partition("://")
    place, slash, path = rest.partition("/")
    if "@" in place and (":" in place.partition("@")[0] or scheme in WEB):
        place = f"***@{place.rpartition('@')[2]}"
    address = head + slashes + place + slash + path
    if scheme not in WEB:
        return address
    base, mark, query = address.partition("#")[0].partition("?")
    return base + mark + "&".join(map(_hidden, query.split("&")))


def _hidden(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    secret = _SECRET_NAME.search(name) or len(value) >= _LONG_VALUE
    if not equals:
        return "***" if len(name) >= _LONG_VALUE else parameter
    return f"{name}=***" if secret else parameter


def without_secrets(text: str) -> str:
    """Return a library's message, with the addresses in it as `masked`."""
    return _IN_TEXT.sub(lambda found: masked(found[0]), text)
