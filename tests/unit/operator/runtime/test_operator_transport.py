"""The way to the API server: a proxy, where there is one."""

from __future__ import annotations

import pytest
from kubernetes.aio.client.configuration import Configuration

from rlhf_operator.runtime.transport import _proxy

VARIABLES = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of this machine's own."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def of(host: str, proxy: str | None = None) -> str | None:
    configuration = Configuration(host=host)
    configuration.proxy = proxy
    return _proxy(configuration)


def test_the_kubeconfigs_proxy_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://environment:3128")
    assert of("https://api.example:6443", "http://kubeconfig:3128") == "http://kubeconfig:3128"


def test_the_environments_is_taken_for_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://environment:3128")
    assert of("https://api.example:6443") == "http://environment:3128"
    assert of("http://api.example:8080") is None


def test_a_host_that_the_environment_excepts_is_reached_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://environment:3128")
    monkeypatch.setenv("NO_PROXY", "10.0.0.1,.example")
    assert of("https://api.example:6443") is None
    assert of("https://10.0.0.1:6443") is None
    assert of("https://10.0.0.2:6443") == "http://environment:3128"
