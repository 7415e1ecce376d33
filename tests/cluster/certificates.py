"""Certificates and keys of a control plane, made by openssl."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

DAYS = "30"


def make(folder: Path, addresses: Sequence[str]) -> None:
    """Write ca.crt, server.crt and server.key for these addresses, and the key of service account tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"IP:{address}" for address in addresses]
    names += ["DNS:localhost", *(f"DNS:kubernetes{rest}" for rest in ("", ".default", ".default.svc"))]
    (folder / "server.ext").write_text(
        f"subjectAltName={','.join(names)}\nbasicConstraints=critical,CA:FALSE\n"
        "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    _key(folder, "ca.key")
    _openssl(
        folder,
        *("req", "-x509", "-new", "-key", "ca.key", "-out", "ca.crt", "-subj", "/CN=cluster-for-tests", "-days", DAYS),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    _key(folder, "server.key")
    _openssl(folder, "req", "-new", "-key", "server.key", "-out", "server.csr", "-subj", "/CN=kube-apiserver")
    _openssl(
        folder,
        *("x509", "-req", "-in", "server.csr", "-out", "server.crt", "-days", DAYS),
        *("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "server.ext"),
    )
    _key(folder, "accounts.key")
    _openssl(folder, "pkey", "-in", "accounts.key", "-pubout", "-out", "accounts.pub")


def _key(folder: Path, name: str) -> None:
    _openssl(folder, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", name)


def _openssl(folder: Path, *arguments: str) -> None:
    ended = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise RuntimeError(f"openssl {arguments[0]}: {ended.stderr}")
