"""`tinygptv weights`: published files into the store, models out of it, and a run that begins with a checkpoint."""

import json
import os
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flows.choosing.choice import prepare
from flows.cli import main
from flows.train import backbones_step
from tasks import stamps
from tasks.ask import origin_of
from tasks.build import Store
from tests.core import brought
from tests.core.brought import SIZES
from tests.core.tiny_run import picture
from tests.flows.choices import CHOICE
from tinygptv_core.artifact import Artifact, digest_of, members_of, sha256_of_file
from tinygptv_core.checkpoint import form_of, read_form
from tinygptv_core.plain import ConfigError, from_plain, plain, sha256_of
from tinygptv_core.presets import NANO
from tinygptv_core.settings import BackboneSettings, BackboneSources, Source
from tinygptv_core.stage import Stage
from tinygptv_core.tensor_files.weight_files import open_weights

PRESET = """
from dataclasses import replace
from tinygptv_core.plain import from_plain
from tinygptv_core.presets import NANO, BackboneSettings, BackboneSources, Source
from tinygptv_core.sizes import ModelSizes
from tinygptv_core.stage import Lora

UNSET = Source(path=None, pins={{}})
SIZES = from_plain(ModelSizes, {sizes!r})
SOURCES = BackboneSources(vision=UNSET, qformer=UNSET, llm=UNSET, sizes=SIZES, dtype="float32")
STAGES = tuple(
    replace(stage, image_size=8, lora=Lora(rank=3, alpha=6, dropout=0.05) if stage.lora else None)
    for stage in NANO.stages
)
MINE = replace(NANO, name="mine", stages=STAGES, backbones=BackboneSettings(name="mine", digest=None, sources=SOURCES))
"""


