"""Services of one user on one machine do not touch each other's files."""

from __future__ import annotations

import re

from started import started

from core import load_settings
from pipeline.commands.serve import free_port, service_environment


def test_each_address_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("project: mine")
    settings = load_settings(tmp_path / "mine.yaml")
    addresses = [("127.0.0.1", 3000), ("127.0.0.1", 3001), ("127.0.0.2", 3000), ("::1", 3000)]
    homes = {service_environment(settings, *address)["BENTOML_HOME"] for address in addresses}
    assert len(homes) == 4 and all(home.startswith(str(tmp_path)) for home in homes)


def test_a_service_that_starts_leaves_the_counts_of_another_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    settings, port = tmp_path / "mine.yaml", free_port()
    settings.write_text("root: nothing-yet")

    def counted(service):
        return re.findall(r'request_total\{endpoint="/scenarios".* ([\d.]+)', service.client.get("/metrics").text)

    with started(settings, tmp_path / "one.log", port=port) as one:
        for _ in range(3):
            one.client.get("/scenarios")
        assert counted(one) == ["3.0"]
        with started(settings, tmp_path / "other.log", host="127.0.0.2", port=port) as other:
            other.client.get("/scenarios")
            assert (counted(one), counted(other)) == (["3.0"], ["1.0"])
