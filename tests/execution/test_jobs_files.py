"""The files in jobs/: they parse, their pins are what is tested here, security is on, and they hold no secret."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from tests.support.helpers import until

JOBS = Path(__file__).resolve().parent.parent.parent / "jobs"
CLUSTERS = ("ray-cluster-aws.yaml", "ray-cluster-onprem.yaml")
FILES = sorted(path for path in JOBS.rglob("*") if path.is_file() and path.name != ".env")


def load(name: str) -> Any:
    documents = list(yaml.safe_load_all((JOBS / name).read_text()))
    return documents[0] if len(documents) == 1 else documents


def requirements() -> dict[str, str]:
    lines = [line for line in (JOBS / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    return {re.split(r"[\[=]", line)[0].lower(): line.split("==")[1] for line in lines}


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".yaml"], ids=lambda path: path.name)
def test_yaml_parses(path: Path) -> None:
    assert all(isinstance(document, dict) for document in yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("name", CLUSTERS)
def test_ray_accepts_the_cluster_files(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = load(name)
    validate_config(prepare_config(config))


def test_nodes_have_all_that_is_imported_at_versions_the_project_allows() -> None:
    pinned = requirements()
    for line in tomllib.loads((JOBS.parent / "pyproject.toml").read_text())["project"]["dependencies"]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(pinned[wanted.name.lower()]), line


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(JOBS)))
def test_versions_are_pinned_and_the_same_everywhere(path: Path) -> None:
    text, pinned = path.read_text(), requirements()
    for package in ("ray", "mlflow", "boto3"):
        for version in re.findall(rf"\b{package}(?:\[[a-z,]+\])?==([\w.]+)", text):
            assert version == pinned[package]
    for version in re.findall(r'(?:rayproject/ray:|rayVersion: "|-ray)(\d+\.\d+\.\d+)', text):
        assert version == pinned["ray"]
    for image in re.findall(r"^\s*image: (\S+)", text, re.MULTILINE):
        assert re.search(r":[\w.]*\d+\.\d+|:RELEASE\.", image), f"{image} is not pinned"
    assert ":latest" not in text


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(JOBS)))
def test_no_secret_is_written_down(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|\b[0-9a-f]{32,}\b", text)
    for line in text.splitlines():
        named = r"(?i)(?:password|secret|secret_key|[^p]tokens?\b)\w*"
        for value in re.findall(rf"{named}(?: = |=|: )[\"']?([^\s\"',}}]+)", line):
            # A reference, the name of a Secret, a file, a command that makes one, or an ellipsis.
            assert re.match(r"\$|ray-token|mlflow-login|/|~|\.\.\.|\{|token$|MLFLOW_|required$|spec\b", value), line
    assert not re.search(r"://[^/\s$]+:[^/\s$@]+@", text)


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_node_of_a_cluster_authenticates_and_the_dashboard_is_on_loopback(name: str) -> None:
    config = load(name)
    starts = [line for key in ("head_start_ray_commands", "worker_start_ray_commands") for line in config[key]]
    starting = [line for line in starts if "ray start --" in line]
    assert len(starting) == 2
    for line in starting:
        assert "RAY_AUTH_MODE=token" in line
        assert re.search(r"RAY_AUTH_TOKEN_PATH=\S+/\.ray/auth_token", line)
    assert "--dashboard-host=127.0.0.1" in starting[0]
    assert "--num-cpus=0" in starting[0]
    assert any(re.fullmatch(r"chmod 600 \S+/\.ray/auth_token", line) for line in config["setup_commands"])
    assert "0.0.0.0" not in (JOBS / name).read_text()


def test_kuberay_authenticates_everywhere_and_only_the_head_logs_in_to_mlflow() -> None:
    job, policy, _account = load("kuberay-rayjob.yaml")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "ray-token"}
    heads, workers = [cluster["headGroupSpec"]], cluster["workerGroupSpecs"]
    for group in [*heads, *workers]:
        pod = group["template"]["spec"]
        variables = {entry["name"]: entry for entry in pod["containers"][0]["env"]}
        assert variables["RAY_AUTH_MODE"]["value"] == "token"
        assert variables["RAY_AUTH_TOKEN_PATH"]["value"] == "/etc/ray/auth_token"
        assert pod["volumes"][0]["secret"] == {"secretName": "ray-token", "defaultMode": 0o600}
        assert ("MLFLOW_TRACKING_PASSWORD" in variables) == (group in heads)
        assert all("value" not in entry for name, entry in variables.items() if name.startswith("MLFLOW"))
    assert "MLFLOW" not in job["spec"]["runtimeEnvYAML"]
    assert policy["kind"] == "NetworkPolicy"
    assert policy["spec"]["policyTypes"] == ["Ingress"]


def test_slurm_authenticates_and_binds_to_loopback() -> None:
    subprocess.run(["bash", "-n", str(JOBS / "slurm.sh")], check=True)
    text = (JOBS / "slurm.sh").read_text()
    assert "export RAY_AUTH_MODE=token" in text
    assert 'chmod 600 "$RAY_AUTH_TOKEN_PATH"' in text
    assert text.index("umask 077") < text.index('> "$RAY_AUTH_TOKEN_PATH"')
    assert "--dashboard-host=127.0.0.1" in text
    assert "ray stop" not in text  # it would end other people's Ray on the node


def _fake(folder: Path, **programs: str) -> None:
    """Programs in place of real ones."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)


