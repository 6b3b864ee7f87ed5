import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import replace

import pandas
import pytest
from mlflow.exceptions import MlflowException

from tasks.ask import ask
from tasks.register import ModelSpec, metrics_of, register_version, write_model
from tasks.registering.model_card import DESCRIPTION_CHARACTERS, card_text, description
from tasks.registering.registry import CHECKPOINT_TAG, MODEL_TAG, find, names, registered, versions
from tasks.request import StepFolders
from tests.core.tiny_run import STAGE, picture, write_dataset
from tests.ports import kept_port
from tests.tasks.registered import FACTS, SCORES, new_home
from tinygptv_core import evals
from tinygptv_core.answer import read_card
from tinygptv_core.plain import ConfigError

NO_PROOF = "does not show that it uses the image"
QUIET = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}

FRESH = """
import base64, json, sys
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/tinygptv@challenger")
shown = sys.argv[2]
data = open(shown, "rb").read()
images = [shown, data, base64.b64encode(data).decode()]
answers = [model.predict([{"image": image, "question": "what?"}])["answer"].tolist() for image in images]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return new_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def first(home):
    """The first version, made from checkpoint 1."""
    checkpoint = home.checkpoint(1)
    return register_version(home.model(checkpoint), home.registration(checkpoint, home.uri))


def test_the_model_artifact_has_the_same_digest_in_every_home(home, first, tmp_path):
    other = new_home(tmp_path)
    assert other.model(other.checkpoint(1)).digest == first.tags[MODEL_TAG]


def test_a_version_has_aliases_and_the_digests_of_what_it_came_from(home, first):
    checkpoint = home.checkpoint(1)
    assert (first.version, first.aliases) == ("1", ("challenger", "tiny"))
    assert first.tags[CHECKPOINT_TAG] == first.tags["tinygptv.tiny/train"] == checkpoint.digest
    assert registered(home.uri, "tinygptv", checkpoint.digest) == first
    assert registered(home.uri, "tinygptv", home.model(checkpoint).digest) == first


def test_it_answers_in_a_fresh_process_and_is_no_pickle(home, first, tmp_path):
    (tmp_path / "shown.png").write_bytes(picture(1))
    command = [sys.executable, "-c", FRESH, home.uri, str(tmp_path / "shown.png")]
    out = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=tmp_path, env=QUIET).stdout
    by_path, by_bytes, by_text = json.loads(out.splitlines()[-1])
    assert by_path == by_bytes == by_text
    assert len(by_path) == 1 and isinstance(by_path[0], str)
    assert not list((home.root / "mlflow").rglob("*.pkl"))


def test_its_metrics_and_its_example_are_there(home, first):
    import mlflow

    client = mlflow.MlflowClient(home.uri, home.uri)
    version = client.get_model_version("tinygptv", first.version)
    assert client.get_run(version.run_id).data.metrics == metrics_of(SCORES)
    assert {
        m.key: m.value for m in client.get_logged_model(version.source.removeprefix("models:/")).metrics
    } == metrics_of(SCORES)
    (example,) = (home.root / "mlflow" / "artifacts").rglob("serving_input_example.json")
    (shown,) = json.loads(example.read_text())["inputs"]
    assert (base64.b64decode(shown["image"]), shown["question"]) == (picture(0), "what is 0?")


def test_a_model_whose_only_evaluation_asks_the_same_of_every_picture_shows_that(home, first, tmp_path):
    """A person's question goes around by itself then, for that evaluation has no place for one."""
    told = {"key": "0", "turns": [["assistant", "a red circle"]], "picture": picture(3), "split": "caption"}
    spec = ModelSpec(
        stage=STAGE,
        evaluation="scenes_caption",
        backbones_name="tiny",
        backbones_digest=home.backbones.digest,
        checkpoint=home.checkpoint(1),
        data=write_dataset(tmp_path / "data", [told], per_shard=1),
        facts=FACTS,
    )
    (tmp_path / "model").mkdir()
    write_model(spec, StepFolders(out=tmp_path / "model", scratch=tmp_path, notes=tmp_path))
    asked = evals.load("scenes_caption").prompt
    assert json.loads((tmp_path / "model" / "example.json").read_text()) == {
        "image": base64.b64encode(picture(3)).decode(),
        "question": asked,
    }
    assert read_card(tmp_path / "model").prompt == "{}"


def test_its_card_is_among_its_files_and_its_description(home, first):
    import mlflow

    (card,) = (home.root / "mlflow" / "artifacts").rglob("card.md")
    told = card.read_text()
    assert mlflow.MlflowClient(home.uri, home.uri).get_model_version("tinygptv", "1").description == told
    assert "| scenes_vqa | accuracy | 50.0% | 40.0% to 60.0% | 20.0% | 10.0% to 30.0% | 9 |" in told
    assert "| shapes | tiny | CC0 / MIT | 12,345 | 12,000 | 300 http_404, 45 too_small | nobody |" in told
    assert f"| tiny/train | `{'c' * 64}` |" in told
    assert NO_PROOF not in told  # 40 % is above the 30 % that the control's interval reaches


