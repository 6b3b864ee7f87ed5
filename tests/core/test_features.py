from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
import torch

from tests.core.test_loader import mixed_spec
from tests.core.test_train import losses_of, quiet, weights_of
from tests.core.tiny_run import STAGE, elsewhere, picture, shape_samples, tiny_spec, tiny_tokenizer, write_dataset
from tinygptv_core.compute import Compute
from tinygptv_core.features import EncodingSettings, Features, encode_pictures, write_features
from tinygptv_core.loader import Steps
from tinygptv_core.model import TinyGPTV
from tinygptv_core.plain import ConfigError
from tinygptv_core.shards import ShardSet
from tinygptv_core.train import train
from tinygptv_core.vision import VisionTower
from tinygptv_core.weights import load_backbones

SETTINGS = EncodingSettings(image_size=8, precision="float32")


def written_features(spec, folder, settings=SETTINGS, names=("shapes",)):
    folder.mkdir()
    data = {name: ShardSet(spec.data[name]) for name in names}
    write_features(spec.backbones, data, settings, Compute(device="cpu", threads=2), folder, quiet)
    return Features(folder)


def test_every_distinct_picture_is_there_once_as_the_tower_sees_it(tmp_path):
    spec = tiny_spec(tmp_path)
    features = written_features(spec, tmp_path / "features", names=("shapes", "words"))
    pictures = sorted({sample["picture"] for sample in shape_samples(23)}, key=lambda data: sha256(data).digest())
    model = TinyGPTV.from_backbones(load_backbones(spec.backbones, torch.float32), None, seed=1)
    torch.testing.assert_close(features.of(pictures), encode_pictures(model, pictures, SETTINGS), rtol=0, atol=1e-6)
    assert features.datasets == {"shapes", "words"}
    digests = np.load(tmp_path / "features" / "pictures.npy")
    assert [row.tobytes() for row in digests] == [sha256(data).digest() for data in pictures]


def test_of_a_stage_in_16_bits_they_are_kept_in_16_bits(tmp_path):
    spec = tiny_spec(tmp_path)
    exact = written_features(spec, tmp_path / "exact").of([picture(3)])
    half = written_features(spec, tmp_path / "half", EncodingSettings(image_size=8, precision="bfloat16")).of(
        [picture(3)]
    )
    assert (exact.dtype, half.dtype) == (torch.float32, torch.float16)
    torch.testing.assert_close(half.float(), exact, rtol=0.05, atol=0.05)


def test_an_unknown_picture_is_named_by_its_digest(tmp_path):
    features = written_features(tiny_spec(tmp_path), tmp_path / "features")
    with pytest.raises(ValueError, match=f"lacks the picture with SHA-256 {sha256(b'other').hexdigest()}"):
        features.of([picture(1), b"other"])


def test_data_sets_without_a_picture_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no picture in words"):
        written_features(tiny_spec(tmp_path), tmp_path / "features", names=("words",))


def test_a_missing_file_is_named(tmp_path):
    written_features(tiny_spec(tmp_path), tmp_path / "features")
    (tmp_path / "features" / "queries.npy").unlink()
    with pytest.raises(ConfigError, match=r"queries\.npy is missing"):
        Features(tmp_path / "features")


def test_training_on_them_ends_at_the_same_weights_without_the_tower(tmp_path, monkeypatch):
    spec = tiny_spec(tmp_path, dropout=0.1)
    train(spec, 0, 1, quiet)
    written_features(spec, tmp_path / "features", names=("shapes", "words"))
    aided = replace(elsewhere(spec, tmp_path / "aided"), features=tmp_path / "features")
    monkeypatch.setattr(VisionTower, "forward", lambda *given: pytest.fail("the tower was asked"))
    train(aided, 0, 1, quiet)
    assert [loss for _, loss in losses_of(aided)] == pytest.approx([loss for _, loss in losses_of(spec)], abs=1e-5)
    for name, value in weights_of(spec).items():
        torch.testing.assert_close(weights_of(aided)[name], value, rtol=0, atol=1e-5)


def test_texts_among_pictures_have_tokens_of_0_and_every_picture_its_own(tmp_path):
    mixed = mixed_spec(tiny_spec(tmp_path), "mixed", tmp_path)
    features = written_features(mixed, tmp_path / "features")
    steps = Steps(replace(mixed, features=tmp_path / "features"), tiny_tokenizer(), rank=0, world_size=1)
    samples = ShardSet(mixed.data["shapes"]).read(steps.order.batch_at(0).positions)
    wanted = [features.of([sample.picture])[0] if sample.picture else torch.zeros(2, 16) for sample in samples]
    assert torch.equal(steps[0].queries_BQE, torch.stack(wanted))
    pictured = [sample.picture is not None for sample in samples]
    assert pictured != sorted(pictured, reverse=True)  # a text stands before a picture


def test_a_data_set_that_they_do_not_cover_goes_through_the_tower(tmp_path):
    spec = tiny_spec(tmp_path)
    others = write_dataset(tmp_path / "others", shape_samples(30)[23:], per_shard=4)
    mix = {**STAGE.mix, "others": STAGE.mix["shapes"]}
    data, prompts = {**spec.data, "others": others}, {**spec.prompts, "others": ("{}",)}
    spec = replace(spec, stage=replace(spec.stage, mix=mix), data=data, prompts=prompts)
    train(spec, 0, 1, quiet)
    written_features(spec, tmp_path / "features")
    aided = replace(elsewhere(spec, tmp_path / "aided"), features=tmp_path / "features")
    train(aided, 0, 1, quiet)
    assert [loss for _, loss in losses_of(aided)] == pytest.approx([loss for _, loss in losses_of(spec)], abs=1e-5)
