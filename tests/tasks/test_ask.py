import sys

import pytest

from flows.cli import main
from tasks.ask import DecodingOptions, ask, in_store
from tasks.register import register_version
from tests.core.tiny_run import picture
from tests.tasks.registered import new_home
from tinygptv_core.plain import ConfigError


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with one registered model, and a picture."""
    home = new_home(tmp_path_factory.mktemp("home"))
    checkpoint = home.checkpoint(1)
    register_version(home.model(checkpoint), home.registration(checkpoint, home.uri))
    (home.root / "shown.png").write_bytes(picture(1))
    return home


def test_a_model_has_many_names_and_one_answer(home):
    shown = home.root / "shown.png"
    checkpoint = home.checkpoint(1)
    folder = home.model(checkpoint).path
    digest = in_store(home.model(checkpoint).digest[:9], home.store)
    names = ["models:/tinygptv@challenger", "tinygptv@tiny", "tinygptv/1", str(folder), digest]
    assert in_store(checkpoint.digest[:5], home.store) == str(checkpoint.path)
    assert in_store("tinygptv/1", home.store) == "tinygptv/1"
    assert len({ask(name, shown, "what?", home.uri) for name in names}) == 1
    # A checkpoint's questions get no words around them, and its answers are longer.
    worded = "[vqa] Based on the image, respond to this question with a short answer: what?"
    said = ask(str(checkpoint.path), shown, worded, home.uri)
    assert said.startswith(ask(str(folder), shown, "what?", home.uri))


@pytest.mark.parametrize("bits", [8, 4])
def test_a_model_with_few_bits_answers_if_the_library_for_it_is_there(home, monkeypatch, bits):
    shown = home.root / "shown.png"
    assert ask("tinygptv/1", shown, "what?", home.uri, low_resource=bits)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match="8 and 4 bit need the package bitsandbytes"):
        ask("tinygptv/1", shown, "what?", home.uri, low_resource=bits)


def test_an_answer_is_greedy_unless_it_is_asked_for_otherwise(home):
    def asked(**decoding_options):
        return ask(
            "tinygptv/1",
            home.root / "shown.png",
            "what?",
            home.uri,
            decoding_options=DecodingOptions(**decoding_options),
        )

    usual = ask("tinygptv/1", home.root / "shown.png", "what?", home.uri)
    assert usual and asked() == asked(beams=1, repetition_penalty=1.0) == usual
    assert asked(most_tokens=2) == usual[:2]
    assert len(asked(most_tokens=12)) > len(usual)
    assert asked(top_p=1e-6) == usual
    assert asked(repetition_penalty=1e6) != usual
    drawn = [asked(temperature=5.0, seed=seed) for seed in (None, 0, 1, 2)]
    assert drawn[0] == drawn[1] != usual and len(set(drawn)) > 1
    assert asked(beams=3) == asked(beams=3)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--temperature", "0"], "--temperature 0.0: it must be at least 0.01"),
        (["--temperature", "-1"], "it must be at least 0.01"),
        (["--temperature", "nan"], "it must be at least 0.01"),
        (["--top-p", "0"], "--top-p 0.0: it must be above 0 and at most 1"),
        (["--top-p", "1.5"], "it must be above 0 and at most 1"),
        (["--beams", "0"], "at least 1 answer is followed"),
        (["--beams", "3", "--top-p", "0.9"], "--beams 3 looks for the likeliest answer"),
        (["--repetition-penalty", "0"], "it must be above 0; 1 is none"),
        (["--most-tokens", "0"], "an answer has at least 1 token"),
        (["--seed", "3"], "nothing is drawn without --temperature or --top-p"),
    ],
)
def test_a_manner_that_makes_no_sense_is_refused_before_a_model_is_looked_for(capsys, tmp_path, typed, message):
    assert main(["ask", "/no/model", "/no/picture", "what?", *typed, "--home", str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert told.out == "" and message in told.err


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("tinygpt@challenger", r"has no tinygpt\. Did you mean tinygptv\? There are: tinygptv\."),
        ("/no/such/folder", r"is neither a folder nor a registered model"),
        ("tinygptv", r"does not say which version of tinygptv is meant.*tinygptv@challenger.*tinygptv/1"),
        ("tinygptv/2", r"the model tinygptv has no version 2\. There are: .*tinygptv/1\."),
        ("models:/tinygptv@best", r"the model tinygptv has no alias best\. There are: tinygptv@challenger, "),
    ],
)
def test_a_model_that_is_not_there_is_refused_with_those_that_are(home, model, message):
    with pytest.raises(ConfigError, match=message):
        ask(model, home.root / "shown.png", "what?", home.uri)


def test_an_empty_registry_says_what_fills_it(home, tmp_path):
    with pytest.raises(ConfigError, match="It holds no model yet; tinygptv run registers one"):
        ask("tinygptv@challenger", home.root / "shown.png", "what?", f"sqlite:///{tmp_path}/none.db")


def test_a_picture_that_cannot_be_read_is_refused(home, tmp_path):
    broken, text = tmp_path / "broken.png", tmp_path / "text.png"
    broken.write_bytes(picture(1)[:45])
    text.write_text("no picture at all")
    for path, message in [
        (tmp_path / "gone.png", "is missing"),
        (tmp_path, "is a folder, not a picture"),
        (broken, "45 bytes .*: image file is truncated"),
        (text, "that are no picture which can be read: "),
    ]:
        with pytest.raises(ConfigError, match=message):
            ask("tinygptv@challenger", path, "what?", home.uri)


@pytest.mark.parametrize("question", ["", "  "])
def test_an_empty_question_is_refused(home, question):
    with pytest.raises(ConfigError, match="the question is empty"):
        ask("tinygptv@challenger", home.root / "shown.png", question, home.uri)


def test_folders_that_cannot_answer_say_what_they_lack(home, tmp_path):
    shown = home.root / "shown.png"
    with pytest.raises(ConfigError, match=r"holds neither a model nor a checkpoint"):
        ask(str(tmp_path), shown, "what?", home.uri)
    for path in home.checkpoint(1).path.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ConfigError, match=r"is a checkpoint, but no store around it says on which backbones"):
        ask(str(tmp_path), shown, "what?", home.uri)


def test_a_model_whose_backbones_are_gone_says_where_it_looked(home):
    away = home.backbones.path.rename(home.root / "away")
    try:
        with pytest.raises(
            ConfigError, match=rf"the backbones tiny .* are missing(.|\n)*{home.backbones.path}: no such"
        ):
            ask("tinygptv@challenger", home.root / "shown.png", "what?", home.uri)
    finally:
        away.rename(home.backbones.path)