class Command:
    """The command in this process, on a home of its own."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self.home, self.capsys = root, root / "home", capsys
        (root / "mine.py").write_text(PRESET.format(sizes=plain(SIZES)))
        self.preset = ("--preset", f"{root / 'mine.py'}:MINE")

    def __call__(self, *arguments: str | Path, status: int = 0) -> str:
        assert main([*map(str, arguments), "--home", str(self.home)]) == status
        told = self.capsys.readouterr()
        return told.err if status else told.out

    def backbones(self, sources, *settings: str, status: int = 0) -> str:
        paths = ("--vision", sources.vision, "--qformer", sources.qformer, "--llm", sources.llm)
        return self("weights", "import", "backbones", *paths, *self.preset, *settings, status=status)

    def checkpoint(self, file: Path, stage: str, *settings: str, status: int = 0) -> str:
        return self("weights", "import", "checkpoint", file, "--stage", stage, *self.preset, *settings, status=status)


@pytest.fixture
def command(tmp_path, capsys, monkeypatch) -> Command:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Command(tmp_path, capsys)


@pytest.fixture
def published(tmp_path):
    (tmp_path / "published").mkdir()
    return brought.all_published(tmp_path / "published")


def digest(told: str, kind: str) -> str:
    found = re.search(rf"^{kind} ([0-9a-f]{{64}})$", told, re.M)
    assert found, told
    return found[1]


def test_importing_prints_the_account_and_the_digest(command, published):
    told = command.backbones(published)
    folder = command.home / "store" / "backbones" / digest(told, "backbones")[:12]
    assert "found     new    left  missing  unexpected" in told and "blocks.2.norm1.weight" in told
    assert f"imported, in {folder}" in told
    assert (folder / "llm" / "model.safetensors").is_file()


def test_what_was_imported_is_there_whatever_the_files_are_called(command, published):
    first = command.backbones(published)
    moved = replace(
        published,
        vision=published.vision.rename(published.vision.with_name("other.pth")),
        llm=published.llm.rename(published.llm.with_name("elsewhere")),
    )
    again = command.backbones(moved)
    assert "there already" in again and digest(again, "backbones") == digest(first, "backbones")


def test_the_step_of_a_run_is_the_same_request(command, published):
    command.backbones(published)
    sets = [f"--set=backbones.sources.{role}.path={getattr(published, role)}" for role in ("vision", "qformer", "llm")]
    planned = json.loads(command("plan", *command.preset, *sets, "--json"))
    assert {item["step"]: item["action"] for item in planned}["backbones/import"] == "reuse"


def test_other_content_is_another_request(command, published):
    command.backbones(published)
    tensors = brought.fused_tensors()
    save_file(tensors | {"lm_head.bias": torch.ones(8)}, published.llm / "model.safetensors")
    assert "imported, in" in command.backbones(published)


def test_a_run_without_the_files_says_how_to_name_them(command):
    for told in (command("run", *command.preset, status=2), command("plan", *command.preset)):
        assert "eva_vit_g.pth" in told and "Traceback" not in told
        for role in ("vision", "qformer", "llm"):
            assert f"--set backbones.sources.{role}.path=PATH" in told


def test_a_pinned_file_must_be_that_file(command, published):
    right = sha256_of_file(published.vision)
    pin = '--set=backbones.sources.vision.pins={"eva_vit_g.pth": "%s"}'
    assert "imported" in command.backbones(published, pin % right)
    told = command.backbones(published, pin % ("0" * 64), status=2)
    assert f"found   {right}" in told and f"wanted  {'0' * 64}" in told


def test_a_checkpoint_that_is_pinned_must_be_that_file(command, tmp_path):
    file = brought.checkpoint(tmp_path / "stage.pth", lora=True)
    right, pin = sha256_of_file(file), '--set=checkpoint_pins={"stage2": {"stage.pth": "%s"}}'
    first = digest(command.checkpoint(file, "stage2"), "checkpoint")
    again = command.checkpoint(file, "stage2", pin % right)
    assert "there already" in again and digest(again, "checkpoint") == first
    told = command.checkpoint(file, "stage2", pin % ("0" * 64), status=2)
    assert f"found   {right}" in told and f"wanted  {'0' * 64}" in told
    assert "imported" in command.checkpoint(file, "stage3", pin % ("0" * 64))  # the pin of another stage
    told = command.checkpoint(file, "stage2", '--set=checkpoint_pins={"stage7": {}}', status=2)
    assert "checkpoint_pins: there is no stage stage7" in told


def test_backbones_that_come_out_otherwise_than_the_preset_says_are_refused(command, published):
    told = command.backbones(published, f"--set=backbones.digest={'0' * 64}", status=2)
    assert "are not those that the preset asks for" in told


@pytest.mark.parametrize("fault", ["hostile", "cut off", "another revision", "not there"])
def test_a_wrong_file_is_one_message(command, published, tmp_path, fault):
    if fault == "hostile":
        published.vision.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "pwned").encode() + b"'\ntR.")
    elif fault == "cut off":
        published.vision.write_bytes(published.vision.read_bytes()[:999])
    elif fault == "another revision":
        brought.save_phi(published.llm, {n: t for n, t in brought.fused_tensors().items() if "lm_head" not in n})
    else:
        published.vision.unlink()
    told = command.backbones(published, status=2)
    said = {"hostile": "could run any code", "another revision": "2 missing: lm_head"}.get(fault, fault)
    assert said.replace("not there", "there is no file") in told and "Traceback" not in told
    assert not (tmp_path / "pwned").exists() and not (command.home / "store" / "backbones").exists()


def test_the_command_that_an_import_of_backbones_ends_with_takes_them_from_the_store(command, published, capsys):
    told = command.backbones(published, "--set=backbones.sources.dtype=float32")
    *_, run = (line for line in told.splitlines() if "train on them: tinygptv run " in line)
    _, _, *typed = shlex.split(run.partition(": ")[2])
    assert main(["plan", "--json", *typed, "--set", "stage1.seed=7"]) == 0
    planned = {item["step"]: item["action"] for item in json.loads(capsys.readouterr().out)}
    assert planned["backbones/import"] == "reuse" and planned["stage1/train"] == "build"


def test_an_import_that_is_refused_leaves_no_home(command, tmp_path):
    assert "there is no file" in command("weights", "import", "model", tmp_path / "none", status=2)
    assert "There are: stage1" in command.checkpoint(tmp_path / "none.pth", "stage9", status=2)
    assert not command.home.exists()


def test_a_file_that_nobody_touched_is_hashed_once(command, published, monkeypatch):
    command.backbones(published)
    hashed = []
    monkeypatch.setattr(stamps, "sha256_of_file", lambda path: hashed.append(path) or sha256_of_file(path))
    command.backbones(published)
    assert hashed == []
    published.vision.touch()
    command.backbones(published)
    assert hashed == [published.vision]


def test_a_file_that_was_changed_behind_its_time_stamp_is_another_request(command, published):
    first, before = command.backbones(published), published.vision.stat()
    tensors = brought.eva_tensors()
    tensors["cls_token"] += 1
    torch.save(tensors, published.vision)
    os.utime(published.vision, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert published.vision.stat().st_size == before.st_size
    second = command.backbones(published)
    assert "imported, in" in second and digest(second, "backbones") != digest(first, "backbones")


def test_a_file_whose_stamp_lies_is_one_message_and_the_next_try_takes_it(command, published):
    """As on a disk that keeps no time of change."""
    sha256, book = sha256_of_file(published.vision), command.home / "store" / "stamps" / "files.json"
    command.backbones(published)
    remembered = json.loads(book.read_text())
    remembered[str(published.vision)][-1] = "0" * 64
    book.write_text(json.dumps(remembered))
    told = command.backbones(published, status=1)
    assert told.startswith(f"tinygptv: {published.vision} was changed since") and "Traceback" not in told
    assert f"found   {sha256}" in told
    assert "there already" in command.backbones(published)


def test_a_checkpoint_is_imported_exported_and_imported_again(command, published, tmp_path):
    file = brought.checkpoint(tmp_path / "stage.pth", lora=True)
    told = command.checkpoint(file, "stage2")
    first = digest(told, "checkpoint")
    assert f"tinygptv run {' '.join(command.preset)} --init stage2={first[:12]}" in told
    command("weights", "export", first[:12], tmp_path / "again.pth", "--to", "published")
    assert digest(command.checkpoint(tmp_path / "again.pth", "stage2"), "checkpoint") == first


def test_a_checkpoint_with_adapters_is_no_stage_1_unless_one_says_so(command, tmp_path):
    file = brought.checkpoint(tmp_path / "stage.pth", lora=True)
    told = command.checkpoint(file, "stage1", status=2)
    assert "a checkpoint of another stage" in told and "--set 'stage1.lora=" in told
    adapters = '--set=stage1.lora={"rank": 3, "alpha": 6, "dropout": 0.05}'
    assert "imported" in command.checkpoint(file, "stage1", adapters)


def test_a_model_goes_out_as_a_folder_and_comes_back_bit_for_bit(command, published, tmp_path):
    backbones = digest(command.backbones(published), "backbones")
    checkpoint = digest(command.checkpoint(brought.checkpoint(tmp_path / "s.pth", lora=True), "stage2"), "checkpoint")
    told = command("weights", "export", checkpoint, tmp_path / "hf", "--to", "hf", status=2)
    assert "no store around it says on which backbones" in told
    command("weights", "export", checkpoint[:12], tmp_path / "hf", "--to", "hf", "--backbones", backbones[:12])
    card = (tmp_path / "hf" / "README.md").read_text()
    assert backbones in card and checkpoint in card
    command.home = tmp_path / "another home"
    told = command("weights", "import", "model", tmp_path / "hf")
    assert (digest(told, "backbones"), digest(told, "checkpoint")) == (backbones, checkpoint)
    assert f"--init stage2={checkpoint[:12]}" in told  # the folder knows its stage
    (tmp_path / "shown.png").write_bytes(picture(1))
    said = command("ask", checkpoint[:12], tmp_path / "shown.png", "what?")
    lies = command.home / "store" / "checkpoint" / checkpoint[:12]
    assert command("ask", lies, tmp_path / "shown.png", "what?") == said
    told = command("eval", checkpoint[:6], "--eval", "scenes_vqa", status=2)
    assert "the data of scenes_vqa are not in" in told  # and so no more is lacking
    evaluated = from_plain(Stage, {**origin_of(lies).stage, "evals": ["scenes_vqa"]})
    assert form_of(evaluated) == read_form(lies) and evaluated.precision == "float32"
    command("weights", "export", checkpoint[:4], tmp_path / "hf again", "--to", "hf")
    assert (tmp_path / "hf again" / "stage.json").read_bytes() == (tmp_path / "hf" / "stage.json").read_bytes()


def test_an_export_is_there_whole_or_not_at_all(command, tmp_path):
    given = digest(command.checkpoint(brought.checkpoint(tmp_path / "s.pth", lora=True), "stage2"), "checkpoint")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for out, to, said in (
        ("empty", "published", "empty is there already; name a file"),
        ("file", "hf", "file is there already; name a folder"),
        ("file/below.pth", "published", "File exists"),
        ("no-suffix", "published", "its name must end in .pth"),
        ("hf", "hf", "tinygptv weights import model FOLDER"),
    ):
        assert said in command("weights", "export", given, tmp_path / out, "--to", to, status=2)
    there = sorted(path.name for path in tmp_path.iterdir())
    assert there == ["empty", "file", "home", "mine.py", "s.pth"]


def test_what_may_not_be_read_is_one_message(command, tmp_path, monkeypatch):
    """As root may read everything, the file's opening is what refuses."""
    file, opened = brought.checkpoint(tmp_path / "s.pth", lora=True), Path.open

    def refusing(path, *arguments, **named):
        if path == file:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", refusing)
    assert f"Permission denied: '{file}'" in command.checkpoint(file, "stage2", status=2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["weights", "export", "aaaaaaaa", "out.pth", "--to", "published"], "checkpoint aaaaaaaa: 0 of that name"),
        (["weights", "export", "aaaaaaaa", ".", "--to", "hf"], "is there already"),
        (["weights", "import", "backbones", "--preset", "nano"], "come with the package"),
        (["weights", "import", "backbones", "--set", "backbones.sources.llm.path"], "it must read NAME=VALUE, as in"),
        (["weights", "import", "checkpoint", "none.pth", "--stage", "stage1"], "there is no file or folder"),
        (["weights", "import", "checkpoint", "none.pth", "--stage", "stage7"], "There are: stage1"),
        (["plan", "--init", "stage2"], "it must read STAGE=DIGEST"),
        (["plan", "--init", "stage2=aaaaaaaa"], "checkpoint aaaaaaaa: 0 of that name"),
        (["plan", "--init", "stage9=aaaaaaaa"], "There are: stage1"),
    ],
)
def test_a_persons_mistake_is_one_message(command, arguments, said):
    assert said in command(*arguments, status=2)


