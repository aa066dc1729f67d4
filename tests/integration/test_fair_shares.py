"""Fair shares of the download threads, in virtual time: under every attack the others wait seconds.

Claims and ledger are real; downloads are simulated, a second at a time, from what each host sends.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import pytest
from ledgers import LedgerHarness
from simulated_downloads import FAST, MB, NO_END, SLOW, Simulation, Source
from sqlalchemy import Connection

from receiver.archive.shares import TURNS
from receiver.ledger.claims import Claimed
from receiver.ledger.fair_claims import Avoided, FairClaims, netloc
from receiver.ledger.rows import Asset

ATTACKS: dict[str, Callable[[Simulation], None]] = {
    "one job": lambda it: it.attack(),
    "small files": lambda it: it.attack(replace(SLOW, size=30_000)),
    "huge files": lambda it: it.attack(replace(SLOW, size=100 * MB)),
    "no size": lambda it: it.attack(replace(SLOW, announces=False)),
    "a slow first byte": lambda it: it.attack(replace(SLOW, first_byte=1000.0)),
    "many jobs from one host": lambda it: it.attack(jobs=30, results=2),
    "many jobs from many hosts": lambda it: it.attack(jobs=20, hosts=20),
    "a job with too many results": lambda it: it.attack(results=200),
    "one job at the usual host": lambda it: it.attack_from_the_usual_host(1),
    "many jobs at the usual host": lambda it: it.attack_from_the_usual_host(20, 8),
    "all but the end": lambda it: it.attack(NO_END, results=64),
    "all but the end, from many hosts for many jobs": lambda it: it.attack(
        NO_END, jobs=20, hosts=20
    ),
    "always at the end": lambda it: it.attack(
        Source(speed=1, size=100 * MB, decay=0.25), results=64
    ),
    "not so slow": lambda it: it.attack(replace(SLOW, speed=20_000.0, size=5 * MB)),
}


# With the usual number of threads by default; with one, and with four, where it may matter.
USUAL = 16
OTHERS = ["one job", "many jobs at the usual host", "all but the end"]


@pytest.mark.parametrize(
    ("attack", "threads"),
    [
        pytest.param(
            *pair, marks=() if pair[1] == USUAL or pair[0] in OTHERS else pytest.mark.thorough
        )
        for pair in product(ATTACKS, [1, 4, USUAL])
    ],
)
def test_while_an_attack_holds_the_threads_the_others_wait_seconds(
    ledger: LedgerHarness, attack: str, threads: int, pytestconfig: pytest.Config
) -> None:
    simulation = Simulation(ledger, threads)
    ATTACKS[attack](simulation)
    simulation.run(30)
    honest = [simulation.report(f"https://files.test/{number}.png") for number in range(3)]
    begun = simulation.now
    # One thread has to try each of the slow hosts before it knows them.
    limit = 120 if threads == 1 and "many" in attack else 60 if "usual" in attack else 30
    simulation.run_until(lambda: simulation.ended.keys() >= {*honest}, within=limit)
    waits = [simulation.ended.get(ref, 10_000.0) - begun for ref in honest]
    assert max(waits) <= limit, f"{waits}"
    if pytestconfig.getoption("thorough"):  # more attempts of the attacker's files
        simulation.run(int(begun + limit - simulation.now))
    later = simulation.report("https://files.test/later.png")
    begun = simulation.now
    simulation.run_until(lambda: later in simulation.ended, within=40)
    assert simulation.ended.get(later, 10_000.0) - begun <= 30


def test_a_redirect_to_the_slow_host_hides_nothing(ledger: LedgerHarness) -> None:
    simulation = Simulation(ledger, 16)
    simulation.sources["slow0.test"] = SLOW
    for number in range(16):
        simulation.sources[f"redirect{number}.test"] = Source(redirects_to="slow0.test")
        simulation.report(*(f"https://redirect{number}.test/{index}.png" for index in range(4)))
    simulation.run(20)
    honest, begun = simulation.report("https://files.test/1.png"), simulation.now
    simulation.run(20)
    assert simulation.ended[honest] - begun <= 10


@pytest.mark.parametrize("threads", [1, 4, 16])
def test_who_is_alone_has_all_threads_and_a_quarter_when_others_come(
    ledger: LedgerHarness, threads: int
) -> None:
    simulation = Simulation(ledger, threads)
    simulation.attack()
    simulation.run(20)
    (attacker,) = simulation.busy
    assert simulation.held(attacker) == threads
    assert simulation.shares.interrupted == 0
    quarter = max(1, threads // 4)
    simulation.sources["files.test"] = Source(size=2 * MB)
    others = [
        simulation.report(*(f"https://files.test/{job}/{index}.png" for index in range(8)))
        for job in range(2 * threads)
    ]
    simulation.run(15)
    assert len(simulation.shares._running) == threads, "no thread is idle"
    assert simulation.held(attacker) <= quarter
    simulation.run_until(lambda: all(ref in simulation.ended for ref in others), within=150)
    assert all(ref in simulation.ended for ref in others)
    # Its interrupted files wait for their next attempts, a minute at most. If all that is left are
    # such files, the quarter for first attempts stays free.
    most = threads - threads // 4
    simulation.run_until(lambda: simulation.held(attacker) >= most, within=90)
    assert simulation.held(attacker) >= most, "alone again"


@pytest.mark.parametrize("threads", [4, 16])
def test_beside_one_host_for_all_jobs_others_are_looked_for_once_a_second(
    ledger: LedgerHarness, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    asked: list[Avoided] = []
    claim = FairClaims._claim

    def counted(it: FairClaims, at: Connection, limit: int, below: int, whom: Avoided) -> Any:
        if whom.hosts and limit > 0:
            asked.append(whom)
        return claim(it, at, limit, below, whom)

    monkeypatch.setattr(FairClaims, "_claim", counted)
    simulation = Simulation(ledger, threads)
    for job in range(90):
        simulation.report(*(f"https://files.test/{job}/{index}.png" for index in range(4)))
    simulation._start()
    asked.clear()
    for _ in range(30):
        key, one = next(iter(simulation.shares._running.items()))
        simulation._end(key, one)
        simulation._start()
    assert len(simulation.shares._running) == threads
    # Few and many attempts are two questions, and so are a host's share and twice its share.
    assert len(asked) <= 4, "every question reads all due assets"
    other = simulation.report("https://other.test/1.png", lives=9000.0)
    simulation.run(4)
    assert other in simulation.ended


def test_a_look_for_others_that_took_long_is_not_repeated_soon(
    ledger: LedgerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, looks = FairClaims.claim, list[float]()

    def slow(it: FairClaims, limit: int, **how: Any) -> list[Claimed[Asset]]:
        if any(one.hosts for one in how["avoided"]):
            simulation.now += 0.5  # 20 times as long is 10 s
            looks.append(simulation.now)
        return claim(it, limit, **how)

    monkeypatch.setattr(FairClaims, "claim", slow)
    simulation = Simulation(ledger, 16)
    for job in range(90):
        simulation.report(*(f"https://files.test/{job}/{index}.png" for index in range(4)))
    simulation.run(25)
    assert len(looks) > 1
    assert all(later - look >= 10 for look, later in pairwise(looks))


def test_a_count_of_those_who_wait_that_took_long_is_not_repeated_soon(
    ledger: LedgerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_due, counts = FairClaims.count_due, list[float]()

    def slow(it: FairClaims, *which: Any) -> int:
        simulation.now += 0.5
        counts.append(simulation.now)
        return count_due(it, *which)

    monkeypatch.setattr(FairClaims, "count_due", slow)
    simulation = Simulation(ledger, 16)
    simulation.attack()
    simulation.run(60)
    times = [later for earlier, later in pairwise([-10.0, *counts]) if later - earlier > 1]
    assert len(times) > 1
    assert all(later - earlier >= 10 for earlier, later in pairwise(times)), counts


@pytest.mark.parametrize("speed", [FAST, 1300.0])
def test_others_wait_seconds_also_where_each_look_for_them_takes_long(
    ledger: LedgerHarness, monkeypatch: pytest.MonkeyPatch, speed: float
) -> None:
    claim, count_due = FairClaims.claim, FairClaims.count_due

    def slow_claim(it: FairClaims, limit: int, **how: Any) -> list[Claimed[Asset]]:
        simulation.now += 0.8 * any(one.hosts for one in how["avoided"])
        return claim(it, limit, **how)

    def slow_count(it: FairClaims, *which: Any) -> int:
        simulation.now += 0.8
        return count_due(it, *which)

    monkeypatch.setattr(FairClaims, "claim", slow_claim)
    monkeypatch.setattr(FairClaims, "count_due", slow_count)
    simulation = Simulation(ledger, 4)
    simulation.attack(Source(speed=speed), jobs=60, results=8)
    reported: dict[str, float] = {}
    for _ in range(8):
        simulation.run(4)
        reported[simulation.report("https://other.test/1.png", lives=9000.0)] = simulation.now
    simulation.run(25)
    waited = [simulation.ended.get(ref, 999.0) - since for ref, since in reported.items()]
    assert max(waited) < 20, waited


@pytest.mark.parametrize("speed", [FAST, 50_000.0])
def test_one_host_for_all_jobs_is_never_interrupted(ledger: LedgerHarness, speed: float) -> None:
    simulation = Simulation(ledger, 16)
    simulation.sources["files.test"] = Source(speed=speed, size=2 * MB)
    for job in range(90):
        simulation.report(*(f"https://files.test/{job}/{index}.png" for index in range(4)))
    simulation.run(30)
    assert len(simulation.shares._running) == 16
    assert simulation.shares.interrupted == 0


def test_a_slow_line_of_our_own_interrupts_no_download_while_threads_become_free(
    ledger: LedgerHarness,
) -> None:
    """All downloads are alike, from many hosts, and none is an outlier."""
    simulation = Simulation(ledger, 16)
    for job in range(60):
        simulation.sources[f"cdn{job % 20}.test"] = Source(
            speed=40_000.0, size=300_000 * (1 + job % 5)
        )
        simulation.report(f"https://cdn{job % 20}.test/{job}.png")
    simulation.run(200)
    assert simulation.shares.interrupted == 0
    assert len(simulation.ended) == 60


def test_a_slow_honest_file_is_archived_in_the_end(ledger: LedgerHarness) -> None:
    simulation = Simulation(ledger, 4)
    simulation.sources["slow.test"] = Source(speed=100_000.0, size=5 * MB)
    honest = simulation.report("https://slow.test/1.png")
    ledger.clock.advance(0.1)  # of equal deadlines those with fewer attempts come first
    for job in range(400):
        simulation.sources[f"files{job % 9}.test"] = Source(size=3 * MB)
        simulation.report(f"https://files{job % 9}.test/{job}.png")
    simulation.run_until(lambda: honest in simulation.ended, within=300)
    assert honest in simulation.ended
    assert len(simulation.ended) < 400, "while there was a backlog"


# Which asset is claimed.


def test_little_time_left_goes_before_several_attempts(ledger: LedgerHarness) -> None:
    simulation = Simulation(ledger, 1)
    tried = simulation.report("https://files.test/tried.png", lives=100.0)
    ledger.execute("UPDATE assets SET attempts = 5")
    fresh = simulation.report("https://files.test/fresh.png", lives=300.0)
    later = simulation.report("https://files.test/later.png", lives=900.0)
    order = [simulation.shares.claim(1)[0].row.ref for _ in range(3)]
    assert order == [fresh, later, tried]


def test_a_quarter_of_the_threads_is_for_first_attempts(ledger: LedgerHarness) -> None:
    simulation = Simulation(ledger, 16)
    for job in range(20):
        simulation.report(f"https://host{job}.test/1.png")
    ledger.execute("UPDATE assets SET attempts = 1")
    assert len(simulation.shares.claim(16)) == 12
    fresh = simulation.report("https://files.test/1.png", "https://files.test/2.png")
    assert [one.row.ref for one in simulation.shares.claim(16 - 12)] == [fresh, fresh]


def test_later_attempts_have_their_turn(ledger: LedgerHarness) -> None:
    simulation = Simulation(ledger, 4)
    tried = simulation.report("https://files.test/tried.png", lives=100.0)
    ledger.execute("UPDATE assets SET attempts = 5")
    for job in range(20):
        simulation.report(f"https://host{job}.test/1.png")
    refs = [simulation.shares.claim(1)[0].row.ref for _ in range(TURNS)]
    assert refs[-1] == tried


@pytest.mark.both_databases
@pytest.mark.parametrize(
    "url",
    [
        "https://Files.test/1.png",
        "https://files.test?x=/1",
        "https://files.test:443/1.png",
        "https://files.test#x/",
        "https://files.test",
        "https://[2001:db8::1]:8/x//y",
        "data:0123",
        "",
    ],
)
def test_the_host_of_a_url_is_the_same_in_python_and_in_the_database(
    ledger: LedgerHarness, url: str
) -> None:
    simulation = Simulation(ledger, 16)
    simulation.report("https://files.test/1.png")
    ledger.execute("UPDATE assets SET url = :url", url=url)
    claims = FairClaims(ledger.database, ledger.clock)
    avoided = Avoided(hosts=frozenset({netloc(url)}))
    assert claims.count_due(avoided, 10) == 0
    assert claims.count_due(Avoided(hosts=frozenset({"other.test"})), 10) == 1
    assert claims.claim(1, retries=1, avoided=[avoided])[0].row.url == url, "there is no other"
