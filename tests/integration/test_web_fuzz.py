"""Whatever is sent to any route of the web side, it never fails: bad input is a 4xx.

Requests are given to the application as a server passes them on, so that no client tidies them up.
``--hypothesis-profile=search`` (as .ci/run does) sends forty times as many.
"""

import gc
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pytest
from dashboard_client import archived, form_token, reported
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from web_client import FAILED, WebClient, web_client
from werkzeug.routing import Rule
from werkzeug.test import create_environ, run_wsgi_app

from receiver.web import create_app, create_health_app

ROUTES = sorted(
    {
        (rule.rule, method): rule
        for rule in create_app().url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }.items()
)
NUMBERS = ["-1", "0", "1", "00", "+1", "1e9", "0x1", "9" * 18, str(2**63), "9" * 5000, "٣", "NaN"]
WORDS = [
    *("", " ", "%", "%00", "%0d%0aX: y", "%ff", "%ed%a0%80", "\x80", "\x9b31m", "x" * 9000),
    *("..", "../../etc/passwd", "\\", "//evil.test", "'", '"', "<b>", "{{7*7}}", "[/x]", "[", ";"),
    *("=", "&&&", "a=b", "*", "x, y;q=z", "2026-13-45T99:99:99Z", "9999-12-31T23:59:59-23:59"),
    *("0001-01-01", "null", "\\ud800", "\u202e", "日本", *NUMBERS),
]
# What a database may understand in its own way.
FOR_DATABASES = [
    "%00",
    "%ff",
    "%ed%a0%80",
    "'",
    "\\",
    "%",
    "_",
    "9999-12-31T23:59:59-23:59",
    *NUMBERS[-5:],
]
TEXTS = st.sampled_from(WORDS) | st.text(max_size=12)
NAMES = [
    *("q", "state", "model", "since", "until", "after", "limit", "before", "seen", "next", "link"),
    *("notice", "like", "token", "csrf_token", "sha256", "todo", "done", "failed", "prompt", "key"),
    *("size", "variants", "mode", "language", "theme", "whole", "welcome", "v", "[", "é", ""),
]
# Headers that our code, Flask, werkzeug or htmx read, with values that are half-right.
HEADERS = {
    "ACCEPT": ["*/*;q=9e999", "text/html;q=-1", ",;=,"],
    "ACCEPT_LANGUAGE": ["zh;q=nan", "zh;q=", "-", "*" * 500, "zh-;q=1e400,en", "a" * 9],
    "AUTHORIZATION": ["Bearer", "Bearer ", "Bearer é", "Basic Og==", "Basic é", "Digest x=", "é"],
    "CONTENT_TYPE": ["multipart/form-data", "multipart/form-data; boundary=", "application/json;="],
    "CONTENT_ENCODING": ["gzip", "é"],
    "COOKIE": [
        "receiver",
        "receiver=",
        "receiver=.eJw.x.y",
        "receiver=a.b.c; language=\x00",
        "=;=",
    ],
    "EXPECT": ["100-continue", "x"],
    "FORWARDED": ["for=", 'for="[::1'],
    "HOST": ["", "[", "a..b", "a:b:c", "é", "x" * 300, "x/y", "x:99999999"],
    "HX_REQUEST": ["true"],
    "HX_TARGET": ["results"],
    "IDEMPOTENCY_KEY": ["k" * 501],
    "IF_MODIFIED_SINCE": ["Thu, 99 Foo 99999 99:99:99 GMT", "Sat, 01 Jan 0000 00:00:00 GMT"],
    "IF_NONE_MATCH": ['"', "W/", "*, *", 'W/"\\'],
    "IF_RANGE": ['"', "Thu, 01 Jan 1970 00:00:00 -9999"],
    "IF_UNMODIFIED_SINCE": ["Thu, 01 Jan 99999 00:00:00 GMT"],
    "LAST_EVENT_ID": [*NUMBERS],
    "ORIGIN": ["null"],
    "RANGE": [f"bytes={one}-{other}" for one in ("", *NUMBERS) for other in ("", "0", "9" * 5000)],
    "REFERER": ["é", "http://["],
    "SEC_FETCH_SITE": ["cross-site"],
    "TRANSFER_ENCODING": ["chunked", "x"],
    "USER_AGENT": ["é" * 3000],
    "X_CSRF_TOKEN": ["é", "a.b.c", ".", "Ii.x.y"],
    "X_FORWARDED_FOR": ["é", "::1, [", ","],
    "X_FORWARDED_HOST": ["[", "é"],
    "X_FORWARDED_PROTO": ["é"],
    "X_HTTP_METHOD_OVERRIDE": ["DELETE"],
    "X_REQUEST_ID": ["é", "x" * 65, "a\tb"],
}
BODIES = [
    *(b"", b"\x00", b"\xff\xfe", b"&" * 200, b"a=1&" * 200, b"=" * 50, b"%" * 99, b"token=%ff"),
    *(b"csrf_token=%00", b"token=" + b"x" * 100_000, b"{", b"[]", b"null", b'{"prompt": 1}'),
    *(b"[" * 50_000, b'{"prompt": "\\ud800"}', b'{"prompt": "x", "variants": 1e999}'),
    *(b'{"prompt": "x", "params": {"n": ' + b"9" * 5000 + b"}}", b'{"prompt": "\\u0000"}'),
    *(
        b'{"prompt": "x", "metadata": {"\\ud800": "\\ud800"}}',
        b"--x\r\n\r\n--x--",
        b"x" * 1_100_000,
    ),
    *(b'{"id": "\\ud800", "status": "failed"}', b'{"id": "x", "progress": NaN}', b"\x1f\x8b\x08"),
]
# What a failure shows of a request.
_SHOWN = {"REQU", "PATH", "QUER", "CONT", "HTTP"}
FORMS = st.lists(st.tuples(st.sampled_from(NAMES), TEXTS), max_size=4)


