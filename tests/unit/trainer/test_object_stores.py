"""Inputs out of object stores. S3 is moto's server, a fake: there is no real one where tests run. Of Google's and Azure's
only the packages are tested: that a URL of theirs finds its file system."""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from rlhf_trainer.exits import InputError
from rlhf_trainer.sources import cache
from rlhf_trainer.sources.cache import InputCache
from rlhf_trainer.sources.fetch import fetch_url

ROWS = b'{"prompt": "a"}\n'


@pytest.fixture(scope="module")
def s3() -> Iterator[fsspec.AbstractFileSystem]:
    """A store with a bucket; found and opened by what a Secret gives to `prepare`: the environment."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "key")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        store = fsspec.filesystem("s3")
        store.mkdir("bucket")
        yield store
    server.stop()


def test_a_file_of_s3(s3, tmp_path):
    s3.pipe_file("bucket/eval/prompts.jsonl", ROWS)
    cached = fetch_url("s3://bucket/eval/prompts.jsonl", InputCache(tmp_path))
    assert (cached.path / "prompts.jsonl").read_bytes() == ROWS


def test_a_folder_of_s3(s3, tmp_path):
    s3.pipe_file("bucket/model/config.json", b"{}")
    s3.pipe_file("bucket/model/parts/one.safetensors", b"1" * 100)
    cached = fetch_url("s3://bucket/model", InputCache(tmp_path))
    assert sorted(cache.files_below(cached.path)) == ["config.json", "parts/one.safetensors"]


@pytest.mark.parametrize("url", ["s3://bucket/nothing.jsonl", "s3://no-such-bucket/rows.jsonl"])
def test_what_is_not_in_s3_is_named(s3, tmp_path, url):
    with pytest.raises(InputError, match=f"{url}: .*nothing there"):
        fetch_url(url, InputCache(tmp_path))


@pytest.mark.parametrize(("scheme", "module"), [("gs", "gcsfs"), ("gcs", "gcsfs"), ("az", "adlfs"), ("abfs", "adlfs")])
def test_the_packages_of_other_stores_are_there(scheme, module):
    assert fsspec.get_filesystem_class(scheme).__module__.partition(".")[0] == module
