"""What a version came from, and where a picture went, on a home that was made by hand (`made_store.py`)."""

import json
import random
from dataclasses import dataclass, replace
from hashlib import sha256

import pytest

from flows.cli import main
from tasks.filtering.removals import NO_REMOVALS
from tasks.registering.registry import versions
from tasks.storing.ledgers import urls_behind
from tasks.storing.lineage import GIVEN, LOST, chain, resolved, roots_of
from tasks.storing.records import Records
from tasks.storing.traces import SAME_BYTES, Ledger, RemovalMatcher, Traces, matching
from tasks.tables import LedgerRow, TableWriter
from tasks.weights import made_from
from tests.tasks.made_store import ALT, PICTURES, STAGE, WEB, copied, made_home, url
from tinygptv_core.draws import Order
from tinygptv_core.plain import ConfigError


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return made_home(tmp_path_factory.mktemp("home"))


def links_of(home, model="tinygptv@champion"):
    return chain(Records(home.store), roots_of(resolved(model, home.store, home.uri)))


def traces(home, *urls, **wanted):
    return Traces(Records(home.store), replace(NO_REMOVALS, urls=frozenset(urls), **wanted))


def test_the_chain_goes_from_the_version_to_the_lists(home):
    names = [link.step for link in links_of(home)]
    assert names[0] == "register"
    assert set(home.made) == {name for name in names if "its" not in name}
    for later, earlier in (
        ("register", "stage2/evaluate"),
        ("stage2/evaluate", "stage2/train"),
        ("stage2/train", "stage1/train"),
        ("stage1/train", "web/screen"),
        ("web/screen", "web/fetch"),
        ("web/fetch", "web/filter"),
        ("web/filter", "web/rows"),
        ("web/rows", "web/rows, its source"),
    ):
        assert names.index(later) < names.index(earlier)


def test_a_link_has_digest_counts_config_and_who_made_it(home):
    links = {link.step: link for link in links_of(home)}
    fetch = links["web/fetch"]
    assert fetch.digest == home.made["web/fetch"].digest and fetch.kind == "shards"
    assert fetch.counts == {"rows": 12, "kept": 11, "dropped": {"http_404": 1}}
    assert links["web/screen"].counts == {"rows": 11, "kept": 10, "dropped": {"duplicate": 1}}
    assert fetch.record is not None and (fetch.record.noted["run"], fetch.record.noted["commit"]) == ("r1", "c" * 40)
    stage = links["stage2/train"].record
    assert stage is not None and stage.config["stage"]["mix"] == {"alt": {"batch": 1, "weight": 1}}
    assert links["web/rows, its source"].missing == GIVEN


def test_a_checkpoint_is_named_by_the_beginning_of_its_digest(home):
    digest = home.made["stage1/train"].digest
    names = {link.step for link in links_of(home, digest[:6])}
    assert "stage1/train" in names and not {"stage2/train", "test/fetch"} & names
    with pytest.raises(ConfigError, match="0 of that name"):
        links_of(home, "00000")
    with pytest.raises(ConfigError, match="tinygptv does not say which version of tinygptv is meant"):
        links_of(home, "tinygptv")
    model = home.made["register"].digest
    assert "register" in {link.step for link in links_of(home, model[:8])}
    with pytest.raises(ConfigError, match="no alias best"):
        links_of(home, "tinygptv@best")


def test_a_link_whose_record_is_gone_says_so_and_the_others_are_there(home, tmp_path):
    home = copied(home, tmp_path / "home")
    for step in ("register", "fetch"):
        for path in (home.store.root / "keys" / step).iterdir():
            path.unlink()
    links = {link.step: link for link in links_of(home)}
    assert links["register"].missing == links["web/fetch"].missing == LOST
    assert links["stage1/train"].missing is None
    assert links["web/fetch"].counts["rows"] == 12  # its files are there
    told = {row["url"] for row in urls_behind(tuple(links.values()))}
    assert url("web", 11) in told
    (holding,) = traces(home, url("web", 11)).holding(versions(home.uri, "tinygptv"))
    assert holding.named == {0}


def test_what_filter_and_rows_made_alike_is_told_apart(home, tmp_path):
    """A filter that drops nothing gives the digest of its own input."""
    home = copied(home, tmp_path / "home")
    table = home.made["web/rows"]
    record = Records(home.store).named("web/filter")[0]
    path = home.store.root / "keys" / "filter" / f"{record.key}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "digest": table.digest}))
    records = Records(home.store)
    fetch = records.named("web/fetch")[0]
    (filtered,) = (records.made(table.digest, fetch, "table"),)
    assert filtered is not None and filtered.name == "web/filter"
    rows = records.made(table.digest, filtered, "table")
    assert rows is not None and rows.name == "web/rows"
    (model,) = records.named("register")
    read = {role: records.made(table.digest, model, role) for role in ("rows.web", "table.web")}
    names = {role: record and record.name for role, record in read.items()}
    assert names == {"rows.web": "web/rows", "table.web": "web/filter"}