def urlencoded(fields: list[tuple[str, str]]) -> str:
    """Write fields as a query string; what is percent-encoded already stays as it is."""
    return "&".join(
        f"{name}={quote(value, safe='%+;', errors='replace')}" for name, value in fields
    )


def header_values(name: str) -> st.SearchStrategy[str]:
    return st.sampled_from(HEADERS[name]) | TEXTS


@st.composite
def requests(draw: st.DrawFn, rule: Rule, method: str, refs: list[str]) -> dict[str, Any]:
    """Draw what is wrong with a request: about half of its parts are."""
    places = {
        "int": st.sampled_from(NUMBERS) | st.just("0"),
        "ref": st.sampled_from([*refs, *WORDS]),
    }
    path = re.sub(
        r"<(?:(\w+):)?(\w+)>",
        lambda found: draw(places.get(found[1] or found[2], TEXTS)) or "x",
        rule.rule,
    )
    names = draw(st.lists(st.sampled_from(sorted(HEADERS)), max_size=4, unique=True))
    fields, body = draw(FORMS), draw(st.none() | st.sampled_from(BODIES))
    return {
        "method": draw(st.sampled_from([method] * 9 + ["HEAD", "OPTIONS", "TRACE", "É", "get"])),
        "path": quote(path, safe="/%", errors="replace"),
        "query": urlencoded(draw(FORMS)) if draw(st.booleans()) else draw(TEXTS),
        "headers": {name: draw(header_values(name)) for name in names},
        "fields": fields,
        "body": body,
        "length": draw(st.none() | st.none() | st.sampled_from(["", "-1", "x", "9" * 5000, "1"])),
        "access": draw(st.sampled_from(["none", "session", "session", "token"])),
    }


