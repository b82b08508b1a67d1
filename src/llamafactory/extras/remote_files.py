# SPDX-License-Identifier: Apache-2.0
"""Downloads for others: only from hosts that are allowed, at addresses that are public, within bounds.

A name is resolved once for each hop; all its addresses must be public, and the connection goes to one of those very
addresses, so that a DNS answer that changes between the check and the connection changes nothing.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.\-]*[a-z0-9])?")
# Addresses that hold another address inside: they are as public as what they lead to.
_WRAPPED = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")))
_CHUNK = 64 * 1024


@dataclass(frozen=True)
class RemotePolicy:
    """What may be downloaded.

    Attributes:
        hosts: Hosts that may be asked; ``*`` = every public one. Empty = no remote files.
        max_bytes: Largest file.
        seconds: Longest download, all redirects together.
        redirects: Most redirects of one download.
    """

    hosts: tuple[str, ...] = ()
    max_bytes: int = 10 * 2**20
    seconds: float = 20.0
    redirects: int = 3


def allowed_hosts(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The hosts that ``SAFE_MEDIA_HOSTS`` names, commas between them."""
    return tuple(one.strip().lower() for one in environment.get("SAFE_MEDIA_HOSTS", "").split(",") if one.strip())


class RefusedUrlError(ValueError):
    """The URL may not be requested, or its response cannot be used."""


def fetch(url: str, policy: RemotePolicy) -> bytes:
    """Download a file.

    Args:
        url: ``http`` or ``https``, at the usual port.
        policy: Hosts, and bounds of size, time and redirects.

    Raises:
        RefusedUrlError: It may not be requested, or the response is no file within the bounds.
    """
    deadline = time.monotonic() + policy.seconds
    for _ in range(policy.redirects + 1):
        parts = check_url(url, policy)
        try:
            found = _get(parts, public_address(str(parts.hostname), _PORTS[parts.scheme]), policy, deadline)
        except (OSError, http.client.HTTPException):
            raise RefusedUrlError("the remote file cannot be read") from None
        if isinstance(found, bytes):
            return found
        url = urljoin(url, found)
    raise RefusedUrlError(f"more than {policy.redirects} redirects")


def check_url(url: str, policy: RemotePolicy) -> SplitResult:
    """Return the parts of a URL that may be requested.

    Raises:
        RefusedUrlError: Scheme, host, port or spelling is not allowed.
    """
    if not url.isascii() or re.search(r"[\s\\\x00-\x1f\x7f]", url):
        raise RefusedUrlError("the URL has characters that no URL has")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise RefusedUrlError("not a URL") from None
    if parts.scheme not in _PORTS or "@" in parts.netloc or port not in (None, _PORTS[parts.scheme]):
        raise RefusedUrlError("only http and https at their usual ports, without a user, are fetched")
    host = parts.hostname or ""
    if "*" not in policy.hosts and host not in policy.hosts:
        raise RefusedUrlError("remote files are fetched only from hosts that SAFE_MEDIA_HOSTS names")
    if not _HOST.fullmatch(host) and ":" not in host:
        raise RefusedUrlError("not a host name")
    return parts


def public_address(host: str, port: int) -> str:
    """Resolve a name once; return an address to connect to.

    Raises:
        RefusedUrlError: It has no address, or one of them is not public.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise RefusedUrlError("the remote file cannot be read") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(map(is_public, addresses)):
        raise RefusedUrlError("the host is not a public one")
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an address is one of the open internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if any(ip in network for network in _WRAPPED):
            return False
    return ip.is_global and not ip.is_multicast


def _get(parts: SplitResult, address: str, policy: RemotePolicy, deadline: float) -> bytes | str:
    """One request to one address; the file, or where a redirect leads."""
    host, port = str(parts.hostname), _PORTS[parts.scheme]
    sock = socket.create_connection((address, port), timeout=_left(deadline))
    connection = http.client.HTTPConnection(host, port)
    try:
        if parts.scheme == "https":
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        connection.sock = sock
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"User-Agent": "llamafactory", "Accept-Encoding": "identity"})
        response = connection.getresponse()
        if response.status in (301, 302, 303, 307, 308):
            return response.getheader("Location", "")
        if response.status != 200:
            raise RefusedUrlError(f"the remote host answered {response.status}")
        body = bytearray()
        while len(body) <= policy.max_bytes:
            sock.settimeout(_left(deadline))
            # read1: what is there now; read would wait for a whole chunk, however slowly it drips.
            chunk = response.read1(_CHUNK)
            if not chunk:
                return bytes(body)
            body += chunk
        raise RefusedUrlError(f"larger than {policy.max_bytes} bytes")
    finally:
        connection.close()
        sock.close()


def _left(deadline: float) -> float:
    """Seconds that are left; raises TimeoutError (an OSError) when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