def test_the_records_of_a_step_are_had_without_reading_the_others(home, tmp_path):
    home = copied(home, tmp_path / "home")
    (home.store.root / "keys" / "filter" / f"{'0' * 64}.json").write_text("no JSON")
    records = Records(home.store)
    assert {record.name for record in records.of_step("train")} == {"stage1/train", "stage2/train"}
    assert records.of_step("nothing") == ()
    with pytest.raises(ConfigError, match="is damaged: it is no record"):
        _ = records.all


def rewrite(home, step, **told):
    """Change what the newest record of that name says."""
    record = Records(home.store).named(step)[0]
    path = home.store.root / "keys" / record.step / f"{record.key}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **told}))


def test_an_export_names_all_steps_that_gave_one_digest_and_what_was_read_before_a_forced_build(home, tmp_path):
    home = copied(home, tmp_path / "home")
    table, stage1 = home.made["web/rows"].digest, home.made["stage1/train"].digest
    rewrite(home, "web/filter", digest=table)  # it dropped nothing
    rewrite(home, "web/fetch", inputs={"table": table})
    rewrite(home, "stage1/train", digest="f" * 64, others=[stage1])
    found = made_from(home.store, home.made["stage2/train"].path, home.made["backbones/import"])
    names = {f"{name}/{step}" for name in ("web", "alt") for step in ("rows", "filter", "fetch", "screen")}
    names |= {"model or checkpoint", "backbones", "backbones/import", "stage1/train", "stage2/train"}
    assert set(found) == names
    assert (found["web/filter"], found["web/rows"], found["stage1/train"]) == (table, table, stage1)
    assert found["model or checkpoint"] == found["stage2/train"] == home.made["stage2/train"].digest


def test_an_export_tells_of_both_builds_of_a_step_and_of_a_checkpoint_without_a_record(home, tmp_path):
    home = copied(home, tmp_path / "home")
    filters = {home.made[f"{name}/filter"].digest for name in ("web", "alt")}
    rewrite(home, "alt/filter", name="web/filter")
    found = made_from(home.store, home.made["stage2/train"].path, home.made["backbones/import"])
    told = {name: digest for name, digest in found.items() if name.startswith("web/filter")}
    assert set(told.values()) == filters and {f"web/filter ({digest[:12]})" for digest in filters} & set(told)
    for path in (home.store.root / "keys").glob("*/*.json"):
        path.unlink()
    found = made_from(home.store, home.made["stage2/train"].path, home.made["backbones/import"])
    assert set(found) == {"model or checkpoint", "backbones"}


def test_every_url_of_the_ledgers_is_behind_the_version(home):
    told = {(row["data"], row["url"]): row["fate"] for row in urls_behind(links_of(home))}
    assert len(told) == len(WEB) + len(ALT) + 1
    assert told["web", url("web", 0)] == told["test", url("test", 0)] == "ok"
    assert (told["web", url("web", 1)], told["web", url("web", 3)]) == ("http_404", "duplicate")


def test_every_url_leads_to_the_version(home):
    told = [row["url"] for row in urls_behind(links_of(home))]
    known = versions(home.uri, "tinygptv")
    for one in random.Random(1).sample(told, len(told)):
        (holding,) = traces(home, one).holding(known)
        assert holding.version == known[0] and 0 in holding.named


def test_a_picture_is_found_with_those_of_the_same_bytes(home):
    found = traces(home, url("web", 2))
    assert [(row.ledger.data, row.url, row.by) for row in found.rows] == [
        (("web",), url("web", 2), "url"),
        (("alt",), url("alt", 0), SAME_BYTES),
    ]
    by_bytes = traces(home, sha256=frozenset({sha256(PICTURES[1]).hexdigest()}))
    assert {row.by for row in by_bytes.rows} == {"sha256"} and len(by_bytes.rows) == 2
    assert len(traces(home, hosts=frozenset({"example"})).rows) == len(WEB) + len(ALT) + 1
    assert traces(home, "http://web.example/99.jpg").rows == ()


@pytest.mark.parametrize(
    ("address", "is_of"),
    [
        ("http://a.example/1.jpg", True),
        ("HTTPS://user@IMAGES.A.Example:8080?x", True),
        (" http://a.example/1.jpg", True),  # urlsplit takes the space off
        ("http:/\t/a.example/1.jpg", True),
        ("http://b.a.example", True),
        ("http://\uff41.example/1.jpg", True),
        ("http://ba.example/1.jpg", False),
        ("http://other.example/a.example", False),
        ("http://[a.example/1.jpg", False),
        ("a.example/1.jpg", False),
        ("", False),
        (None, False),
    ],
)
def test_a_host_is_found_however_the_url_is_written(tmp_path, address, is_of):
    row = LedgerRow(key="k", url=address, fate="ok", detail="", sha256=None, width=None, height=None)
    with TableWriter(tmp_path / "ledger.parquet", LedgerRow) as file:
        for one in (row, replace(row, url="http://else.example/"), row):
            file.write(one)
    ledger = Ledger(path=tmp_path / "ledger.parquet", shards=("a",), data=("web",))
    found = tuple(matching(ledger, RemovalMatcher(replace(NO_REMOVALS, hosts=frozenset({"a.example"})))))
    assert [(item.row, item.by) for item in found] == ([(0, "host"), (2, "host")] if is_of else [])


