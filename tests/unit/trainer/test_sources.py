"""Inputs from every kind of source land in the storage once, whole, and are found again by their content."""

from __future__ import annotations

import errno
import http.server
import os
import socket
import struct
import sys
import threading
from functools import partial

import fsspec
import pytest

from fakes import fake_hub
from rlhf_api.digest import digest_file
from rlhf_api.gguf import read_header
from rlhf_api.job import Input
from rlhf_trainer.exits import InputError, StageError
from rlhf_trainer.sources import cache, folder
from rlhf_trainer.sources.cache import InputCache, content_digest, verify
from rlhf_trainer.sources.fetch import fetch, fetch_url, redact

ROWS = b'{"prompt": "a"}\n'
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def storage(tmp_path):
    return tmp_path / "storage"


@pytest.fixture
def job(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    return folder


def write(path, content=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def bind(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)


def files(fetched):
    return {
        path.relative_to(fetched.path).as_posix(): path.read_bytes()
        for path in fetched.path.rglob("*")
        if path.is_file()
    }


def get(source, storage, job, environment=None, **fields):
    return fetch(Input(name="rows", source=source, **fields), storage, job, environment or {})


class TestPaths:
    def test_a_file_beside_the_job_is_copied(self, storage, job):
        write(job / "data/rows.jsonl")
        fetched = get("data/rows.jsonl", storage, job)
        assert files(fetched) == {"rows.jsonl": ROWS}
        assert fetched.path == storage / "inputs" / fetched.digest
        assert fetched.bytes == len(ROWS)

    def test_a_folder_keeps_its_names(self, storage, job):
        write(job / "data/a/train.jsonl")
        write(job / "data/README.md", b"---\nlicense: mit\n---\n")
        write(job / "data/.git/config", b"x")
        fetched = get("data", storage, job)
        assert sorted(files(fetched)) == ["README.md", "a/train.jsonl"]
        assert fetched.licence == "mit"

    def test_an_absolute_path_is_taken_as_it_is(self, storage, job, tmp_path):
        path = write(tmp_path / "elsewhere/rows.jsonl")
        assert files(get(str(path), storage, job)) == {"rows.jsonl": ROWS}

    def test_equal_content_is_kept_once_whatever_its_name(self, storage, job):
        write(job / "a.jsonl")
        write(job / "b.jsonl")
        assert get("a.jsonl", storage, job).digest == get("b.jsonl", storage, job).digest

    def test_a_suffix_changes_how_rows_are_read_and_so_the_digest(self, storage, job):
        write(job / "a.jsonl")
        write(job / "a.json")
        assert get("a.jsonl", storage, job).digest != get("a.json", storage, job).digest

    def test_changed_content_gets_another_digest_and_the_old_one_stays(self, storage, job):
        path = write(job / "a.jsonl")
        before = get("a.jsonl", storage, job)
        path.write_bytes(b'{"prompt": "b"}\n')
        after = get("a.jsonl", storage, job)
        assert before.digest != after.digest
        assert files(before) == {"a.jsonl": ROWS}

    def test_nothing_there_is_named(self, storage, job):
        with pytest.raises(InputError, match=r"none.jsonl: no such file or folder"):
            get("none.jsonl", storage, job)

    def test_a_file_that_may_not_be_read_is_named_with_who_asked(self, storage, job, monkeypatch):
        opened = os.open

        def refused(path, *args, **kwargs):
            if path == "rows.jsonl":
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return opened(path, *args, **kwargs)

        write(job / "rows.jsonl")
        monkeypatch.setattr(folder.os, "open", refused)  # a test that runs as root may read everything
        with pytest.raises(InputError, match=rf"rows\.jsonl: user {os.geteuid()} may not read it"):
            get("rows.jsonl", storage, job)

    def test_an_empty_folder_is_named(self, storage, job):
        (job / "data").mkdir()
        with pytest.raises(InputError, match="the folder holds no file"):
            get("data", storage, job)

    def test_a_path_is_refused_on_a_cluster(self, storage, job, tmp_path):
        write(job / "a.jsonl")
        with pytest.raises(InputError, match="local runner only; on a cluster use pvc://claim/path"):
            get("a.jsonl", storage, job, {"RLHF_CLAIMS": str(tmp_path)})


class TestLargeFiles:
    @pytest.fixture(autouse=True)
    def small_is_large(self, monkeypatch):
        monkeypatch.setattr(cache, "LINK_FROM", 1)

    def test_they_are_linked(self, storage, job):
        path = write(job / "model.gguf.jsonl")
        fetched = get("model.gguf.jsonl", storage, job)
        assert (fetched.path / path.name).stat().st_ino == path.stat().st_ino

    def test_they_are_hashed_once(self, storage, job, monkeypatch):
        write(job / "a.jsonl")
        first = get("a.jsonl", storage, job)
        monkeypatch.setattr(cache.hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
        assert get("a.jsonl", storage, job).digest == first.digest

    def test_writing_into_one_is_noticed_and_it_is_fetched_again(self, storage, job):
        path = write(job / "a.jsonl")
        first = get("a.jsonl", storage, job)
        with path.open("r+b") as file:
            file.write(b'{"prompt": "Z"}\n')
        assert "a.jsonl was changed" in verify(first.path)
        second = get("a.jsonl", storage, job)
        assert second.digest != first.digest
        assert verify(second.path) is None

    def test_another_file_system_means_a_copy(self, storage, job, monkeypatch):
        import errno

        def refuse(*_, **__):
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        monkeypatch.setattr(cache.os, "link", refuse)
        path = write(job / "a.jsonl")
        fetched = get("a.jsonl", storage, job)
        assert (fetched.path / "a.jsonl").stat().st_ino != path.stat().st_ino


class TestKeeping:
    def test_damaged_content_is_fetched_again(self, storage, job):
        write(job / "a.jsonl")
        fetched = get("a.jsonl", storage, job)
        (fetched.path / "a.jsonl").write_bytes(b"damaged")
        assert files(get("a.jsonl", storage, job)) == {"a.jsonl": ROWS}

    def test_a_file_added_or_gone_is_noticed(self, storage, job):
        write(job / "a.jsonl")
        fetched = get("a.jsonl", storage, job)
        write(fetched.path / "b.jsonl")
        assert "b.jsonl appeared or went" in verify(fetched.path)

    def test_a_file_touched_but_not_changed_is_fine(self, storage, job):
        write(job / "a.jsonl")
        fetched = get("a.jsonl", storage, job)
        os.utime(fetched.path / "a.jsonl", (1, 1))
        assert verify(fetched.path) is None

    def test_two_runs_that_fetch_the_same_agree(self, storage, job):
        write(job / "a.jsonl")
        results = []
        threads = [threading.Thread(target=lambda: results.append(get("a.jsonl", storage, job))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({result.digest for result in results}) == 1
        assert len(results) == 8
        assert verify(results[0].path) is None
        assert [path.name for path in (storage / "inputs").iterdir() if not path.name.startswith(".")] == [
            results[0].digest
        ]
        hidden = {path.name for path in (storage / "inputs").iterdir() if path.name.startswith(".")}
        assert hidden == {".lock", ".records"}

    def test_nothing_half_fetched_stays(self, storage):
        with pytest.raises(RuntimeError), InputCache(storage).staging() as staging:
            write(staging / "half")
            raise RuntimeError
        assert list((storage / "inputs").iterdir()) == []

    def test_a_file_that_changes_while_it_is_copied_is_noticed(self, storage, job, monkeypatch):
        path = write(job / "a.jsonl")

        def opened(real):
            file = folder.open_real(real)
            path.write_bytes(b"other")  # after it was hashed
            return file

        hashed = cache.hashlib.file_digest

        def digest(file, name):
            result = hashed(file, name)
            monkeypatch.setattr(cache, "open_real", opened)
            return result

        monkeypatch.setattr(cache.hashlib, "file_digest", digest)
        with pytest.raises(InputError, match="changed while it was copied"):
            get("a.jsonl", storage, job)

    def test_the_digest_is_of_names_and_bytes(self):
        assert content_digest({"a": "1", "b": "2"}) == content_digest({"b": "2", "a": "1"})
        assert content_digest({"a": "1", "b": "2"}) != content_digest({"a": "2", "b": "1"})
        assert content_digest({"x.jsonl": "1"}) == content_digest({"y.jsonl": "1"})


class TestLinks:
    """Prepare holds tokens and has every claim mounted: a link in a folder of data leads to none of it."""

    @pytest.fixture
    def data(self, job):
        write(job / "data/rows.jsonl")
        write(job / "private/other.jsonl", b'{"prompt": "private"}\n')
        return job / "data"

    @pytest.mark.parametrize("target", ["/proc/self/environ", "/etc/passwd", "../private/other.jsonl", "../private"])
    def test_out_of_the_folder_is_refused(self, storage, job, data, target):
        (data / "linked.jsonl").symlink_to(target)
        with pytest.raises(InputError, match=rf"data: linked.jsonl: a link to '{target}', outside of its folder"):
            get("data", storage, job)

    def test_out_of_a_folder_inside_is_refused(self, storage, job, data):
        (data / "a").mkdir()
        (data / "a/linked.jsonl").symlink_to("../../private/other.jsonl")
        with pytest.raises(InputError, match=r"a/linked\.jsonl: a link to"):
            get("data", storage, job)

    def test_inside_is_read(self, storage, job, data):
        (data / "a").mkdir()
        (data / "a/linked.jsonl").symlink_to("../rows.jsonl")
        (data / "again").symlink_to("a")
        assert files(get("data", storage, job)) == {"rows.jsonl": ROWS, "a/linked.jsonl": ROWS}

    @pytest.mark.parametrize("target", ["nothing.jsonl", "loop.jsonl"])
    def test_that_leads_nowhere_is_refused(self, storage, job, data, target):
        (data / "loop.jsonl").symlink_to(target)
        with pytest.raises(InputError, match=r"loop\.jsonl: a link that leads nowhere"):
            get("data", storage, job)

    def test_an_input_may_itself_be_a_link(self, storage, job, data):
        (job / "link.jsonl").symlink_to("private/other.jsonl")
        assert sorted(files(get("link.jsonl", storage, job))) == ["link.jsonl"]
        (job / "folder").symlink_to("data")
        assert sorted(files(get("folder", storage, job))) == ["rows.jsonl"]

    def test_a_snapshot_of_the_hubs_cache_has_links_to_its_blobs(self, storage, job):
        cache = job / "models--org--m"
        write(cache / "blobs/0a", b"{}")
        (cache / f"snapshots/{COMMIT}").mkdir(parents=True)
        (cache / f"snapshots/{COMMIT}/config.json").symlink_to("../../blobs/0a")
        assert files(get(f"models--org--m/snapshots/{COMMIT}", storage, job)) == {"config.json": b"{}"}
        (cache / f"snapshots/{COMMIT}/a.json").symlink_to("../../refs")
        write(cache / "refs", b"{}")
        with pytest.raises(InputError, match=r"a\.json: a link to"):
            get(f"models--org--m/snapshots/{COMMIT}", storage, job)

    def test_blobs_may_not_be_a_link_themselves(self, storage, job, data):
        (job / "m/snapshots/1").mkdir(parents=True)
        (job / "m/blobs").symlink_to("../private")
        (job / "m/snapshots/1/a.jsonl").symlink_to("../../blobs/other.jsonl")
        with pytest.raises(InputError, match=r"a\.jsonl: a link to"):
            get("m/snapshots/1", storage, job)

    def test_out_of_a_claim_is_refused(self, storage, job, tmp_path):
        write(tmp_path / "claims/private/rows.jsonl")
        (tmp_path / "claims/shared").mkdir()
        for name, target in (("rows.jsonl", "../private/rows.jsonl"), ("all", "../private"), ("environ", "/proc/self")):
            (tmp_path / "claims/shared" / name).symlink_to(target)
        for path in ("rows.jsonl", "all/rows.jsonl", "all", "environ/environ"):
            with pytest.raises(InputError, match=f"pvc://shared/{path}: a link leads out of the claim"):
                get(f"pvc://shared/{path}", storage, job, {"RLHF_CLAIMS": str(tmp_path / "claims")})

    def test_a_link_put_in_place_of_a_file_or_folder_while_it_is_read_is_not_followed(self, job, data):
        real = folder.files_below(job)["data/rows.jsonl"]
        (data / "rows.jsonl").unlink()
        (data / "rows.jsonl").symlink_to("../private/other.jsonl")
        with pytest.raises(InputError, match="was replaced while it was read"):
            folder.open_real(real)
        (data / "rows.jsonl").unlink()
        data.rmdir()
        data.symlink_to("private")
        with pytest.raises(InputError, match="was replaced while it was read"):
            folder.open_real(real.with_name("other.jsonl"))

    @pytest.mark.parametrize(("kind", "make"), [("a pipe", os.mkfifo), ("a socket", bind)])
    def test_what_is_no_file_is_refused_without_waiting_for_it(self, storage, job, data, monkeypatch, kind, make):
        monkeypatch.chdir(data)
        make("odd.jsonl")
        with pytest.raises(InputError, match=f"odd.jsonl: found {kind}; expected a file"):
            get("data", storage, job)
        with pytest.raises(InputError, match=f"found {kind}; expected a file"):
            get("data/odd.jsonl", storage, job)

    def test_a_chain_of_file_systems_is_refused(self, storage, job):
        with pytest.raises(InputError, match="found ::; expected one address"):
            get("https://host/a.jsonl::file:///etc/passwd", storage, job)


class TestRights:
    def test_what_is_kept_is_not_for_every_user(self, storage, job):
        write(job / "data/a/rows.jsonl")
        stored = get("data", storage, job).path
        modes = [path.stat().st_mode & 0o007 for path in (stored, stored / "a", stored / "a/rows.jsonl")]
        assert modes == [0, 0, 0]

    def test_what_is_linked_keeps_its_owners_rights(self, storage, job, monkeypatch):
        monkeypatch.setattr(cache, "LINK_FROM", 1)
        path = write(job / "rows.jsonl")
        path.chmod(0o644)
        stored = get("rows.jsonl", storage, job).path
        assert (path.stat().st_mode & 0o777, stored.stat().st_mode & 0o007) == (0o644, 0)


class TestRecords:
    """A damaged record is as good as none."""

    DAMAGED = (b"", b"[]", b"null", b'{"files":null}', b'{"files":{"x":1}}', b'{"files":{"x":["a","b"]}}', b"[" * 9999)

    @pytest.mark.parametrize("content", DAMAGED)
    def test_it_fails_no_job_and_is_written_anew(self, storage, job, content):
        write(job / "a.jsonl")
        write(job / "b.jsonl", b'{"prompt": "b"}\n')
        first = get("a.jsonl", storage, job)
        record = storage / "inputs/.records" / f"{first.digest}.json"
        intact = record.read_bytes()
        record.write_bytes(content)
        get("b.jsonl", storage, job)
        assert get("a.jsonl", storage, job).digest == first.digest
        assert record.read_bytes() == intact

    def test_with_content_that_was_changed_too_it_is_fetched_again(self, storage, job):
        write(job / "a.jsonl")
        fetched = get("a.jsonl", storage, job)
        (fetched.path / "a.jsonl").write_bytes(b"changed")
        (storage / "inputs/.records" / f"{fetched.digest}.json").write_bytes(b"")
        assert "its record is damaged" in verify(fetched.path)
        assert files(get("a.jsonl", storage, job)) == {"a.jsonl": ROWS}

    @pytest.mark.parametrize("content", [*DAMAGED, b'{"digest": "../.."}', b'{"digest": 1}'])
    def test_of_a_commit_it_is_fetched_again(self, hub, storage, job, content):
        hub.repositories["models/org/m"] = fake_hub.Repository(COMMIT, MODEL)
        first = get(f"hf://org/m@{COMMIT}", storage, job)
        (record,) = (storage / "inputs/.records").glob("hub-*.json")
        record.write_bytes(content)
        assert get(f"hf://org/m@{COMMIT}", storage, job).digest == first.digest


class TestClaims:
    def test_a_claim_is_read_below_its_mount(self, storage, job, tmp_path):
        write(tmp_path / "claims/models/eval/rows.jsonl")
        fetched = get("pvc://models/eval/rows.jsonl", storage, job, {"RLHF_CLAIMS": str(tmp_path / "claims")})
        assert files(fetched) == {"rows.jsonl": ROWS}

    def test_locally_it_is_refused_in_words(self, storage, job):
        with pytest.raises(InputError, match=r"pvc://models/rows.jsonl: a claim can be read on a cluster only"):
            get("pvc://models/rows.jsonl", storage, job)

    def test_a_claim_that_is_not_mounted_is_named(self, storage, job, tmp_path):
        with pytest.raises(InputError, match="the claim 'models' is not mounted"):
            get("pvc://models/rows.jsonl", storage, job, {"RLHF_CLAIMS": str(tmp_path)})


class TestPackages:
    def test_a_file_of_an_installed_package_is_read_without_running_it(self, storage, job, tmp_path, monkeypatch):
        write(tmp_path / "site/weights_wheel/__init__.py", b"raise RuntimeError('was run')")
        write(tmp_path / "site/weights_wheel/data/rows.jsonl")
        monkeypatch.syspath_prepend(tmp_path / "site")
        assert files(get("package://weights_wheel/data/rows.jsonl", storage, job)) == {"rows.jsonl": ROWS}
        assert files(get("package://weights_wheel.data/rows.jsonl", storage, job)) == {"rows.jsonl": ROWS}
        assert "weights_wheel" not in sys.modules

    def test_a_package_that_is_not_installed_is_named(self, storage, job):
        with pytest.raises(InputError, match="no package 'not_installed' is installed here"):
            get("package://not_installed/rows.jsonl", storage, job)


class TestUrls:
    def test_a_file_of_any_fsspec_store(self, storage):
        fsspec.filesystem("memory").pipe_file("/bucket/rows.jsonl", ROWS)
        fetched = fetch_url("memory://bucket/rows.jsonl", InputCache(storage))
        assert (fetched.path / "rows.jsonl").read_bytes() == ROWS

    def test_a_folder_of_any_fsspec_store(self, storage):
        memory = fsspec.filesystem("memory")
        memory.pipe_file("/folder/a/rows.jsonl", ROWS)
        memory.pipe_file("/folder/config.json", b"{}")
        fetched = fetch_url("memory://folder", InputCache(storage))
        assert sorted(cache.files_below(fetched.path)) == ["a/rows.jsonl", "config.json"]

    def test_a_file_over_http(self, storage, tmp_path):
        write(tmp_path / "www/rows.jsonl")
        with Serving(tmp_path / "www") as url:
            fetched = fetch_url(f"{url}/rows.jsonl", InputCache(storage))
        assert digest_file(fetched.path / "rows.jsonl") == digest_file(tmp_path / "www/rows.jsonl")

    def test_nothing_there_is_named_without_the_query(self, storage, tmp_path):
        (tmp_path / "www").mkdir()
        with Serving(tmp_path / "www") as url, pytest.raises(InputError, match="nothing there") as caught:
            fetch_url(f"{url}/rows.jsonl?token=secret", InputCache(storage))
        assert "secret" not in str(caught.value)

    def test_a_store_that_does_not_answer_may_answer_later(self, storage):
        with pytest.raises(StageError, match="could not be fetched") as caught:
            fetch_url("http://127.0.0.1:9/rows.jsonl", InputCache(storage))
        assert caught.value.code == 1

    def test_a_store_without_its_package_names_it(self, storage, job):
        with pytest.raises(InputError, match="ossfs"):
            get("oss://bucket/rows.jsonl", storage, job)

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("https://user:secret@host/a?token=secret", "https://host/a"),
            ("hf://org/model@main", "hf://org/model@main"),
            ("data/rows@2.jsonl", "data/rows@2.jsonl"),
        ],
    )
    def test_credentials_are_never_shown(self, text, shown):
        assert redact(text) == shown


class Serving:
    """A folder over HTTP on this machine."""

    def __init__(self, folder):
        handler = partial(_Quiet, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self):
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        return


@pytest.fixture
def hub(monkeypatch):
    with fake_hub.running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield running


MODEL = {
    "README.md": b"---\nlicense: apache-2.0\n---\n",
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"pickle",
    "onnx/model.onnx": b"onnx",
}


class TestHub:
    """Against a fake of the hub over real HTTP."""

    def test_a_models_safetensors_are_fetched_and_its_pickles_are_not(self, hub, storage, job):
        hub.repositories["models/org/m"] = fake_hub.Repository(COMMIT, MODEL)
        fetched = get(f"hf://org/m@{COMMIT}", storage, job)
        assert sorted(files(fetched)) == ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
        assert (fetched.commit, fetched.licence, fetched.notes) == (COMMIT, "apache-2.0", [])
        assert not [path for path in hub.requests if path.endswith((".bin", ".onnx"))]

    def test_a_branch_is_resolved_to_its_commit_and_said(self, hub, storage, job):
        hub.repositories["models/org/m"] = fake_hub.Repository(COMMIT, MODEL)
        fetched = get("hf://org/m@main", storage, job)
        assert fetched.commit == COMMIT
        assert f"the revision is commit {COMMIT} now" in fetched.notes[0]

    def test_a_commit_fetched_before_needs_no_hub(self, hub, storage, job):
        hub.repositories["models/org/m"] = fake_hub.Repository(COMMIT, MODEL)
        first = get("hf://org/m@main", storage, job)
        request_count = len(hub.requests)
        assert get(f"hf://org/m@{COMMIT}", storage, job).digest == first.digest
        assert len(hub.requests) == request_count

    def test_damaged_files_are_fetched_again(self, hub, storage, job):
        hub.repositories["models/org/m"] = fake_hub.Repository(COMMIT, MODEL)
        fetched = get(f"hf://org/m@{COMMIT}", storage, job)
        (fetched.path / "model.safetensors").write_bytes(b"damaged")
        assert files(get(f"hf://org/m@{COMMIT}", storage, job))["model.safetensors"] == b"weights"

    def test_of_a_data_set_the_files_of_its_split(self, hub, storage, job):
        content = {"README.md": b"", "data/train.jsonl": ROWS, "data/test.jsonl": b'{"prompt": "t"}\n', "x.py": b"code"}
        hub.repositories["datasets/org/d"] = fake_hub.Repository(COMMIT, content)
        assert sorted(files(get("hf://datasets/org/d@main", storage, job))) == ["README.md", "data/train.jsonl"]
        fetched = get("hf://datasets/org/d@main", storage, job, split="test")
        assert sorted(files(fetched)) == ["README.md", "data/test.jsonl"]

    def test_of_a_data_set_the_subset_its_card_names(self, hub, storage, job):
        card = b"---\nconfigs:\n- config_name: a\n  data_files: a/*.jsonl\n- config_name: b\n  data_files: b/*.jsonl\n---\n"
        content = {"README.md": card, "a/1.jsonl": ROWS, "b/1.jsonl": ROWS}
        hub.repositories["datasets/org/d"] = fake_hub.Repository(COMMIT, content)
        assert sorted(files(get("hf://datasets/org/d@main", storage, job, subset="b"))) == ["README.md", "b/1.jsonl"]
        with pytest.raises(InputError, match=r"several configurations \(a, b\)"):
            get("hf://datasets/org/d@main", storage, job)

    def test_a_model_of_pickles_alone_is_refused(self, hub, storage, job):
        hub.repositories["models/org/m"] = fake_hub.Repository(COMMIT, {"config.json": b"", "pytorch_model.bin": b""})
        with pytest.raises(InputError, match=r"its weights are pytorch_model.bin, which are never loaded"):
            get("hf://org/m@main", storage, job)

    def test_of_several_gguf_files_one_must_be_named(self, hub, storage, job):
        hub.repositories["models/org/m"] = fake_hub.Repository(COMMIT, {"a.gguf": b"a", "b.gguf": b"b"})
        with pytest.raises(InputError, match=r"several GGUF files \(a.gguf, b.gguf\); set input.subset"):
            get("hf://org/m@main", storage, job)
        assert files(get("hf://org/m@main", storage, job, subset="b.gguf")) == {"b.gguf": b"b"}

    def test_a_gated_repository_needs_a_token(self, hub, storage, job, monkeypatch):
        hub.repositories["models/org/m"] = fake_hub.Repository(COMMIT, MODEL, token="right")
        with pytest.raises(InputError, match=r"is gated\. Accept its terms on the hub\. Set HF_TOKEN"):
            get("hf://org/m@main", storage, job)
        monkeypatch.setenv("HF_TOKEN", "right")
        assert get("hf://org/m@main", storage, job).commit == COMMIT

    def test_no_such_repository(self, hub, storage, job):
        with pytest.raises(InputError, match="hf://org/none@main: no such repository, or no right to read it"):
            get("hf://org/none@main", storage, job)

    def test_no_such_revision(self, hub, storage, job):
        hub.repositories["models/org/m"] = fake_hub.Repository(COMMIT, MODEL)
        with pytest.raises(InputError, match="has no revision 'v9'"):
            get("hf://org/m@v9", storage, job)

    def test_a_hub_out_of_order_may_recover(self, hub, storage, job):
        hub.broken = True
        with pytest.raises(StageError, match="the hub does not answer") as caught:
            get("hf://org/m@main", storage, job)
        assert caught.value.code == 1


def test_a_licence_in_the_job_fills_a_gap_and_a_contradiction_is_said(storage, job):
    write(job / "data/rows.jsonl")
    assert get("data", storage, job, licence="mit").licence == "mit"
    write(job / "data/README.md", b"---\nlicense: cc-by-nc-4.0\n---\n")
    fetched = get("data", storage, job, licence="mit")
    assert fetched.licence == "cc-by-nc-4.0"
    assert fetched.notes == ["data: says its licence is cc-by-nc-4.0, the job says mit"]


def gguf(pairs, tensors=(), version=3):
    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    body = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs))
    for key, kind, payload in pairs:
        body += text(key) + struct.pack("<I", kind) + payload
    for name, shape in tensors:
        body += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape) + bytes(12)
    return body


