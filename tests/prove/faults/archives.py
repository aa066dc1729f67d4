"""Buckets that are away, refuse, or cut the connection when the object is already there."""

import time

from faultproxy import FaultProxy, Forward, ProxyRequest, ProxyResponse, Rule, honest, s3_error

from tests.prove.environment import Play, Stage
from tests.prove.fault import Fault

_AWAY = 3.0  # seconds


def _killed(stage: Stage) -> None:
    """Kill the S3 server under load and start it again on its data."""
    assert stage.s3 is not None
    stage.start_and_wait()
    with stage.load():
        stage.moment()
        stage.s3.kill()
        with stage.recovering("kill -9 of the S3 server"):
            time.sleep(stage.dice.uniform(0, _AWAY))
        stage.s3.start()


def _refusing(status: int, code: str) -> Play:
    """Have every request refused for a while."""

    def refuse(_request: ProxyRequest, _forward: Forward) -> ProxyResponse:
        return s3_error(status, code)

    def play(stage: Stage) -> None:
        stage.start_and_wait()
        proxy = _proxy(stage)
        with stage.load():
            stage.moment()
            proxy.rule = refuse
            time.sleep(_AWAY)
            proxy.rule = honest

    return play


def _cut_after_put(stage: Stage) -> None:
    """Cut every fourth put's connection when the object is stored already: its answer is lost."""

    def cut(request: ProxyRequest, forward: Forward) -> ProxyResponse | None:
        answer = forward(request)
        return None if request.method == "PUT" and stage.dice.random() < 0.25 else answer

    rule: Rule = cut
    stage.start_and_wait()
    proxy = _proxy(stage)
    proxy.rule = rule
    with stage.load():
        stage.moment()
    # An asset whose turn comes later meets an honest server, or a round might never end.
    proxy.rule = honest


def _proxy(stage: Stage) -> FaultProxy:
    assert stage.proxy is not None
    return stage.proxy


ARCHIVES = (
    Fault("S3 server killed", _killed, 35, archives=("s3",), s3="mortal"),
    Fault("S3 cut after the put", _cut_after_put, 30, archives=("s3",), s3="proxied"),
    Fault("S3 answers 503", _refusing(503, "SlowDown"), 30, archives=("s3",), s3="proxied"),
    Fault("S3 answers 403", _refusing(403, "AccessDenied"), 30, archives=("s3",), s3="proxied"),
)
