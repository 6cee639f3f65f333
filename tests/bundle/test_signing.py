"""Signatures by the user's own ssh-keygen: whose they are, and what a changed bundle says of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.bundle.support import changed, run

needs_ssh = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="there is no ssh-keygen here")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    kind, public, *_ = path.with_suffix(".pub").read_text().split()
    (tmp_path / "signers").write_text(f'ada@example.org namespaces="ablate-bundle" {kind} {public}\n')
    return path


@needs_ssh
def test_a_signed_bundle_says_by_whom(launched: Path, key: Path, tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    given = ("--space", "tiny", "--row", "small", "--storage", launched / "storage")
    assert run("make", path, *given, "--sign", key)[0] == 0
    assert "signed by the key" in run("verify", path)[1]
    trusted = ("--signers", tmp_path / "signers", "--signer")
    code, told = run("verify", path, *trusted, "ada@example.org")
    assert code == 0 and "signed by ada@example.org" in told
    code, told = run("verify", path, *trusted, "eve@example.org")
    assert code == 2 and "expected a signature of eve@example.org" in told

    def edit(files: dict[str, bytes]) -> None:
        files["results/tiny.json"] += b" "

    changed(path, path, edit)  # checksums and all: only the signature can tell
    assert run("verify", path, *trusted, "ada@example.org")[0] == 2
    code, told = run("verify", path)
    assert code == 2 and "got one that does not hold" in told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--signer", "ada"], "expected --signers FILE or --issuer URL"),
        (["--signers", "none"], "--signer: expected who has to have signed it"),
        (["--signers", "none", "--signer", "ada"], "got no file 'none'"),
    ],
)
def test_half_a_question_is_refused(bundle: Path, given: list[str], told: str) -> None:
    code, output = run("verify", bundle, *given)
    assert code == 2 and told in output


@needs_ssh
def test_an_unsigned_bundle_is_nobodys(bundle: Path, key: Path, tmp_path: Path) -> None:
    code, told = run("verify", bundle, "--signers", tmp_path / "signers", "--signer", "ada@example.org")
    assert code == 2 and "expected a signature, got no file bundle.zip.sig" in told


def test_sigstore_is_run_as_it_is_documented(launched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of that name that writes down what it was asked; signing for real needs a browser."""
    asked = tmp_path / "asked"
    program = tmp_path / "bin" / "sigstore"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n[ "$1" = sign ] && echo "{{}}" > "$4"\nexit 0\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    path = tmp_path / "b.zip"
    given = ("--space", "tiny", "--row", "small", "--storage", launched / "storage")
    assert run("make", path, *given, "--sign", "sigstore")[0] == 0
    assert "signed by sigstore, not looked at" in run("verify", path)[1]
    issuer = ("--issuer", "https://accounts.example.org", "--signer", "ada@example.org")
    code, told = run("verify", path, *issuer)
    assert code == 0 and "signed by ada@example.org, says sigstore" in told
    made = f"{path}.sigstore.json"
    assert asked.read_text().splitlines() == [
        f"sign --overwrite --bundle {made} {path}",
        f"verify identity --bundle {made} --cert-identity ada@example.org "
        f"--cert-oidc-issuer https://accounts.example.org {path}",
    ]
