"""A model by its address: fetched once, checked, and kept in the user's cache.

An address may end in ``#sha256=`` and the hash of the file, as pip has it: then no other file is
taken. Whatever comes is data: ``core.checkpoint`` runs nothing that is in it.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from core.checkpoint import load_checkpoint
from core.support.command_line import progress
from core.support.files import atomic_file, hash_of_file, try_out

CACHE = "caption-from-scratch"
_LARGEST = 2 * 10**9  # bytes: the largest encoder here, with a decoder, has a quarter of it
_BLOCK = 2**20
_TIMEOUT = 30  # seconds without an answer
_SLOWEST = 1000  # bytes a second, on average
_HASH = re.compile(r"sha256=([0-9a-fA-F]{64})")
_SUFFIXES = (".npz", ".safetensors")
_FAILURES = (urllib.error.URLError, http.client.HTTPException, ssl.SSLError)
_FAILURES += (TimeoutError, ConnectionError)


def cache_folder() -> Path:
    """Where the user's programs keep what they could fetch again, on this system."""
    if sys.platform == "win32":
        place = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        place = Path.home() / "Library" / "Caches"
    else:
        place = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(place) / CACHE


def fetched(option: str, url: str) -> Path:
    """The file of an address: the copy that was kept, else fetched and kept now. A line says which.

    Inputs:
    - option: which named it, for the messages
    - url: http or https, of a name that ends in .npz or .safetensors

    Raises ValueError for another address, an answer that is too large, torn or of another hash, and
    when nothing answers.
    """
    shown = f"{option} {url}"
    try:
        parts = urlsplit(url)
        name, host = unquote(parts.path).rpartition("/")[2], parts.hostname
    except ValueError as error:
        raise ValueError(f"{shown}: is no address ({error})") from error
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise ValueError(
            f"{shown}: expected an address http://... or https://... without a user's name; fetch "
            "the file by hand and give its name"
        )
    if not name.endswith(_SUFFIXES):
        raise ValueError(
            f"{shown}: expected an address whose file ends in {' or '.join(_SUFFIXES)}, as "
            "core.runs.export writes them"
        )
    wanted = _HASH.fullmatch(parts.fragment)
    if parts.fragment and not wanted:
        raise ValueError(f"{shown}: expected #sha256= and 64 hexadecimal digits, or nothing")
    wanted = wanted and wanted[1].lower()
    url = url.partition("#")[0]
    safe = re.sub(r"[^\w.-]", "_", name)[-80:]
    kept = cache_folder() / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{safe}"
    if kept.is_file():
        _require_hash(shown, hash_of_file(kept), wanted, f"remove {kept}, to fetch it again, or")
        print(f"model: the copy of {url} in {kept}; remove it to fetch it again")
        return kept
    try_out("the copy to keep,", kept)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(kept) as temporary:
        _download(shown, url, temporary)
        _require_hash(shown, hash_of_file(temporary), wanted, "ask who gave the address, or")
        try:
            load_checkpoint(temporary)  # what is no model is not kept
        except ValueError as error:
            reason = str(error).removeprefix(f"{temporary}: ")
            raise ValueError(f"{shown}: {reason}") from error
    print(f"model: fetched from {url}, kept in {kept}")
    return kept


def _require_hash(shown: str, found: str, wanted: str | None, advice: str) -> None:
    if wanted not in (None, found):
        raise ValueError(
            f"{shown}: the file has SHA-256 {found[:12]}..., expected {wanted[:12]}...; {advice} "
            "leave the hash out if you trust the file"
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect to another protocol, nor from https to http."""

    def redirect_request(self, request, file, code, message, headers, newurl):
        old, new = urlsplit(request.full_url).scheme, urlsplit(newurl).scheme
        if new not in ("http", "https") or (old, new) == ("https", "http"):
            raise urllib.error.URLError(f"it leads on to {new}://, which is not followed")
        return super().redirect_request(request, file, code, message, headers, newurl)


def _download(shown: str, url: str, path: Path) -> None:
    opener = urllib.request.build_opener(_Redirects)
    url = quote(url, safe="%/:=&?~+!$,;'@()*[]")  # a letter of any script, a space
    try:
        with opener.open(url, timeout=_TIMEOUT) as answer, open(path, "wb") as file:
            fault = _copy(answer, file)
    except urllib.error.HTTPError as error:
        fault = f"the server answers {error.code} {error.reason}; is the address right?"
    except (*_FAILURES, UnicodeError) as error:
        fault = (
            f"could not be fetched ({getattr(error, 'reason', None) or error}); are you online? "
        )
        fault += "Else fetch the file elsewhere and give its name"
    if fault:  # raised here, not above: else it would pass for a failure to write
        raise ValueError(f"{shown}: {fault}")


def _copy(answer, file) -> str | None:
    """Writes what comes to a file; returns what is wrong with it, or None."""
    length = answer.headers.get("Content-Length") or ""
    total = int(length) if length.isdecimal() and len(length) < 20 else None
    most = f"at most {_LARGEST:,} are taken; is it a model of core.runs.export?"
    if total is not None and total > _LARGEST:
        return f"announces {total:,} bytes, {most}"
    came, since = 0, time.monotonic()
    with progress(None, "fetching", total, unit="B", unit_scale=True) as bar:
        while block := answer.read1(_BLOCK):
            came += len(block)
            if came > _LARGEST:
                return f"sends more than {_LARGEST:,} bytes, {most}"
            file.write(block)
            bar.update(len(block))
            if came < (time.monotonic() - since - _TIMEOUT) * _SLOWEST:
                return f"{came:,} bytes came in {_TIMEOUT} seconds and more; try again later"
    if total is not None and came != total:
        return f"{came:,} bytes came of {total:,}; the connection broke, try again"
    return None