class Sender:
    """Gives requests to the application, with a session, with the token, or without both."""

    def __init__(self, web: WebClient) -> None:
        self.web = web
        self.refs = [archived(web, WORDS[-1]), reported(web, {**FAILED, "id": "task-2"})]

    def begin_session(self) -> None:
        """Begin a session without the login, whose attempts are limited."""
        client = self.web.client
        with client.application.app_context(), client.session_transaction() as session:
            session["epoch"] = self.web.services.sessions.epoch()
        self.csrf = form_token(self.web)
        self.cookie = self.web.client.get_cookie("receiver").value

    def environ(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """Return a request as gunicorn passes it on."""
        fields, access = list(drawn["fields"]), drawn["access"]
        headers = {name: as_latin(value) for name, value in drawn["headers"].items()}
        if access == "session":
            fields.append(("csrf_token", self.csrf))
            headers["COOKIE"] = f"receiver={self.cookie}; " + headers.get("COOKIE", "theme=x")
        if access == "token":
            headers["AUTHORIZATION"] = self.web.admin["Authorization"]
        body = urlencoded(fields).encode() if drawn["body"] is None else drawn["body"]
        environ = create_environ("/", method=drawn["method"], input_stream=io.BytesIO(body))
        plain = {"CONTENT_TYPE", "CONTENT_LENGTH"}
        environ |= {n if n in plain else f"HTTP_{n}": headers[n] for n in headers}
        return environ | {
            "PATH_INFO": unquote_to_bytes(drawn["path"]).decode("latin-1"),
            "RAW_URI": drawn["path"],
            "QUERY_STRING": as_latin(drawn["query"]),
            "CONTENT_LENGTH": str(len(body)) if drawn["length"] is None else drawn["length"],
            "REMOTE_ADDR": "203.0.113.1",
        }


def as_latin(text: str) -> str:
    """Return a text as WSGI passes it on: its bytes in UTF-8, read as Latin-1."""
    return re.sub("[\r\n]", " ", text).encode("utf-8", "surrogatepass").decode("latin-1")


@pytest.fixture(scope="module")
def sender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sender]:
    with web_client(tmp_path_factory.mktemp("fuzz") / "data") as web:
        yield Sender(web)


def assert_no_failure(app: Any, environ: dict[str, Any]) -> None:
    """Fail for a 5xx; a 503 is right where a part is away and the caller may try again."""
    may_be_503 = environ["PATH_INFO"].rstrip("/") in {"/readyz", "/status"}  # without a worker
    given = {name: str(environ[name])[:80] for name in environ if name[:4] in _SHOWN}
    body, status, headers = run_wsgi_app(app, environ)
    try:
        code = int(status.split()[0])
        assert code < 500 or (code == 503 and (may_be_503 or "Retry-After" in headers)), (
            status,
            given,
        )
        assert not re.search("[\x00-\x1f\x7f]", "".join(headers.values())), f"{headers} for {given}"
    finally:
        getattr(body, "close", lambda: None)()


@pytest.mark.parametrize(("place", "rule"), ROUTES, ids=[" ".join(place) for place, _ in ROUTES])
def test_no_request_makes_a_route_fail(sender: Sender, place: tuple[str, str], rule: Rule) -> None:
    sender.begin_session()

    @examples(2)
    @given(drawn=requests(rule, place[1], sender.refs))
    def send(drawn: dict[str, Any]) -> None:
        assert_no_failure(sender.web.client.application, sender.environ(drawn))

    send()


def plain(path: str, method: str = "GET", access: str = "session", **wrong: Any) -> dict[str, Any]:
    """Return a request in which only what is named is wrong."""
    right: dict[str, Any] = {"headers": {}, "fields": [], "query": "", "body": None, "length": None}
    return {"path": path, "method": method, "access": access, **right, **wrong}


WITH_BODIES = [
    *("/login", "/submit", "/retry-all", "/replay-all", "/jobs/{}/retry", "/api/jobs", "/logout"),
    *("/callback", "/callback/x", "/jobs/{}/assets/0/accept", "/events/1/resend"),
    "/events/1/dismiss",
]


@pytest.mark.parametrize("path", WITH_BODIES)
def test_no_body_makes_a_route_fail(sender: Sender, path: str) -> None:
    app, path = sender.web.client.application, path.format(sender.refs[0])
    sender.begin_session()
    for access in ("token",) if path.startswith("/api") else ("none", "session"):
        for body in [*BODIES, sender.csrf.join(["csrf_token=", "&a=b" * 200]).encode()]:
            assert_no_failure(app, sender.environ(plain(path, "POST", access, body=body)))


