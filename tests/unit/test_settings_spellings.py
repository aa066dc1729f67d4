"""Settings as people paste them: accepted as they are meant, or refused with the correct value."""

import pytest

from receiver.errors import ConfigurationError
from receiver.settings import Settings

SECRET = "planted-secret-0123456789"


def mistakes(**environ: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(environ)
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("pasted", "meant"),
    [
        ("https://grsaiapi.com/", "https://grsaiapi.com"),
        ("https://grsaiapi.com/v1", "https://grsaiapi.com"),
        ("https://grsaiapi.com/v1/", "https://grsaiapi.com"),
        ("https://grsaiapi.com//v1/draw/completions", "https://grsaiapi.com"),
        ("https://grsaiapi.com/v1/api/result?id=1#top", "https://grsaiapi.com"),
        ("https://grsaiapi.com/client/openapi/getAPIKeyCredits", "https://grsaiapi.com"),
        ("HTTPS://grsaiapi.com", "https://grsaiapi.com"),
        ("HTTPS://grsaiapi.com/V1/Draw/Completions", "https://grsaiapi.com"),
        ("http://grsaiapi.com", "https://grsaiapi.com"),
        ("http://grsai.dakka.com.cn:80/v1/draw/nano-banana", "https://grsai.dakka.com.cn"),
        ('"https://grsaiapi.com"', "https://grsaiapi.com"),
        ("http://127.0.0.1:8788", "http://127.0.0.1:8788"),
        ("http://sandbox:8788/", "http://sandbox:8788"),
        ("https://gateway.example.com/grsai/v1/draw/result", "https://gateway.example.com/grsai"),
        ("https://gateway.example.com/v10", "https://gateway.example.com/v10"),
        ("http://notgrsaiapi.com", "http://notgrsaiapi.com"),
    ],
)
def test_the_address_of_grsai_is_understood_as_it_is_pasted(pasted: str, meant: str) -> None:
    assert Settings.load({"GRSAI_BASE_URL": pasted}).grsai_base_url == meant


@pytest.mark.parametrize(
    "wrong",
    [
        "https://https://grsaiapi.com",
        "https://grsaiapi.com,",
        "https://grsaiapi.com;",
        "https://grsai\u200bapi.com",
        "https://grsaiapi.com\\v1",
    ],
)
def test_an_address_that_names_no_host_is_refused(wrong: str) -> None:
    (found,) = mistakes(GRSAI_BASE_URL=wrong)
    assert found.endswith("such as https://grsaiapi.com")


def test_an_address_without_a_scheme_is_refused_with_the_correct_value() -> None:
    (found,) = mistakes(GRSAI_BASE_URL="grsai.dakka.com.cn/v1/draw/completions")
    assert found.endswith("such as https://grsai.dakka.com.cn")
    (found,) = mistakes(GRSAI_BASE_URL=f"user:{SECRET}@grsaiapi.com")
    assert found.endswith("such as https://grsaiapi.com")


@pytest.mark.parametrize("path", ["/callback", "/callback/", "/callback/x"])
def test_a_public_url_with_callback_is_refused_with_the_remedy(path: str) -> None:
    (found,) = mistakes(PUBLIC_URL=f"https://pictures.example.com{path}")
    assert found == (
        "PUBLIC_URL: must not end in /callback, which the service adds itself: "
        "write https://pictures.example.com"
    )
    (found,) = mistakes(PUBLIC_URL=f"https://user:{SECRET}@example.com/callback")
    assert found.endswith("which the service adds itself")


@pytest.mark.parametrize("path", ["/in", "/in/callback", "/callbacks"])
def test_a_public_url_with_another_path_is_refused_with_the_remedy(path: str) -> None:
    (found,) = mistakes(PUBLIC_URL=f"https://pictures.example.com:8443{path}")
    assert found == (
        "PUBLIC_URL: must have no path, because the dashboard is at the root of its address: "
        "write https://pictures.example.com:8443, and give the service a host name or a port of "
        "its own"
    )


def test_callback_in_a_host_name_is_fine() -> None:
    address = "https://callback.example.com"
    assert Settings.load({"PUBLIC_URL": address}).public_url == address


def test_words_may_be_written_in_any_case() -> None:
    chosen = Settings.load(
        {
            "LOG_LEVEL": "info",
            "LOG_FORMAT": "JSON",
            "CONFIRM": "Always",
            "S3_ADDRESSING_STYLE": "Path",
        }
    )
    assert (chosen.log_level, chosen.log_format) == ("INFO", "json")
    assert (chosen.confirm, chosen.s3_addressing_style) == ("always", "path")
    assert Settings.load({"LOG_LEVEL": "warn"}).log_level == "WARNING"


@pytest.mark.parametrize("wrong", ["a\r\nX: 1", "ключ"])
def test_the_user_agent_of_downloads_must_be_sendable(wrong: str) -> None:
    (found,) = mistakes(FETCH_USER_AGENT=wrong)
    assert found.startswith("FETCH_USER_AGENT: ")
