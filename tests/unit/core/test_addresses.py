"""Redis addresses have one reading, and no address is shown with its password."""

import os

import pytest
from feast.infra.online_stores.redis import RedisOnlineStore

from core import load_settings
from core.addresses import RedisAddress, is_loopback, past_proxies, shown
from core.errors import SettingsError

PLAIN = {"host": "cache", "port": 6380, "db": 2}


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        ("cache:6380,db=2", PLAIN),
        (" cache:6380 , db=2 ", PLAIN),
        ("db=2,cache:6380", PLAIN),
        ("redis://cache:6380/2", PLAIN),
        ("redis://cache:6380/?db=2", PLAIN),
        ("redis://cache:6380/2/", PLAIN),
        ("cache", {"host": "cache", "port": 6379}),
        ("redis://cache", {"host": "cache", "port": 6379}),
        ("rediss://cache:6380/2", {**PLAIN, "ssl": True}),
        ("cache:6380,db=2,ssl=true", {**PLAIN, "ssl": True}),
        ("cache:6380,db=2,ssl=True,ssl_ca_certs=/ca.pem", {**PLAIN, "ssl": True, "ssl_ca_certs": "/ca.pem"}),
        ("rediss://cache:6380/2?ssl_ca_certs=/ca.pem", {**PLAIN, "ssl": True, "ssl_ca_certs": "/ca.pem"}),
        ("redis://me:a%40b%2Cc@cache:6380/2", {**PLAIN, "username": "me", "password": "a@b,c"}),
        ("redis://:secret@cache:6380/2", {**PLAIN, "password": "secret"}),
        ("cache:6380,db=2,username=me,password=1234", {**PLAIN, "username": "me", "password": "1234"}),
        ('cache:6380,db=2,password="1234"', {**PLAIN, "password": "1234"}),
        ("[::1]:6380,db=2", {**PLAIN, "host": "::1"}),
        ("redis://[::1]:6380/2", {**PLAIN, "host": "::1"}),
        (
            "unix:///run/redis.sock?db=2",
            {"host": "localhost", "port": 6379, "db": 2, "unix_socket_path": "/run/redis.sock"},
        ),
        (
            "unix://me:pw@/run/redis.sock",
            {
                "host": "localhost",
                "port": 6379,
                "username": "me",
                "password": "pw",
                "unix_socket_path": "/run/redis.sock",
            },
        ),
    ],
)
def test_every_form_of_an_address_is_read_alike(url, arguments):
    read = RedisAddress.parse(url)
    assert read.arguments() == arguments
    assert RedisAddress.parse(read.as_list()) == read


@pytest.mark.parametrize("secret", ["a,b", "1234", 'qu"ote', "back\\slash", "true", "ü", "a=b", "[x]"])
def test_a_password_of_any_letters_reaches_redis_through_feast(secret):
    text = RedisAddress.parse("cache:6380,db=2,username=me", secret).as_list(socket_timeout=0.5)
    nodes, options = RedisOnlineStore._parse_connection_string(text)
    assert nodes == [{"host": "cache", "port": "6380"}]
    assert options == {"db": 2, "username": "me", "password": secret, "socket_timeout": 0.5}
    assert RedisAddress.parse(text).options["password"] == secret


