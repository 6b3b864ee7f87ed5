"""What a person mistypes on the command line: one message that names what may have been meant, and status 2."""

import os
import sys
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from flows.cli import main


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["plan", "--prest", "nano"],
            "tinygptv plan: error: unrecognized arguments: --prest nano. Did you mean --preset?",
        ),
        (["run", "--alow-host=a"], "unrecognized arguments: --alow-host=a. Did you mean --allow-host?"),
        (["plan", "extra"], "tinygptv plan: error: unrecognized arguments: extra"),
        (["plna"], "Did you mean plan?"),
        (["run", "--promote", "nver"], "Did you mean never?"),
        (["weights", "import", "backbone"], "Did you mean backbones?"),
        (["run", "--home", ""], "tinygptv run: error: argument --home: it is empty"),
        (["run", "--preset="], "tinygptv run: error: argument --preset: it is empty"),
        (["data", ""], "tinygptv data: error: an argument is empty"),
        (["store", "clean", "--days", "-1"], "argument --days: -1: it must be at least 0"),
        (["store", "clean", "--days=nan"], "argument --days: nan: it must be at least 0"),
        (["store", "clean", "--days", "x"], "argument --days: invalid number of days value: 'x'"),
        (["plan", "--list", ""], "tinygptv plan: error: argument --list: it is empty"),
    ],
)
def test_what_is_mistyped_or_empty_is_refused(capsys, argv, said):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.rstrip("\n").endswith(said)


@pytest.mark.parametrize(
    ("argv", "named"), [([], "rollback"), (["store"], "verify"), (["weights", "import"], "backbones")]
)
def test_who_names_no_command_gets_the_help_that_names_them(capsys, argv, named):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    told = capsys.readouterr().err
    assert ended.value.code == 2 and "show this help" in told and f"\n    {named} " in told


def test_a_setting_may_have_an_empty_value(tmp_path):
    """`--set NAME=` is no empty argument; whether the value is one is said of the setting itself."""
    assert main(["plan", "--home", str(tmp_path), "--set", "stage1.end_symbol="]) == 0


def test_who_reads_only_the_first_line_of_what_is_printed_gets_no_error(tmp_path):
    command = [sys.executable, "-u", "-m", "flows.cli", "plan", "--home", "none"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with Popen(command, stdout=PIPE, stderr=PIPE, cwd=tmp_path, env=environment, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert (process.stderr.read(), process.wait(timeout=60)) == ("", 0)
