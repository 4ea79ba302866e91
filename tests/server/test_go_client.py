"""The client in Go, made from the .proto files alone: built by Go's own tools, run with TLS and a token and without."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from server.access import tokens
from server.access.roles import Role
from tests.server.certificates import Authority
from tests.server.running import running

ROOT = Path(__file__).parents[2]
UNREACHABLE = (
    "dial tcp",
    "proxyconnect",
    "connection refused",
    "no such host",
    "toolchain not available",
    "requires go",
)


@pytest.fixture(scope="module")
def go_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built client."""
    if shutil.which("go") is None:
        pytest.skip("Go is not installed")
    folder = Path(shutil.copytree(ROOT / "examples" / "go", tmp_path_factory.mktemp("go") / "client"))
    told = {
        "PROTOS": str(ROOT / "proto"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # its grpcio-tools has a protoc
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=readonly",
    }
    built = subprocess.run(
        ["bash", "build.sh"],
        cwd=folder,
        env=os.environ | told,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    if built.returncode and any(each in built.stderr for each in UNREACHABLE):
        pytest.skip(f"Go's modules can't be had here: {built.stderr.splitlines()[-1]}")
    assert built.returncode == 0, built.stderr
    return folder / "bin" / "kgrank-client"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_go_client_recommends_searches_and_writes_over_tls_with_a_token(
    go_client: Path, home: Path, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    issued = authority.issue("server")
    _, token = tokens.create(home / "tokens.json", "go", [Role.READ, Role.WRITE_EVENTS])
    _, reader = tokens.create(home / "tokens.json", "go-reader", [Role.READ])
    access = {"required": True, "tokens_file": home / "tokens.json"}
    tls = {"certificate_file": issued.certificate, "key_file": issued.key}
    with running(home, tls=tls, access=access) as server:

        def run(token: str, ca: Path) -> "subprocess.CompletedProcess[str]":
            target = server.target.replace("127.0.0.1", "localhost")
            command = [str(go_client), "-target", target, "-ca", str(ca), "-user", "user-01", "-query", "thing"]
            return subprocess.run(
                command,
                env=os.environ | {"KGRANK_TOKEN": token},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

        done = run(token, authority.certificate)
        assert done.returncode == 0, done.stderr
        assert "recommended for user-01 (USER_STATE_WARM" in done.stdout
        assert 'found for "thing"' in done.stdout
        assert "event STATUS_WRITTEN" in done.stdout
        assert "PermissionDenied" in run(reader, authority.certificate).stderr
        assert "Unauthenticated" in run("kgr_x_y", authority.certificate).stderr
        assert "certificate" in run(token, Authority(tmp_path, "other").certificate).stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_go_client_asks_a_server_of_its_own_machine_in_the_clear_and_no_other(go_client: Path, home: Path) -> None:
    def run(target: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(go_client), "-plaintext", "-target", target, "-user", "user-01", "-query", "thing"],
            env=os.environ | {"KGRANK_TOKEN": "kgr_x_y"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    with running(home) as server:
        done = run(server.target)
        assert done.returncode == 0, done.stderr
        assert "recommended for user-01 (USER_STATE_WARM" in done.stdout
        assert "event STATUS_WRITTEN" in done.stdout
        elsewhere = run(server.target.replace("127.0.0.1", "192.0.2.1"))
        assert (elsewhere.returncode, elsewhere.stdout) == (1, "")
        assert "is for a server on this machine" in elsewhere.stderr
