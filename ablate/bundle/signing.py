"""Signatures of bundles, by the tools that a user has: `ssh-keygen`, or `sigstore`. Nothing is signed by own means."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from ablate.core.errors import SpecError

NAMESPACE = "ablate-bundle"
"""What ssh-keygen's signatures are for: one of another purpose does not count."""

SIGSTORE = "sigstore"
_LIMIT_S = 300


def signature_of(path: Path, *, sigstore: bool = False) -> Path:
    """Where the signature of a bundle lies: beside it."""
    return path.with_name(path.name + (".sigstore.json" if sigstore else ".sig"))


def signer(given: str) -> Callable[[Path], Path]:
    """What signs a bundle.

    Args:
        given: `sigstore`, or the path of a key that ssh-keygen signs with.

    Returns:
        Signs a file; gives the signature's.

    Raises:
        SpecError: The tool or the key is not there.
    """
    if given == SIGSTORE:
        tool = _tool("sigstore", "--sign sigstore", "pip install sigstore")

        def by_sigstore(path: Path) -> Path:
            made = signature_of(path, sigstore=True)
            _run([tool, "sign", "--overwrite", "--bundle", str(made), str(path)], "--sign")
            return made

        return by_sigstore
    key = Path(given).expanduser()
    if not key.is_file():
        raise SpecError(f"--sign: expected sigstore or the file of a key, got {given!r}")
    tool = _tool("ssh-keygen", "--sign", "it comes with OpenSSH")

    def by_key(path: Path) -> Path:
        made = signature_of(path)
        made.unlink(missing_ok=True)  # ssh-keygen asks before it replaces one
        _run([tool, "-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(path)], "--sign")
        return made

    return by_key


def check(path: Path, *, signers: Path | None = None, signer: str | None = None, issuer: str | None = None) -> str:
    """Who signed a bundle.

    Args:
        path: Of the bundle.
        signers: The file of those whom the user trusts, as of ssh-keygen's `allowed_signers`.
        signer: Who has to have signed it.
        issuer: Who vouches for a sigstore identity.

    Raises:
        SpecError: It was to be signed, and is not, or by another.
    """
    if signers is not None or issuer is not None:
        if signer is None:
            raise SpecError("--signer: expected who has to have signed it, got none")
        return _demanded(path, signers, signer, issuer)
    if signer is not None:
        raise SpecError("--signer: expected --signers FILE or --issuer URL beside it, to say whom to trust, got none")
    if signature_of(path, sigstore=True).is_file():
        return "signed by sigstore, not looked at (--signer and --issuer say whom to trust)"
    if not signature_of(path).is_file():
        return "not signed"
    tool = shutil.which("ssh-keygen")
    if tool is None:
        return "signed, not looked at (there is no ssh-keygen here)"
    arguments = [tool, "-Y", "check-novalidate", "-n", NAMESPACE, "-s", str(signature_of(path))]
    done = _started(arguments, path)
    if done.returncode:
        raise SpecError(f"{signature_of(path)}: expected a signature of {path.name}, got one that does not hold")
    key = done.stdout.strip().rpartition(" key ")[2] or "an unknown one"
    return f"signed by the key {key}, whose owner nobody vouches for (--signers says whom to trust)"


def _demanded(path: Path, signers: Path | None, signer: str, issuer: str | None) -> str:
    if signers is None:
        made = signature_of(path, sigstore=True)
        tool = _tool("sigstore", "--issuer", "pip install sigstore")
        _there(made, path)
        arguments = [tool, "verify", "identity", "--bundle", str(made), "--cert-identity", signer]
        _run([*arguments, "--cert-oidc-issuer", str(issuer), str(path)], "--signer")
        return f"signed by {signer}, says sigstore"
    if not signers.is_file():
        raise SpecError(f"--signers: expected a file of ssh-keygen's allowed signers, got no file {str(signers)!r}")
    tool = _tool("ssh-keygen", "--signers", "it comes with OpenSSH")
    _there(signature_of(path), path)
    arguments = [tool, "-Y", "verify", "-f", str(signers), "-I", signer, "-n", NAMESPACE, "-s"]
    done = _started([*arguments, str(signature_of(path))], path)
    if done.returncode:
        raise SpecError(f"{path}: expected a signature of {signer}, got one that {signers.name} does not bear out")
    return f"signed by {signer}"


def _there(made: Path, path: Path) -> None:
    if not made.is_file():
        raise SpecError(f"{path}: expected a signature, got no file {made.name} beside it")


def _tool(name: str, option: str, how: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise SpecError(f"{option}: expected {name} on this machine, got none; {how}")
    return found


def _started(arguments: Sequence[str], path: Path) -> subprocess.CompletedProcess[str]:
    with path.open("rb") as stream:
        return subprocess.run(
            arguments, stdin=stream, capture_output=True, text=True, timeout=_LIMIT_S, errors="replace"
        )


def _run(arguments: Sequence[str], option: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=_LIMIT_S, errors="replace")
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
        raise SpecError(f"{option}: expected {Path(arguments[0]).name} to do it, got: {said[-1]}")
