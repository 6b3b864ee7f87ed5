"""Numbers that are typed and cannot be: exit status 2, and what they may be; nothing is started or loaded."""

import socket
from importlib.metadata import version

import pytest

from flows.cli import main


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["up", "--port", "99999"], "--port: 99999: it must be in 1..65535"),
        (["up", "--port", "0"], "--port: 0: it must be in 1..65535"),
        (["up", "--mlflow-port", "-1"], "--mlflow-port: -1: it must be in 1..65535"),
        (["up", "--runs", "0"], "--runs: 0: it must be at least 1"),
        (["up", "--trainings", "0"], "--trainings: 0: it must be at least 1"),
        (["up", "--runs", "many"], "invalid whole number value: 'many'"),
        (["demo", "--port", "80000"], "--port: 80000: it must be in 0..65535"),
    ],
)
def test_a_number_that_cannot_be_is_refused(tmp_path, capsys, argv, message):
    with pytest.raises(SystemExit) as ended:
        main([*argv, "--home", str(tmp_path / "home")])
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "home").exists()


def test_a_demo_on_a_port_that_is_taken_is_refused_before_a_model_is_looked_for(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["demo", "--port", str(port), "--home", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert f"--port {port}: the port is taken by process" in told and "name another with --port N" in told


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out.startswith(f"tinygptv {version('tinygptv')}, commit ")