JOINING = """\
case "$*" in
  stop | health-check*) exit 0 ;;
  *--head*) exec /bin/sleep 60 ;;
esac
echo "$*" >> ~/joined
[ "$(wc -l < ~/joined)" -ge 3 ]"""
"""A `ray` whose node is cut off twice, and then ends in order."""


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_node_of_a_cluster_that_was_cut_off_joins_again(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "ablate-venv" / "bin"
    _fake(folder, ray=JOINING, sleep="exit 0")
    (tmp_path / ".ray").mkdir()
    path = f"{folder}:{os.environ['PATH']}"
    variables = {"HOME": str(tmp_path), "PATH": path, "RAY_HEAD_IP": "10.0.0.1"}
    for line in load(name)["worker_start_ray_commands"]:  # as Ray runs them
        subprocess.run(["bash", "-c", f"true && ({line})"], env=variables, check=True, stderr=subprocess.DEVNULL)
    joined = tmp_path / "joined"
    until(lambda: joined.exists() and len(joined.read_text().splitlines()) == 3, what="the node to join again")
    assert set(joined.read_text().splitlines()) == {"start --block --address=10.0.0.1:6379 --disable-usage-stats"}
    loop = int((tmp_path / ".ray" / "node.pid").read_text())
    until(lambda: not Path(f"/proc/{loop}").exists(), what="the loop's end")  # `ray stop` is not undone


def slurm(tmp_path: Path, *arguments: str, mps: str | None = None, **programs: str) -> subprocess.CompletedProcess[str]:
    """Runs the script on two nodes that are this machine; its launch ends when the second node has joined."""
    waiting = f"until [ -e {tmp_path}/joined ] && [ $(wc -l < {tmp_path}/joined) = 3 ]; do /bin/sleep 0.05; done"
    _fake(
        tmp_path / "venv" / "bin",
        ray=JOINING,
        sleep="exec /bin/sleep 0.05",
        scontrol="printf 'n1\\nn2\\n'",
        srun='while [[ $1 == --* ]]; do shift; done; [ "$1" = hostname ] && exec echo 10.0.0.1; exec "$@"',
        python=f'case "$1" in -c) echo token ;; -) cat > /dev/null ;; *) {waiting} ;; esac',
        **programs,
    )
    variables = {
        **{"HOME": str(tmp_path), "PATH": os.environ["PATH"], "ABLATE_VENV": str(tmp_path / "venv")},
        **{
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NODELIST": "n[1-2]",
            "ABLATE_STORAGE": "/shared",
            "MLFLOW_TRACKING_URI": "x",
            "CUDA_VISIBLE_DEVICES": "2,3",
        },
        **({} if mps is None else {"ABLATE_MPS": mps}),
    }
    command = ["bash", str(JOBS / "slurm.sh"), *arguments]
    return subprocess.run(command, env=variables, cwd=tmp_path, check=True, timeout=120, capture_output=True, text=True)


def test_a_node_of_slurm_that_was_cut_off_joins_again(tmp_path: Path) -> None:
    slurm(tmp_path)
    joined = (tmp_path / "joined").read_text().splitlines()
    assert len(joined) == 3
    port = 20000 + os.getpid() % 20000
    assert all(line.startswith("start --block") and f"--address 10.0.0.1:{port}" in line for line in joined)


MPS = 'echo "$*:${CUDA_VISIBLE_DEVICES-unset}:$CUDA_MPS_PIPE_DIRECTORY $([ "$1" = -d ] || cat)" >> ~/mps'


@pytest.mark.parametrize(
    ("arguments", "mps", "started"),
    [
        (["--gpus-per-trial", "0.25"], None, True),
        (["--gpus-per-trial=.5", "--space", "all"], None, True),
        (["--gpus-per-trial", "0.25"], "no", False),
        (["--gpus-per-trial", "auto"], None, False),
        (["--gpus-per-trial", "auto"], "yes", True),
        (["--gpus-per-trial", "0.5", "--gpus-per-trial", "1"], None, False),  # the last one counts
        (["--cpus-per-trial", "0.5"], None, False),
        ([], None, False),
    ],
)
def test_slurm_starts_mps_where_processes_share_a_gpu(
    tmp_path: Path, arguments: list[str], mps: str | None, started: bool
) -> None:
    slurm(tmp_path, *arguments, mps=mps, **{"nvidia-cuda-mps-control": MPS})
    told = (tmp_path / "mps").read_text().splitlines() if (tmp_path / "mps").exists() else []
    folder = f"/tmp/mps-{os.getpid()}"
    # On both nodes; over before the job is.
    assert sorted(told) == sorted([f"-d:unset:{folder} ", f":2,3:{folder} quit"] * 2 if started else [])
    assert not Path(folder).exists()


def test_slurm_goes_on_without_mps_where_it_is_not_allowed(tmp_path: Path) -> None:
    slurm(tmp_path, "--gpus-per-trial", "0.25", **{"nvidia-cuda-mps-control": "echo no rights >&2; exit 1"})
    assert len((tmp_path / "joined").read_text().splitlines()) == 3
    for node in ("n1", "n2"):
        assert "no MPS on" in (tmp_path / f"ray-{os.getpid()}-{node}.log").read_text()
    assert not Path(f"/tmp/mps-{os.getpid()}").exists()


def test_kuberay_starts_a_node_that_was_cut_off_again() -> None:
    job = load("kuberay-rayjob.yaml")[0]
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["rayStartParams"].get("block", "true") == "true"
        assert group["template"]["spec"].get("restartPolicy", "Always") == "Always"


def test_the_mlflow_server_asks_for_a_login_and_knows_its_names() -> None:
    services = load("mlflow/compose.yaml")["services"]
    command = services["mlflow"]["command"]
    assert "--app-name basic-auth" in command
    assert "mlflow.ablate.svc.cluster.local:5000" in command
    assert "--serve-artifacts" in command
    assert "--artifacts-destination s3://" in command
    assert "MLFLOW_AUTH_ADMIN_PASSWORD" in services["mlflow"]["environment"]
    for name, service in services.items():
        ports = service.get("ports", [])
        assert ports == (["127.0.0.1:5000:5000"] if name == "mlflow" else [])
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|ACCESS_KEY|_URI$|MC_HOST", variable):
                assert "${" in value, f"{name}: {variable}"


def test_the_readme_names_every_file() -> None:
    text = (JOBS / "README.md").read_text()
    for path in FILES:
        if path.parent == JOBS and path.name != "README.md":
            assert path.name in text or path.stem.rsplit("-", 1)[0] in text, path.name


def test_both_ways_to_start_mlflow_name_what_its_login_needs() -> None:
    folder = JOBS / "mlflow"
    for path in (folder / "README.md", folder / "compose.yaml"):
        text = path.read_text()
        for name in ("MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"):
            assert name in text, path
