from benchmarks.orchestration import Ran, row, verdicts

BUILT = Ran(waiting=2.0, starting=6.0, ours=110.0, ending=2.0, work=90.0, report=10.0)
REUSED = [
    Ran(waiting=waiting, starting=6.0, ours=ours, ending=0.5, work=0.0, report=1.0)
    for waiting, ours in ((1, 3), (9, 4))
]


def test_what_is_neither_work_nor_report_is_counted_wherever_it_was():
    """120 seconds, of which 90 were work and 10 report: 8 before our flow, 10 in it, 2 after it."""
    assert (BUILT.seconds, BUILT.share) == (120.0, 0.2)
    assert row("builds", BUILT) == "| builds | 120.0 | 2.0 | 6.0 | 110.0 | 90.0 | 10.0 | 2.0 |"


def test_medians_are_held_against_what_is_wanted():
    """Runs of 10.5 and 19.5 seconds have a median of exactly 15."""
    assert list(verdicts(BUILT, REUSED)) == [
        "a run that finds all built: 15.0 s, wanted 15 s at most: yes",
        "of it our flow: 3.5 s, wanted 5 s at most: yes",
        "the run that builds: 20.0 s beside 90.0 of its steps' work and 10.0 of report, 20.0%; "
        "of a whole nano 5% are wanted: NO",
    ]
    assert "wanted 15 s at most: NO" in next(verdicts(BUILT, REUSED[1:]))