def test_a_password_of_the_environment_wins_and_none_is_shown():
    address = RedisAddress.parse("redis://me:old@cache:6380/2", "new")
    assert address.options["password"] == "new"
    assert str(address) == "cache:6380 (database 2, user me)"
    assert "new" not in f"{address!r}{address}"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://cache:6379", "http:// is no address of a Redis"),
        ("reds://cache", "did you mean 'redis'"),
        ("cache:6380,dbb=1", "there is no option 'dbb'; did you mean 'db'"),
        ("cache:6380,db=one", "db must be a number"),
        ("cache:6380,db=-1", "db must be 0 or more"),
        ("redis://cache/two", "db must be a number"),
        ("cache:99999", "there is no port 99999"),
        ("cache:port", "host and port cannot be read"),
        ("::1", "stands in brackets"),
        ("a:1,b:2", "it names several servers"),
        ("", "it names no server"),
        ("unix://", "needs its path"),
        ("cache,ssl=perhaps", "ssl is true or false"),
        ("cache,ssl_ca_certs=/ca.pem", "TLS options need ssl=true"),
        ("cache,db=1,db=2", "db stands there twice"),
        ("redis://me:hunter2@cache:port", "online.url: 'redis://me:\\*\\*\\*@cache:port'"),
        ("cache,password=hunter2,dbb=1", "password=\\*\\*\\*"),
        ('cache,password="hunter2', "begins with a quote"),
    ],
)
def test_what_is_no_address_is_refused_by_the_settings_name_and_without_the_password(url, said):
    with pytest.raises(SettingsError, match=said) as raised:
        RedisAddress.parse(url)
    assert str(raised.value).startswith("online.url: ")
    assert "hunter2" not in str(raised.value)


def test_a_wrong_address_is_found_when_the_settings_are_read_if_redis_is_used(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("online: {store: redis, url: 'cache:6380,dbb=1'}")
    with pytest.raises(SettingsError, match=r"online\.url: .* there is no option 'dbb'"):
        load_settings(file)
    file.write_text("online: {store: sqlite, url: 'cache:6380,dbb=1'}")
    load_settings(file)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("postgresql+psycopg://me:hunter2@host:5432/feast", "postgresql+psycopg://me:***@host:5432/feast"),
        ("http://me:hunter2@host/mlflow?token=hunter2&x=1", "http://me:***@host/mlflow?token=***&x=1"),
        ("redis://:p@ss:w@host/0", "redis://:***@host/0"),
        ("cache:6380,password=hunter2,db=1", "cache:6380,password=***,db=1"),
        ("http://host:8000/v1", "http://host:8000/v1"),
        ("API request to http://me:hunter2@h:5000/x failed", "API request to http://me:***@h:5000/x failed"),
        ("http://h:5000/x and mail@example: both", "http://h:5000/x and mail@example: both"),
        ("cache:6380,db=1", "cache:6380,db=1"),
    ],
)
def test_an_address_is_shown_without_its_password(address, told):
    assert shown(address) == told


def test_manifests_hold_no_password_of_an_address(tmp_path):
    (tmp_path / "settings.yaml").write_text(
        "online: {store: redis, url: 'redis://me:hunter2@cache/0'}\n"
        "registry: {kind: sql, url: 'postgresql://me:hunter2@db/feast'}\n"
        "tracking: {url: 'http://me:hunter2@mlflow'}\n"
        "knowledge: {base_url: 'http://me:hunter2@llm/v1', generate: {base_url: 'http://me:hunter2@llm/v1'}}\n"
    )
    told = str(load_settings(tmp_path / "settings.yaml").section("online", "registry", "tracking", "knowledge"))
    assert "hunter2" not in told
    assert told.count("***") >= 5


@pytest.mark.parametrize(
    ("url", "ours"),
    [
        ("http://localhost:5000/", True),
        ("http://127.0.0.1:5000", True),
        ("http://127.8.8.8/x", True),
        ("http://[::1]:5000/x", True),
        ("localhost:3000", True),
        ("http://0.0.0.0:3000", True),
        ("http://api.localhost", True),
        ("http://example.org", False),
        ("http://10.0.0.1:8000/v1", False),
        ("http://localhost.example.org", False),
        ("", False),
    ],
)
def test_loopback_addresses_are_known(url, ours):
    assert is_loopback(url) is ours


def test_only_loopback_is_exempted_from_a_proxy_and_what_was_exempted_stays(monkeypatch):
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "ALL_PROXY", "HTTPS_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "intra.example")
    past_proxies("http://mlflow.example:5000")
    assert os.environ["NO_PROXY"] == "intra.example"
    past_proxies("http://127.0.0.1:5000/")
    past_proxies("http://127.0.0.1:5000/")
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "intra.example,127.0.0.1"
