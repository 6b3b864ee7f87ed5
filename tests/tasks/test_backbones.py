"""The backbones that come with the package, and the step that made them."""

import json
from dataclasses import replace

import torch

from tasks.backbones import NANO, PRETRAIN, pretrain
from tasks.request import StepFolders
from tests.core.test_pretrain import SETTINGS
from tinygptv_core import presets
from tinygptv_core.artifact import digest_of, members_of
from tinygptv_core.plain import plain
from tinygptv_core.settings import SHIPPED
from tinygptv_core.weights import load_backbones

FOLDER = SHIPPED / "nano"
MOST_BYTES = 8_000_000

TOY = replace(
    NANO,
    sizes=replace(SETTINGS.sizes, vocabulary=NANO.sizes.vocabulary),
    tower=replace(NANO.tower, steps=100, warmup_steps=1, batch=1),
    language=replace(NANO.language, steps=1, warmup_steps=1, batch=1),
)


def test_what_is_shipped_is_what_the_preset_names():
    assert digest_of(members_of(FOLDER)) == presets.NANO.backbones.digest


def test_what_is_shipped_was_made_with_the_settings_in_this_step():
    assert json.loads((FOLDER / "backbones.json").read_text())["pretraining"] == json.loads(json.dumps(plain(NANO)))


def test_what_is_shipped_is_small_and_loads():
    assert sum(member.bytes for member in members_of(FOLDER)) < MOST_BYTES
    backbones = load_backbones(FOLDER, torch.float32)
    assert backbones.qformer(backbones.vision(torch.zeros(1, 3, 64, 64))).shape == (1, 9, 128)
    assert backbones.projection_widths == (128, 256, 128)


def test_the_step_writes_backbones_and_says_how_it_goes(tmp_path):
    folders = StepFolders(out=tmp_path / "out", scratch=tmp_path / "scratch", notes=tmp_path / "notes")
    for folder in (folders.out, folders.scratch, folders.notes):
        folder.mkdir()
    pretrain(TOY, folders)
    assert PRETRAIN.kind == "backbones"
    assert {path.name for path in folders.out.iterdir()} == {"vision", "qformer", "llm", "tokenizer", "backbones.json"}
    assert "tower step 100 of 100: loss" in (folders.notes / "pretrain.log").read_text()
