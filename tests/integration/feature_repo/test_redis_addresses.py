"""A real Redis behind an ACL user, TLS and a socket: materialise, read and doctor get in by one and the same address."""

import shutil
import socket
import subprocess

import pytest
import redis
from conftest import PATIENT_MS, settings_for, write_world
from redis_process import own_redis

from core.errors import StorageError
from core.settings import OnlineSettings
from feature_repo import OnlineReader, materialize
from feature_repo.online import OnlineTable
from feature_repo.overlay import open_store
from pipeline.commands.doctor import ping

pytestmark = pytest.mark.integration
SECRET = 'pa,ss"1@/:'
ALLOWED = ["+@read", "+@write", "+@connection", "+@keyspace", "+info"]  # as docs/how-to/stores.md has it


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Places of a Redis that takes user `ranker` only: plain port, TLS port, socket, and the authority's certificate."""
    folder = tmp_path_factory.mktemp("tls")
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    made = ("-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=localhost", "-addext", names)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *made], cwd=folder, check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        tls = probe.getsockname()[1]
    files = {"cert": folder / "cert.pem", "key": folder / "key.pem", "ca-cert": folder / "cert.pem"}
    options = ["--tls-port", str(tls), "--tls-auth-clients", "no", "--unixsocket", str(folder / "redis.sock")]
    options += [part for name, file in files.items() for part in (f"--tls-{name}-file", str(file))]
    with own_redis(folder, options=options) as (port, _):
        with redis.Redis(port=port) as client:
            client.acl_setuser("ranker", enabled=True, passwords=[f"+{SECRET}"], keys="*", commands=ALLOWED)
            client.acl_setuser("default", enabled=False)
        yield {"port": port, "tls": tls, "socket": folder / "redis.sock", "ca": folder / "cert.pem"}


ADDRESSES = {
    "list": "localhost:{port},db=1,username=ranker",
    "url": "redis://ranker@127.0.0.1:{port}/2",
    "tls url": "rediss://ranker@localhost:{tls}/3?ssl_ca_certs={ca}",
    "tls list": "localhost:{tls},db=4,username=ranker,ssl=true,ssl_ca_certs={ca}",
    "socket": "unix://ranker@{socket}?db=5",
}


def settings_at(server, url, folder, password=SECRET):
    online = OnlineSettings(store="redis", url=url.format(**server), password=password, timeout_ms=PATIENT_MS)
    return settings_for(folder / "root", online=online)


@pytest.mark.parametrize("url", ADDRESSES.values(), ids=ADDRESSES.keys())
def test_doctor_and_the_online_store_get_in_by_the_same_address(server, tmp_path, url):
    settings = settings_at(server, url, tmp_path)
    assert "answers" in ping(settings.online)[0]
    assert SECRET not in ping(settings.online)[0]
    for retry in (True, False):
        table = OnlineTable(open_store(settings, timeout_ms=PATIENT_MS), PATIENT_MS, retry=retry)
        assert table.backend._get_client(table.config.online_store).ping()


@pytest.mark.parametrize("kind", ["tls url", "socket"])
def test_values_are_written_and_read_over_it(server, tmp_path, kind):
    world = write_world(tmp_path / "artifacts", settings_at(server, ADDRESSES[kind], tmp_path), users=5, items=5)
    written = materialize(world.settings, world.clock, **world.paths)
    assert sum(written.values()) > 0
    reader = OnlineReader(world.settings, world.clock, {"pooled": "ab12"})
    assert reader.populated(["user_stats"])
    assert reader.read_user(1).status["user_stats"] == "found"


@pytest.mark.parametrize(
    ("url", "password", "said"),
    [
        ("localhost:{port},username=ranker", "hunter2", "invalid username-password"),
        ("localhost:{port}", None, "Authentication required|NOAUTH|Connection closed by server"),
        ("rediss://ranker@localhost:{tls}/0", SECRET, "certificate verify failed|self-signed"),
    ],
)
def test_what_does_not_get_in_names_the_setting_and_no_secret(server, tmp_path, url, password, said):
    settings = settings_at(server, url, tmp_path, password)
    world = write_world(tmp_path / "artifacts", settings, users=5, items=5)
    with pytest.raises(StorageError, match=said) as raised:
        materialize(world.settings, world.clock, **world.paths)
    assert "online.url" in str(raised.value)
    assert str(password) not in str(raised.value)
    assert SECRET not in str(raised.value)