def test_a_card_says_which_scores_do_not_show_that_the_image_is_used(home, first):
    score = SCORES["scenes_vqa"]["accuracy"]
    scores = {"scenes_vqa": {"accuracy": score | {"low": 0.3}}, "scenes_refer": {"accuracy": score | {"control": None}}}
    model = read_card(home.model(home.checkpoint(1)).path)
    told = card_text(replace(FACTS, scores={"tiny": scores}), STAGE, model)
    assert f"* scenes_vqa: accuracy: {NO_PROOF}" in told and "* There is no control for scenes_refer: accuracy." in told


def test_a_card_that_is_too_long_for_a_description_ends_with_a_whole_line():
    short = description("a line of twenty char\n" * 300)
    assert len(short) <= DESCRIPTION_CHARACTERS
    body, _, end = short.rpartition("\n\n")
    assert set(body.splitlines()) == {"a line of twenty char"} and "card.md" in end
    assert description("short\n") == "short\n"


def test_a_bundle_answers_where_the_backbones_are_gone(tmp_path):
    home = new_home(tmp_path)
    checkpoint = home.checkpoint(1)
    model = home.model(checkpoint)
    small = register_version(model, home.registration(checkpoint, home.uri))
    bundled = register_version(model, replace(home.registration(checkpoint, home.uri), bundle=True))
    assert (small.version, bundled.version) == ("1", "2")
    assert bundled.tags[MODEL_TAG] == small.tags[MODEL_TAG]
    again = register_version(model, replace(home.registration(checkpoint, home.uri), bundle=True))
    assert again.version == "2"
    home.backbones.path.rename(tmp_path / "elsewhere")
    (tmp_path / "shown.png").write_bytes(picture(1))
    assert isinstance(ask("tinygptv/2", tmp_path / "shown.png", "what?", home.uri), str)
    with pytest.raises(ConfigError, match="the backbones tiny .* are missing"):
        ask("tinygptv/1", tmp_path / "shown.png", "what?", home.uri)


def test_the_same_model_is_not_registered_twice(home, first):
    checkpoint = home.checkpoint(1)
    registration = home.registration(checkpoint, home.uri)
    assert register_version(home.model(checkpoint), registration) == first
    more = replace(registration, sources={**registration.sources, "tiny/evaluate": "e" * 64})
    again = register_version(home.model(checkpoint), more)
    assert (again.version, again.tags["tinygptv.tiny/evaluate"]) == ("1", "e" * 64)
    assert len(versions(home.uri, "tinygptv")) == 1


def test_another_model_is_the_challenger(tmp_path):
    home = new_home(tmp_path)
    for seed in (1, 2):
        checkpoint = home.checkpoint(seed)
        register_version(home.model(checkpoint), home.registration(checkpoint, home.uri))
    old, new = versions(home.uri, "tinygptv")
    assert (old.aliases, new.aliases) == ((), ("challenger", "tiny"))
    assert find(home.uri, "models:/tinygptv@challenger") == find(home.uri, "tinygptv/2") == new
    delete_version(home.uri, "2")
    assert registered(home.uri, "tinygptv", home.checkpoint(2).digest) is None
    assert versions(home.uri, "tinygptv") == (old,)


def test_a_version_whose_files_are_gone_is_made_anew(tmp_path):
    home = new_home(tmp_path)
    checkpoint = home.checkpoint(1)
    register_version(home.model(checkpoint), home.registration(checkpoint, home.uri))
    shutil.rmtree(home.root / "mlflow" / "artifacts")
    assert registered(home.uri, "tinygptv", checkpoint.digest) is None
    again = register_version(home.model(checkpoint), home.registration(checkpoint, home.uri))
    assert again.version == "2" and again.has_files


def delete_version(uri, number):
    import mlflow

    mlflow.MlflowClient(uri, uri).delete_model_version("tinygptv", number)


def test_a_registry_that_is_not_there_yet_holds_nothing(tmp_path):
    uri = f"sqlite:///{tmp_path}/none.db"
    assert registered(uri, "tinygptv", "0" * 64) is None
    assert names(uri) == ()
    (tmp_path / "none.db").write_bytes(b"this is not a database, though it is a file")
    with pytest.raises(ConfigError, match="cannot be read: file is not a database"):
        registered(uri, "tinygptv", "0" * 64)
    with pytest.raises(ConfigError, match="must begin with sqlite"):
        registered("postgresql://host/db", "tinygptv", "0" * 64)


