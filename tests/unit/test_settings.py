"""Every environment variable: its default, its allowed values, and the text for a wrong one."""

import os
from pathlib import Path

import pytest

from receiver.errors import ConfigurationError
from receiver.settings import Settings

SECRET, OTHER = "planted-secret-0123456789", "planted-secret-9876543210"
POSTGRES = {
    "DATABASE_URL": f"postgresql://receiver:{SECRET}@db/ledger",
    "CALLBACK_SECRETS": SECRET,
    "ADMIN_TOKEN": OTHER,
    "ARCHIVE_URL": "s3://pictures",
}


def mistakes(**environ: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(environ)
    return caught.value.mistakes


def shown(value: object) -> object:
    """Return a setting with its secrets laid open."""
    if isinstance(value, tuple):
        return tuple(map(shown, value))
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value


@pytest.mark.parametrize(
    ("name", "wrong", "remedy"),
    [
        *(
            (name, wrong, "must be ASCII without spaces")
            for name in ("GRSAI_API_KEY", "OPENAI_API_KEY", "ADMIN_TOKEN")
            for wrong in ("sk one", "sk-ключ", "sk\none")
        ),
        *(
            (name, wrong, "must be an http:// or https:// address without ?query, such as https://")
            for name in ("GRSAI_BASE_URL", "OPENAI_BASE_URL", "PUBLIC_URL")
            for wrong in (
                "grsaiapi.com",
                "ftp://a",
                "http://",
                "http://?q",
                "https://a?x=1",
                "https://a#b",
                "http://[::1",
                "http://a:99999",
            )
        ),
        *(
            ("PUBLIC_URL", wrong, "must be an http:// or https:// address")
            for wrong in ("http://a b", "http://a/b c", "http://a:x")
        ),
        *(
            (
                "DATABASE_URL",
                wrong,
                "must be sqlite:///path/of/ledger.sqlite3 (no path with a ?) or postgresql://user:password@host/database",
            )
            for wrong in (
                "mysql://a/b",
                "sqlite://",
                "sqlite:///",
                "sqlite:///:memory:",
                "sqlite:///a?mode=ro",
                "/var/ledger.sqlite3",
            )
        ),
        ("DATABASE_URL", f"postgresql://receiver:{SECRET}@db:port/ledger", "must be sqlite:///"),
        *(
            (
                "ARCHIVE_URL",
                wrong,
                (
                    "must be file:///absolute/path or s3://bucket/prefix; "
                    "credentials belong in AWS_ACCESS_KEY_ID"
                ),
            )
            for wrong in (
                "/srv",
                "file://srv/a",
                "file:///",
                "s3://",
                "s3://b",
                "https://a/b",
                f"s3://key:{SECRET}@bucket",
                "s3://[b",
            )
        ),
        (
            "CALLBACK_SECRETS",
            f"{SECRET},short",
            "each secret needs at least 16 characters; generate one with: openssl rand -hex 32",
        ),
        ("S3_ADDRESSING_STYLE", "paths", "should be 'auto', 'path' or 'virtual'"),
        ("S3_CHECKSUMS", "never", "should be 'when_required' or 'when_supported'"),
        ("S3_VERIFY", "never", "should be 'auto' or 'always'"),
        ("S3_SSE", "kms", "should be AES256, aws:kms, aws:kms:dsse, or empty"),
        ("S3_SSE_KMS_KEY_ID", "key-1", "is used with S3_SSE=aws:kms only"),
        ("S3_STORAGE_CLASS", "glacier", "can be read at once, such as GLACIER_IR"),
        ("S3_STORAGE_CLASS", "deep archive", "must be the name of a storage class"),
        ("FETCH_ALLOW", "10.0.0.0/33", "'10.0.0.0/33' is not understood"),
        ("FETCH_ALLOW", "http://minio:9000", "write a host, host:port, an address"),
        ("FETCH_HOSTS", "https://*.example.com", "https://*.example.com"),
        ("TICKET_LIFETIME", "10800", "longer than JOB_TIMEOUT and URL_LIFETIME together (10800 s)"),
        ("CONFIRM", "never", "should be 'unsigned' or 'always'"),
        ("ADMIN_TOKEN", "fifteen-letters", "at least 16 characters"),
        ("HOST", "http://0.0.0.0", "should match pattern"),
        ("PORT", "65536", "less than or equal to 65535"),
        ("PORT", "-1", "greater than or equal to 0"),
        ("LOG_LEVEL", "TRACE", "should be 'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        ("LOG_FORMAT", "xml", "should be 'auto', 'json' or 'console'"),
        *(
            (name, wrong, "should be")
            for name in (
                "FETCH_MAX_BYTES",
                "CALLBACK_MAX_BYTES",
                "WEB_CONCURRENCY",
                "WAITING_CLIENTS",
                "WORKER_THREADS",
            )
            for wrong in ("0", "-1", "1.5", "1e6", "many")
        ),
        *(
            (name, wrong, "should be")
            for name in (
                "FETCH_TIMEOUT",
                "URL_LIFETIME",
                "POLL_AFTER",
                "POLL_INTERVAL",
                "JOB_TIMEOUT",
                "TICKET_LIFETIME",
            )
            for wrong in ("0", "-1", "nan", "inf", "1h")
        ),
    ],
)
def test_a_wrong_value_is_reported_with_its_variable_and_the_remedy(
    name: str, wrong: str, remedy: str
) -> None:
    (found,) = mistakes(**{name: wrong})
    assert found.startswith(f"{name}: ")
    assert found.count(name) == 1
    assert remedy in found
    assert SECRET not in found


def test_all_mistakes_are_named_at_once() -> None:
    found = mistakes(
        PORT="none",
        FETCH_ALLOW="a/b/c",
        CALLBACK_SECRETS="short",
        PUBLIC_URL="example.com",
        CONFIRM="maybe",
        ADMIN_TOKEN="one",
        ADMIN_TOKEN_FILE="/dev/null",
        GRSAI_API_KEY_FILE="/nowhere/at/all",
    )
    assert {line.partition(":")[0] for line in found} == {
        "PORT",
        "FETCH_ALLOW",
        "CALLBACK_SECRETS",
        "PUBLIC_URL",
        "CONFIRM",
        "ADMIN_TOKEN",
        "GRSAI_API_KEY_FILE",
    }


def test_postgresql_needs_the_shared_secrets_and_says_so_beside_other_mistakes() -> None:
    found = mistakes(DATABASE_URL=POSTGRES["DATABASE_URL"], PORT="none")
    assert found[:2] == [
        f"{name}: must be set when DATABASE_URL is PostgreSQL, to the same value on every machine"
        for name in ("CALLBACK_SECRETS", "ADMIN_TOKEN")
    ]
    assert found[2].startswith("ARCHIVE_URL: must be set when DATABASE_URL is PostgreSQL")
    assert found[3].startswith("PORT: ")


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        (
            {"GRSAI_API_KEY": SECRET, "GRSAI_API_KEY_FILE": "key"},
            "GRSAI_API_KEY: set either GRSAI_API_KEY or GRSAI_API_KEY_FILE, not both",
        ),
        (
            {"GRSAI_API_KEY_FILE": "missing"},
            (
                "GRSAI_API_KEY_FILE: the file cannot be read (No such file or directory); "
                "name a readable"
            ),
        ),
        (
            {"GRSAI_API_KEY_FILE": "."},
            (
                "GRSAI_API_KEY_FILE: the file cannot be read (Is a directory); "
                "name a readable text file"
            ),
        ),
        (
            {"GRSAI_API_KEY_FILE": "binary"},
            "GRSAI_API_KEY_FILE: the file is not UTF-8 text; name a readable text file",
        ),
        (
            {"GRSAI_API_KEY_FILE": "blank"},
            "GRSAI_API_KEY_FILE: the file is empty; write the value into it, or unset the variable",
        ),
        ({"GRSAI_API_KEY_FILE": SECRET}, "GRSAI_API_KEY_FILE: the file cannot be read"),
        ({"PORT_FILE": "key"}, "PORT: Input should be a valid integer"),
    ],
)
def test_a_wrong_file_is_reported_without_its_name_or_contents(
    environ: dict[str, str], found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, contents in {"key": SECRET.encode(), "binary": b"\xff\xfe", "blank": b" \n"}.items():
        (tmp_path / name).write_bytes(contents)
    (said,) = mistakes(**environ)
    assert said.startswith(found)
    assert SECRET not in said


@pytest.mark.parametrize(
    ("environ", "host"),
    [
        ({}, "127.0.0.1"),
        ({"PORT": "8080"}, ""),
        ({"PORT": "8080", "HOST": "127.0.0.1"}, "127.0.0.1"),
        ({"HOST": "[::1]"}, "::1"),
        ({"HOST": "*"}, "::"),
    ],
)
def test_who_sets_the_port_is_called_from_outside(environ: dict[str, str], host: str) -> None:
    assert Settings.load(environ).listen_host == host


@pytest.mark.parametrize("nothing", ["", "  ", "\n"])
def test_an_empty_variable_counts_as_unset(nothing: str) -> None:
    environ = {
        name.upper() + suffix: nothing for name in Settings.model_fields for suffix in ("", "_FILE")
    }
    assert Settings.load(environ) == Settings.load({})


@pytest.mark.parametrize(
    ("name", "given", "meant"),
    [
        ("GRSAI_API_KEY", f" {SECRET}\n", SECRET),
        ("GRSAI_BASE_URL", "https://api.grsai.com/", "https://api.grsai.com"),
        ("OPENAI_API_KEY", SECRET, SECRET),
        ("OPENAI_BASE_URL", "http://127.0.0.1:8788/v1", "http://127.0.0.1:8788/v1"),
        ("PUBLIC_URL", "http://[::1]:8787/", "http://[::1]:8787"),
        (
            "DATABASE_URL",
            "sqlite:////var/lib/a b%20c.sqlite3",
            "sqlite:////var/lib/a b%20c.sqlite3",
        ),
        ("ARCHIVE_URL", "s3://Bucket.1/some/prefix", "s3://Bucket.1/some/prefix"),
        ("ARCHIVE_URL", "file:///srv/pictures", "file:///srv/pictures"),
        ("CALLBACK_SECRETS", f" {SECRET} ,, {OTHER},", (SECRET, OTHER)),
        ("ADMIN_TOKEN", SECRET, SECRET),
        ("S3_ADDRESSING_STYLE", "path", "path"),
        ("S3_CHECKSUMS", "when_supported", "when_supported"),
        ("S3_VERIFY", "always", "always"),
        ("S3_SSE", "aes256", "AES256"),
        ("S3_SSE", "AWS:KMS", "aws:kms"),
        ("S3_STORAGE_CLASS", "standard_ia", "STANDARD_IA"),
        ("FETCH_ALLOW", "127.0.0.1:8788, 198.18.0.0/15", ("127.0.0.1:8788", "198.18.0.0/15")),
        ("FETCH_HOSTS", "*.aitohumanize.com", ("*.aitohumanize.com",)),
        ("CONFIRM", "always", "always"),
        ("PORT", " 0 ", 0),
        ("LOG_LEVEL", "ERROR", "ERROR"),
        ("LOG_FORMAT", "json", "json"),
        *(
            (name, "7", 7)
            for name in (
                "FETCH_MAX_BYTES",
                "CALLBACK_MAX_BYTES",
                "WEB_CONCURRENCY",
                "WAITING_CLIENTS",
                "WORKER_THREADS",
            )
        ),
        *(
            (name, "0.5", 0.5)
            for name in (
                "FETCH_TIMEOUT",
                "URL_LIFETIME",
                "POLL_AFTER",
                "POLL_INTERVAL",
                "JOB_TIMEOUT",
            )
        ),
    ],
)
def test_a_good_value_is_taken_from_the_variable_or_from_its_file(
    name: str, given: str, meant: object, tmp_path: Path
) -> None:
    file = tmp_path / "value"
    file.write_text(given, encoding="utf-8")
    for environ in ({name: given}, {f"{name}_FILE": str(file)}):
        assert shown(getattr(Settings.load(environ), name.lower())) == meant


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_postgresql_address_switches_from_one_machine_to_many(scheme: str) -> None:
    assert Settings.load({}).embedded
    settings = Settings.load(
        {**POSTGRES, "DATABASE_URL": f"{scheme}://receiver:{SECRET}@db/ledger"}
    )
    assert not settings.embedded
    assert settings.database_url == f"postgresql+psycopg://receiver:{SECRET}@db/ledger"


@pytest.mark.parametrize("folder", ["plain", "with space", "50%25", "ünïcode", "#1"])
def test_data_dir_may_have_any_usual_name_and_may_be_relative(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.load({"DATA_DIR": folder})
    assert settings.data_dir == tmp_path / folder
    assert settings.ledger_path == tmp_path / folder / "ledger.sqlite3"
    assert settings.archive_url == (tmp_path / folder / "archive").as_uri()


def test_no_secret_is_in_any_text_about_the_settings() -> None:
    settings = Settings.load({**POSTGRES, "GRSAI_API_KEY": SECRET})
    for text in (repr(settings), str(settings)):
        assert SECRET not in text
        assert OTHER not in text
    assert SECRET not in " ".join(
        mistakes(**{**POSTGRES, "PORT": "none", "CONFIRM": SECRET, "LOG_LEVEL": OTHER})
    )


def test_only_what_is_given_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "PORT", "1234")
    assert Settings.load({}).port == 8787