@pytest.mark.parametrize("name", HEADERS)
def test_no_header_makes_a_route_fail(
    sender: Sender, name: str, pytestconfig: pytest.Config
) -> None:
    sender.begin_session()
    asset = f"/api/jobs/{sender.refs[0]}/assets/0"
    paths = ["/jobs", "/none", "/static/app.css", "/status", "/api/stream", asset, "/callback/x"]
    # By default each header has a quarter of the words, and all of its own values.
    words = slice(None) if pytestconfig.getoption("thorough") else slice(len(name) % 4, None, 4)
    for value in [*HEADERS[name], *WORDS[words]]:
        for path in paths if value in HEADERS[name] else paths[:1]:
            method = "POST" if path == "/callback/x" else "GET"
            drawn = plain(path, method, headers={name: value})
            assert_no_failure(sender.web.client.application, sender.environ(drawn))


def test_a_static_file_is_closed_when_a_condition_fails(sender: Sender) -> None:
    sender.begin_session()
    environ = sender.environ(plain("/static/app.css", headers={"IF_MATCH": '"x"'}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        body, status, _ = run_wsgi_app(sender.web.client.application, environ)
        getattr(body, "close", lambda: None)()
        del body
        gc.collect()
    assert (status[:3], [one for one in caught if "unclosed" in str(one.message)]) == ("412", [])


@pytest.mark.both_databases
def test_no_word_makes_a_query_of_the_ledger_fail(ledger_url: str, tmp_path: Path) -> None:
    secrets = {"CALLBACK_SECRETS": "x" * 16, "ADMIN_TOKEN": "y" * 16}
    url = ledger_url.replace("postgresql+psycopg://", "postgresql://")
    storage = {"DATABASE_URL": url, "ARCHIVE_URL": (tmp_path / "archive").as_uri()}
    queries = [*(("/jobs", name) for name in ("q", "model", "after")), ("/submit", "like")]
    paths = ["/jobs/{}", "/api/jobs/{}", "/jobs/{}/deliveries/1", "/api/jobs/{}/assets/0"]
    with web_client(tmp_path / "data", {**secrets, **storage}) as web:
        sender = Sender(web)
        sender.begin_session()
        for word in FOR_DATABASES:
            found = quote(word, safe="%", errors="replace")
            drawn = [plain(path, query=f"{name}={found}") for path, name in queries]
            drawn += [plain(path.format(found)) for path in paths]
            drawn.append(plain("/retry-all", "POST", fields=[("q", word), ("todo", "failed")]))
            for request in drawn:
                assert_no_failure(web.client.application, sender.environ(request))


def test_a_form_with_too_many_fields_is_a_400_that_says_so(sender: Sender) -> None:
    answer = sender.web.client.post("/login", data={f"f{n}": "x" for n in range(200)})
    assert (answer.status_code, "not understood" in answer.text) == (400, True)


@pytest.mark.parametrize(
    ("path", "media"),
    [
        ("/callback/x", "application/json"),
        ("/none", "text/html; charset=utf-8"),
        ("/api/jobs", "application/problem+json"),
    ],
)
def test_a_request_without_a_valid_host_is_a_400_in_the_words_of_its_place(
    sender: Sender, path: str, media: str
) -> None:
    environ = sender.environ(plain(path, "POST", "token", headers={"HOST": "a..b"}))
    _, status, headers = run_wsgi_app(sender.web.client.application, environ)
    assert (status[:3], headers["Content-Type"]) == ("400", media)


@examples(10)
@given(data=st.data(), path=TEXTS)
def test_no_request_makes_an_unknown_path_or_a_workers_port_fail(
    sender: Sender, data: st.DataObject, path: str
) -> None:
    sender.begin_session()
    drawn = data.draw(requests(ROUTES[0][1], "GET", sender.refs))
    environ = sender.environ(drawn | {"path": "/" + quote(path, safe="/%", errors="replace")})
    assert_no_failure(sender.web.client.application, dict(environ))
    assert_no_failure(create_health_app(sender.web.services), environ)