def test_a_run_begins_with_the_checkpoint_that_it_is_given(command, tmp_path):
    """Nothing before it is trained; it is evaluated, and the next stage starts from it."""
    arguments = ("weights", "import", "checkpoint", brought.checkpoint(tmp_path / "s.pth", lora=True), "--stage")
    given = digest(command(*arguments, "stage2", *command.preset), "checkpoint")
    choice = replace(CHOICE, preset=command.preset[1], home=command.home, init=f"stage2={given[:12]}")
    walked = {request.name: request for request in prepare(choice, writes=False).selection.walked}
    assert not {"stage1/train", "stage1/evaluate", "stage2/train"} & walked.keys()
    for step, name in {
        "stage3/train": "init",
        "stage2/evaluate": "checkpoint",
        "register": "checkpoint.stage2",
    }.items():
        taken = walked[step].inputs[name]
        assert isinstance(taken, Artifact) and taken.digest == given
    assert walked["stage4/train"].inputs["init"] == "stage3/train"


def test_a_checkpoint_that_does_not_fit_is_refused_by_the_plan(command, tmp_path):
    """That of another stage, and one whose adapters are not those of the next stage: nano's have rank 32."""
    given = digest(command.checkpoint(brought.checkpoint(tmp_path / "s.pth", lora=True), "stage2"), "checkpoint")[:12]
    told = command("plan", *command.preset, "--init", f"stage3={given}", status=2)
    assert f"is a checkpoint of stage2, not of stage3.\n  to begin with it  --init stage2={given}" in told
    told = command("plan", "--init", f"stage2={given}", status=2)
    assert "the given checkpoint of stage2 has adapters of rank 3, but stage3" in told


