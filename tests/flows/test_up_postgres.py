"""`tinygptv up` on a real PostgreSQL; skipped where none is installed (Debian, Ubuntu: apt-get install postgresql)."""

import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest
from pg8000.native import Connection

from tests.flows.servers import Servers
from tests.ports import kept_port

PLACES = (shutil.which("initdb"), *Path("/usr/lib/postgresql").glob("*/bin/initdb"))
TOOLS = next((Path(place).resolve() for place in PLACES if place), None)

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(TOOLS is None, reason="there is no PostgreSQL: apt-get install postgresql"),
]


class Postgres:
    """A server of its own in a folder of its own, which root may not run."""

    def __init__(self, folder: Path):
        self.port, self._folder = kept_port(), folder
        self._user = pwd.getpwnam("nobody") if os.getuid() == 0 else None
        if self._user:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        self._run("initdb", "-D", folder / "data", "-U", "tiny", "-A", "trust")
        listen = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {folder}"
        self._run("pg_ctl", "-D", folder / "data", "-o", listen, "-l", folder / "log", "-w", "start")

    def _run(self, tool, *arguments):
        as_whom = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []} if self._user else {}
        command = [TOOLS.with_name(tool), *arguments]
        # Into a file: what pg_ctl starts would hold a pipe open.
        with open(os.devnull, "w") as nowhere:
            subprocess.run(command, check=True, cwd="/", stdout=nowhere, stderr=nowhere, **as_whom)

    def ask(self, database, question):
        with Connection("tiny", host="127.0.0.1", port=self.port, database=database) as connection:
            return connection.run(question)

    def database(self, name):
        self.ask("postgres", f"CREATE DATABASE {name}")
        return f"postgresql://tiny@127.0.0.1:{self.port}/{name}"

    def end(self):
        self._run("pg_ctl", "-D", self._folder / "data", "-m", "immediate", "stop")


@pytest.fixture
def postgres(tmp_path_factory):
    folder = Path(os.path.realpath("/tmp")) / f"tinygptv-test-postgres-{os.getpid()}"  # a socket's path is short
    folder.mkdir()
    server = Postgres(folder)
    try:
        yield server
    finally:
        server.end()
        shutil.rmtree(folder)


def test_both_servers_keep_all_in_postgresql_by_one_setting_each(postgres, tmp_path):
    databases = ["--prefect-database", postgres.database("prefect"), "--mlflow-database", postgres.database("mlflow")]
    up = Servers(tmp_path / "home", *databases)
    try:
        up.wait_until_up()
        built = up.start("backbones", {})[1]
        assert up.wait_until(lambda: up.ended(built))["type"] == "COMPLETED"
    finally:
        up.end()
    assert postgres.ask("prefect", "SELECT count(*) FROM flow_run WHERE state_type = 'COMPLETED'") == [[1]]
    assert postgres.ask("mlflow", "SELECT name FROM experiments") == [["Default"]]
    assert not list((tmp_path / "home").rglob("*.db"))
