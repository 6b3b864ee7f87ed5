"""What a person gets wrong: exit status 2, one message that names the way out, nothing built."""

import json

import pytest

RECORD = {"url": "http://127.0.0.1/1.jpg", "caption": "a dog"}


def write(folder, name, text):
    (folder / name).write_text(text)
    return str(folder / name)


LISTS = {
    "missing.json": (None, "there is no file"),
    "empty.json": ("", "is empty"),
    "none.json": ("[]", "no record"),
    "object.json": (json.dumps(RECORD), "not a list"),
    "cut.json": (json.dumps([RECORD] * 3)[:-20], "the file ends at byte"),
    "columns.json": (json.dumps([{"link": "x", "text": "y"}]), "Its columns are: link, text"),
    "columns.csv": ("link,text\nx,y\n", "Its columns are: link, text"),
    "list.docx": ("x", "has no known format"),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_wrong_list_is_refused(fresh_home, tmp_path, name):
    text, said = LISTS[name]
    path = write(tmp_path, name, text) if text is not None else str(tmp_path / name)
    out, errors = fresh_home.run("run", "--list", path, status=2)
    assert out == "" and said in errors and "Traceback" not in errors
    assert not (fresh_home.path / "store").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--preset", "nanno"], "Did you mean nano"),
        (["--preset", "mine.py:MINE"], "there is no file"),
        (["--only", "stage9"], "to list all steps  tinygptv plan"),
        (["--from", "stage3/trian"], "Did you mean stage3/train"),
        (["--only", "stage3/train"], "tinygptv train stage2"),
        (["--only", "stage3/train", "--set", "stage1.seed=5"], "tinygptv train stage2 --set stage1.seed=5"),
        (["--set", "stage1.mix={}"], "mix is empty"),
        (["--set", "stages=[]"], "there must be one"),
        (["--set", "stage2.name=stage1"], "no two of one name"),
        (["--set", "scenes=null"], "which no step of this preset makes"),
        (["--set", "stage1.image_size=0"], "at least 1"),
        (["--set", "stage1.schedule.peak=NaN"], "a number"),
        (["--set", "backbones.name=foo"], "There are: nano"),
        (["--preset", f"{__file__}:NONE"], "there is no preset NONE"),
        (["--set", "stage3.schedule.peek=1"], "Did you mean peak"),
        (
            ["--set", "stage3.steps=5"],
            "there is no stage3.steps. Did you mean stage3.schedule.steps? There are: name, ",
        ),
        (["--set", "stage3.schedule.peak"], "NAME=VALUE"),
        (["--set", "stage3.schedule.steps=many"], "a whole number"),
        (["--set", "stage3.schedule.peak=1e-9"], "above the peak"),
        (["--only", "stage1", "--from", "stage1"], "exclude each other"),
        (["--option", "micro_batch"], "NAME=VALUE"),
        (["--option", "microbatch=8"], "Did you mean micro_batch"),
        (["--option", "device=gpu"], "cuda"),
        (["--option", "processes=0"], "at least 1"),
        (["--option", "engine=zero3", "--option", "compile=true"], "do not go together"),
        (["--home", "/proc/nothing"], "--home DIR"),
        (["--home", __file__], "is no folder"),
        (["--home", "/dev/null/x"], "/dev/null is a file"),
        (["--home", ""], "argument --home: it is empty"),
    ],
)
def test_a_wrong_option_is_refused_and_leaves_no_home(fresh_home, arguments, said):
    out, errors = fresh_home.run("run", *arguments, status=2)
    assert out == "" and said in errors and "Traceback" not in errors
    assert not fresh_home.path.exists()


def test_help_teaches(fresh_home):
    out, _ = fresh_home.run("--help")
    assert "examples:" in out and "tinygptv plan --set stage3.schedule.peak=2e-5" in out