def test_a_damaged_checkpoint_is_not_begun_with(command, tmp_path):
    given = digest(command.checkpoint(brought.checkpoint(tmp_path / "s.pth", lora=True), "stage2"), "checkpoint")
    path = command.home / "store" / "checkpoint" / given[:12] / "stage.json"
    path.chmod(0o644)
    path.write_text("{}")
    with pytest.raises(ConfigError, match="is damaged: stage.json has 2 bytes"):
        Store(command.home / "store").sealed.find("checkpoint", given[:12])


def test_the_request_for_shipped_backbones_is_the_one_that_it_always_was(tmp_path):
    request = backbones_step(NANO.backbones, Store(tmp_path))
    config = {"name": "nano", "digest": NANO.backbones.digest}
    asked = {"step": "import", "version": 1, "config": config, "inputs": {}}
    assert Store(tmp_path).key(request, {}) == sha256_of(asked)


def test_the_artifact_does_not_depend_on_where_the_files_lie(published, tmp_path):
    sources = BackboneSources(
        vision=Source(path=str(published.vision), pins={}),
        qformer=Source(path=str(published.qformer), pins={}),
        llm=Source(path=str(published.llm), pins={}),
        sizes=SIZES,
        dtype="float16",
    )
    request = backbones_step(BackboneSettings(name="mine", digest=None, sources=sources), Store(tmp_path / "store"))
    inputs = {name: item for name, item in request.inputs.items() if isinstance(item, Artifact)}
    assert set(inputs) == {"vision", "qformer", "llm/config.json", "llm/tokenizer.json", "llm/model.safetensors"}
    noted = {"run": "r", "time": 1.0}
    built = Store(tmp_path / "store").build(request, inputs, {}, noted=noted, force=False, waiting=lambda text: None)
    members = [member for member in members_of(built.artifact.path) if member.path != "manifest.json"]
    assert digest_of(tuple(members)) == built.artifact.digest
    assert "/" + tmp_path.name not in (built.artifact.path / "backbones.json").read_text()
    stored = open_weights(built.artifact.path / "llm" / "model.safetensors")
    assert stored["lm_head.weight"].dtype == torch.float16
