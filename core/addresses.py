"""Addresses of servers: one reading of Redis addresses, and what of an address may be shown."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from urllib.request import getproxies

from core.errors import SettingsError
from core.words import did_you_mean

_FORMS = "write host:port,db=N, redis://user@host:port/N, rediss://... for TLS, or unix:///path?db=N"
# What redis-py takes, and how it is read.
_OPTIONS: dict[str, type] = {
    **dict.fromkeys(("username", "password", "unix_socket_path", "client_name"), str),
    **dict.fromkeys(("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs"), str),
    **dict.fromkeys(("ssl", "ssl_check_hostname"), bool),
    **dict.fromkeys(("db", "protocol", "health_check_interval"), int),
    **dict.fromkeys(("socket_timeout", "socket_connect_timeout"), float),
}
_SWITCHES = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


@dataclass(frozen=True)
class RedisAddress:
    """Where a Redis is, and how to log in.

    Attributes:
        host, port: of the server; of a Unix socket they mean nothing.
        options: further arguments of redis-py's client; a password is never shown.
    """

    host: str
    port: int
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, url: str, password: str | None = None) -> RedisAddress:
        """Read an address in any of its forms.

        Args:
            url: `host:port,db=0,ssl=true,username=ranker`, or `redis://`, `rediss://` or `unix://` as redis-py reads them.
            password: of the environment; it takes the place of one in the address.

        Raises:
            SettingsError: it is no address; the message holds no password.
        """
        text = url.strip()
        try:
            read = _of_url(text) if "://" in text else _of_list(text)
        except ValueError as error:
            raise SettingsError(f"online.url: {shown(text)!r}: {error}; {_FORMS}") from None
        options = dict(read.options)
        if password is not None:
            options["password"] = password
        return cls(read.host, read.port, options)

    def arguments(self) -> dict[str, Any]:
        """Arguments of `redis.Redis`."""
        return {"host": self.host, "port": self.port, **self.options}

    def as_list(self, **more: Any) -> str:
        """The form that Feast reads: `host:port,name=value,...`, the values as JSON without commas."""
        options = {**self.options, **more}
        parts = (f"{name}={json.dumps(value).replace(',', chr(92) + 'u002c')}" for name, value in options.items())
        return ",".join([_host_and_port(self.host, self.port), *parts])

    def __str__(self) -> str:
        place = self.options.get("unix_socket_path") or _host_and_port(self.host, self.port)
        extra = [f"database {self.options.get('db', 0)}"]
        extra += ["TLS"] if self.options.get("ssl") else []
        extra += [f"user {self.options['username']}"] if "username" in self.options else []
        return f"{place} ({', '.join(extra)})"


def shown(address: str) -> str:
    """An address, or a text with addresses in it, without passwords: of URLs, and of lists of `password=` and others."""
    address = re.sub(r"(://[^/?#\s]*?):[^/?#\s]*@", r"\1:***@", address)
    return re.sub(r"((?:password|passwd|pwd|token|api_key)=)[^,&\s]*", r"\1***", address, flags=re.IGNORECASE)


def is_loopback(url: str) -> bool:
    """Whether an address is one of this machine's own, which no proxy stands before."""
    host = (urlsplit(url if "://" in url else f"//{url}").hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def past_proxies(url: str) -> None:
    """Let this process, and those it starts, reach an address of this machine past the proxies of the environment.

    For libraries that read the environment themselves.
    """
    host = urlsplit(url).hostname
    if host is None or not is_loopback(url) or not getproxies():
        return
    known = [part.strip() for part in (os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")).split(",")]
    if host not in known and "*" not in known:
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join([*filter(None, known), host])


def _of_url(text: str) -> RedisAddress:
    parts = urlsplit(text)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError(f"{parts.scheme}:// is no address of a Redis{did_you_mean(parts.scheme, ('redis', 'rediss'))}")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name, value in (("username", parts.username), ("password", parts.password)):
        if value:
            given[name] = unquote(value)
    path = unquote(parts.path)
    if parts.scheme == "unix":
        if not path.strip("/"):
            raise ValueError("a Unix socket needs its path")
        return RedisAddress("localhost", 6379, {**_typed(given), "unix_socket_path": path})
    if parts.scheme == "rediss":
        given["ssl"] = "true"
    if path.strip("/"):
        given["db"] = path.strip("/")
    return RedisAddress(*_place(parts.netloc.rpartition("@")[2]), _typed(given))


def _of_list(text: str) -> RedisAddress:
    places, given = [], {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals:
            places.append(part)
        elif name.strip() in given:
            raise ValueError(f"{name.strip()} stands there twice")
        else:
            given[name.strip()] = _plain(value.strip())
    options = _typed(given)
    if len(places) > 1:
        raise ValueError("it names several servers; a Redis cluster is not supported, name one server")
    if not places and "unix_socket_path" not in options:
        raise ValueError("it names no server")
    return RedisAddress(*_place(places[0] if places else "localhost"), options)


def _plain(value: str) -> str:
    """A value that may be JSON text, as Feast has it."""
    if value.startswith('"'):
        try:
            return str(json.loads(value))
        except json.JSONDecodeError:
            raise ValueError("a value begins with a quote and does not end with one") from None
    return value


def _place(text: str) -> tuple[str, int]:
    text = text.rstrip("/")
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:/@\[\]]+))(?::(\d+))?", text)
    if match is None:
        bare = text.count(":") > 1 and "[" not in text
        raise ValueError("an IPv6 address stands in brackets: [::1]:6379" if bare else "host and port cannot be read")
    port = int(match.group(3) or 6379)
    if not 0 < port < 65_536:
        raise ValueError(f"there is no port {port}")
    return match.group(1) or match.group(2), port


def _typed(given: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in given.items():
        kind = _OPTIONS.get(name)
        if kind is None:
            raise ValueError(f"there is no option {name!r}{did_you_mean(name, _OPTIONS)}")
        if kind is bool:
            if value.lower() not in _SWITCHES:
                raise ValueError(f"{name} is true or false")
            found[name] = _SWITCHES[value.lower()]
        elif kind is str:
            found[name] = value
        else:
            try:
                found[name] = kind(value)
            except ValueError:
                raise ValueError(f"{name} must be a number") from None
    if found.get("db", 0) < 0:
        raise ValueError("db must be 0 or more")
    if any(name.startswith("ssl_") for name in found) and not found.get("ssl"):
        raise ValueError("TLS options need ssl=true, or rediss://")
    return found


def _host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