def test_the_steps_that_drew_it_are_those_of_the_order(home):
    found = traces(home, url("web", 2))
    (read,) = (read for read in found.reads if read.record.name == "stage1/train")
    web = Rows(rows=(0, 2, 4, 5, 6, 7, 8, 9, 10, 11))  # of the ledger: 1 is dead, 3 is a duplicate
    order = Order(STAGE, {"web": web, "alt": Rows(rows=(0, 1, 2))}, {})
    drawn = [step + 1 for step in range(6) if order.dataset_at(step) == "web" and 1 in order.batch_at(step).positions]
    assert (read.rows[0], 0 in read.held_out) == (tuple(drawn), order.is_held_out("web", 1))


@dataclass(frozen=True, kw_only=True)
class Rows:
    rows: tuple[int, ...]


def test_what_was_dropped_is_in_no_mix(home):
    for number, fate in ((1, "http_404"), (3, "ok")):
        found = traces(home, url("web", number))
        assert found.rows[0].fate == fate
        trained = [at for read in found.reads if read.record.step == "train" for at in read.rows]
        assert 0 not in trained
    (fates,) = (fates for fates in traces(home, url("web", 3)).screened.values())
    assert fates == {0: "duplicate", 1: "ok"}  # and the one with the same bytes stays


def test_later_stages_go_on_from_what_saw_it_and_evaluations_ask_about_it(home):
    only_web = traces(home, url("web", 4))
    assert {record.name for record in only_web.checkpoints.values()} == {"stage1/train", "stage2/train"}
    assert {read.record.name for read in only_web.reads if read.record.step == "train"} == {"stage1/train"}
    asked = traces(home, url("test", 0))
    (holding,) = asked.holding(versions(home.uri, "tinygptv"))
    assert asked.checkpoints == {} and (holding.trained, holding.asked) == (frozenset(), {0})


def test_a_run_of_older_code_is_in_the_mix_without_steps(home, tmp_path):
    home = copied(home, tmp_path / "home")
    for path in (home.store.root / "keys" / "train").iterdir():
        path.write_text(json.dumps({**json.loads(path.read_text()), "version": 1}))
    (read,) = (r for r in traces(home, url("web", 4)).reads if r.record.step == "train")
    assert read.rows == {0: None}


def test_the_command_tells_both_ways(home, capsys):
    at_home = ["--home", str(home.root)]
    assert main(["lineage", "models:/tinygptv@champion", *at_home]) == 0
    told = capsys.readouterr().out
    assert told.startswith("tinygptv/1 (challenger, champion)\nmodel:\n")
    assert "rows 12, kept 11; dropped: http_404 1" in told and "asked_vqa accuracy 0.500 (0.400 to 0.600, n 1)" in told
    assert main(["lineage", "tinygptv/1", "--urls", *at_home]) == 0
    assert url("web", 3) in capsys.readouterr().out.splitlines()
    assert main(["lineage", "tinygptv/1", "--json", *at_home]) == 0
    links = json.loads(capsys.readouterr().out)["links"]
    assert {link["step"]: link["digest"] for link in links}["stage1/train"] == home.made["stage1/train"].digest
    assert main(["lineage", "--url", url("web", 4), "--json", *at_home]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [item["version"] for item in found["versions"]] == ["tinygptv/1"] and found["not_found"] == []
    assert found["rerun"]["command"] == f"tinygptv run --removal-list FILE --home {home.root}"


def test_the_run_without_them_is_the_one_that_was_asked_with(home, tmp_path, capsys):
    removals = tmp_path / "gone.txt"
    removals.write_text(url("web", 4))
    chosen = ["--home", str(home.root), "--set", "stage1.schedule.peak=0.5", "--option", "micro_batch=2"]
    assert main(["lineage", "--removal-list", str(removals), *chosen]) == 0
    words = ["tinygptv", "run", "--removal-list", str(removals), *chosen]
    told = capsys.readouterr().out
    assert f"without them, for the preset nano: {' '.join(words)}\n" in told
    # What `nano` reads is drawn; these rows are of another list, which the run was given that fetched them.
    assert "it does not read web, where some of them are; give the options that do as well, of:" in told
    assert "\n    tinygptv run --set a=1\n" in f"{told}\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "lineage of what? Name a model"),
        (["tinygptv/1", "--url", "http://a.example/1.jpg"], "lineage of tinygptv/1, or of images?"),
        (["--url", "picture.jpg"], "--url picture.jpg: a URL begins with http://"),
        (["--removal-list", "none.txt"], "none.txt; a removal list is"),
        (["tinygptv/9"], "the model tinygptv has no version 9"),
    ],
)
def test_a_mistake_is_one_message(home, capsys, options, said):
    assert main(["lineage", *options, "--home", str(home.root)]) == 2
    assert said in capsys.readouterr().err