def test_looking_into_the_registry_imports_nothing_heavy(home, first):
    code = (
        "import sys; from tasks import ask, evaluate, register; from tasks.registering import registry; "
        f"assert registry.registered({home.uri!r}, 'tinygptv', {first.tags[MODEL_TAG]!r}).version == '1'; "
        "print(sorted({'mlflow', 'torch', 'PIL', 'numpy', 'sqlalchemy'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert out.strip() == "[]"


@pytest.fixture(scope="module")
def served(home, first):
    from mlflow.pyfunc.model import PythonModelContext

    from tasks.registering.served_model import ServedModel

    checkpoint = home.checkpoint(1)
    artifacts = {"model": str(home.model(checkpoint).path)}
    context = PythonModelContext(artifacts=artifacts, model_config={"backbones": str(home.backbones.path)})
    model = ServedModel()
    model.load_context(context)
    return lambda rows: model.predict(context, rows)


def test_a_table_is_answered_row_by_row(served):
    rows = [{"image": picture(number), "question": f"what is {number}?"} for number in range(3)]
    answers = served(pandas.DataFrame(rows))["answer"].tolist()
    assert answers == [served([row])["answer"].item() for row in rows]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("what?", "the input is str; it must be a table or a list of records"),
        ([{"image": b"x"}], "row 0 has no column question; its columns are image"),
        ([{"image": 7, "question": "what?"}], "row 0: image is int; it must be"),
        ([{"image": b"x", "question": "what?"}], "row 0: image: 1 bytes that are no picture"),
        ([{"image": "not there.png", "question": "what?"}], "row 0: image is 'not there.png', neither base64 nor"),
        ([{"image": picture(1)[:45], "question": "what?"}], "row 0: image: 45 bytes that are no picture"),
        ([{"image": picture(1), "question": " "}], "row 0: question is ' '; it must be a text that is not empty"),
    ],
)
def test_wrong_input_is_refused_with_what_was_found(served, rows, message):
    with pytest.raises(MlflowException, match=message) as refused:
        served(rows)
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"


@contextmanager
def mlflow_server(root):
    """An MLflow server on loopback that keeps everything below `root`."""
    port = kept_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{root}/server.db", "--artifacts-destination", str(root / "served")]
    with (root / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=QUIET, cwd=root, stdout=log, stderr=log, start_new_session=True)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def answers_at(uri):
    for _ in range(600):
        try:
            return names(uri)
        except ConfigError:
            time.sleep(0.2)
    raise TimeoutError(uri)


def test_a_server_is_a_registry_too(home, tmp_path):
    checkpoint = home.checkpoint(1)
    model = home.model(checkpoint)
    with mlflow_server(tmp_path) as uri:
        assert answers_at(uri) == ()
        assert registered(uri, "tinygptv", model.digest) is None
        made = register_version(model, home.registration(checkpoint, uri))
        assert (made.version, made.aliases) == ("1", ("challenger", "tiny"))
        assert registered(uri, "tinygptv", checkpoint.digest) == made
        (tmp_path / "shown.png").write_bytes(picture(1))
        said = ask("tinygptv@challenger", tmp_path / "shown.png", "what?", uri)
    assert said == ask(str(model.path), tmp_path / "shown.png", "what?", uri)
    with pytest.raises(ConfigError, match="does not answer as one"):
        registered(uri, "tinygptv", checkpoint.digest)


@contextmanager
def served_over_http(uri, model, log):
    """`mlflow models serve`, once it answers; gives its address."""
    port = kept_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"  # where MLflow looks for uvicorn
    environment = {**QUIET, "MLFLOW_TRACKING_URI": uri, "PATH": path}
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def posted(address, rows):
    body = json.dumps({"inputs": rows}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_a_version_is_served_over_http_and_refuses_what_is_no_picture(home, first, served, tmp_path):
    shown = base64.b64encode(picture(1)).decode()
    with served_over_http(home.uri, "models:/tinygptv/1", tmp_path / "serve.log") as address:
        said = posted(address, [{"image": shown, "question": "what?"}])["predictions"]
        with pytest.raises(urllib.error.HTTPError) as refused:
            posted(address, [{"image": "bm8gcGljdHVyZQ==", "question": "what?"}])
        told = refused.value.read().decode()
        (tmp_path / "shown.png").write_bytes(picture(1))
        with pytest.raises(urllib.error.HTTPError) as unread:
            posted(address, [{"image": str(tmp_path / "shown.png"), "question": "what?"}])
        assert unread.value.code == 400 and "server does not read" in unread.value.read().decode()
    assert said == served([{"image": picture(1), "question": "what?"}]).to_dict("records")
    assert refused.value.code == 400
    assert "row 0: image: " in told and "no picture" in told and "Traceback" not in told