def packed(value):
    return struct.pack("<Q", len(value)) + value.encode()


class TestGguf:
    PAIRS = (
        ("general.license", 8, packed("apache-2.0")),
        ("tokens", 9, struct.pack("<IQ", 8, 2) + packed("a") + packed("bc")),
        ("scores", 9, struct.pack("<IQ", 6, 3) + bytes(12)),
        ("nested", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 4, 2) + bytes(8)),
        ("eos", 4, struct.pack("<I", 2)),
    )

    def test_the_header_tells_metadata_and_weights(self, tmp_path):
        path = write(tmp_path / "m.gguf", gguf(self.PAIRS, [("a", (4, 5)), ("b", (7,))]))
        header = read_header(path)
        assert header.fields == {"general.license": "apache-2.0", "tokens": 2, "scores": 3, "nested": 1, "eos": 2}
        assert header.parameters == 27

    def test_the_licence_is_taken_from_it(self, storage, job):
        write(job / "m.gguf", gguf(self.PAIRS))
        assert get("m.gguf", storage, job).licence == "apache-2.0"

    @pytest.mark.parametrize("size", [0, 3, 12, 30, 60, 100])
    def test_a_file_cut_off_in_its_header_is_named(self, tmp_path, size):
        path = write(tmp_path / "m.gguf", gguf(self.PAIRS)[:size])
        with pytest.raises(ValueError, match=r"m.gguf: (is no GGUF file|the GGUF header is damaged)"):
            read_header(path)

    def test_a_length_beyond_the_file_is_damage_not_memory(self, tmp_path):
        path = write(tmp_path / "m.gguf", gguf([("x", 8, struct.pack("<Q", 2**60))]))
        with pytest.raises(ValueError, match="damaged or cut off"):
            read_header(path)

    def test_an_old_version_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="GGUF version 1; expected 2 or 3"):
            read_header(write(tmp_path / "m.gguf", gguf([], version=1)))
