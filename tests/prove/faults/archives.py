"""Buckets that are unavailable, refuse, or cut the connection after they stored the object."""

import time

from faultproxy import FaultProxy, Forward, ProxyRequest, ProxyResponse, Rule, honest, s3_error

from tests.prove.environment import Environment, Play
from tests.prove.fault import Fault

_AWAY = 3.0  # seconds


def _killed(env: Environment) -> None:
    """Kill the S3 server under load and start it again on its data."""
    assert env.s3 is not None
    env.start_and_wait()
    with env.load():
        env.moment()
        env.s3.kill()
        with env.recovering("kill -9 of the S3 server"):
            time.sleep(env.random.uniform(0, _AWAY))
        env.s3.start()


def _refusing(status: int, code: str) -> Play:
    """Refuse every request for a while."""

    def refuse(_request: ProxyRequest, _forward: Forward) -> ProxyResponse:
        return s3_error(status, code)

    def play(env: Environment) -> None:
        env.start_and_wait()
        proxy = _proxy(env)
        with env.load():
            env.moment()
            proxy.rule = refuse
            time.sleep(_AWAY)
            proxy.rule = honest

    return play


def _cut_after_put(env: Environment) -> None:
    """Cut every fourth put's connection after the object is stored: the answer is lost."""

    def cut(request: ProxyRequest, forward: Forward) -> ProxyResponse | None:
        answer = forward(request)
        return None if request.method == "PUT" and env.random.random() < 0.25 else answer

    rule: Rule = cut
    env.start_and_wait()
    proxy = _proxy(env)
    proxy.rule = rule
    with env.load():
        env.moment()
    # Later assets meet a server without faults, or a round might never end.
    proxy.rule = honest


def _proxy(env: Environment) -> FaultProxy:
    assert env.proxy is not None
    return env.proxy


ARCHIVES = (
    Fault("S3 server killed", _killed, 35, archives=("s3",), s3="killable"),
    Fault("S3 cut after the put", _cut_after_put, 30, archives=("s3",), s3="proxied"),
    Fault("S3 answers 503", _refusing(503, "SlowDown"), 30, archives=("s3",), s3="proxied"),
    Fault("S3 answers 403", _refusing(403, "AccessDenied"), 30, archives=("s3",), s3="proxied"),
)
