"""What S3 and boto3 complain about, in words that name the remedy and hold no secret."""

import re

from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError

_REGION = "it lives in another region: set AWS_DEFAULT_REGION"
_NONSENSE = "it does not answer like an S3 server: correct AWS_ENDPOINT_URL_S3"
_PASSWORD = re.compile(r"//[^/@\s]*@")  # what a URL may hold before its host
_BY_CODE = {
    "NoSuchKey": "there is no such object",
    "NoSuchBucket": "the bucket does not exist there: create it or correct ARCHIVE_URL",
    "InvalidAccessKeyId": "the access key is not known there: correct AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is wrong: correct AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the credentials have expired: renew them",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "AccessDenied": "not permitted: allow these credentials s3:PutObject, s3:GetObject and s3:ListBucket on the bucket and its prefix",
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "403": "not permitted: allow these credentials s3:ListBucket, s3:PutObject and s3:GetObject",  # a HEAD is answered without words
    "SlowDown": "it is overloaded, later it may work",
}
_BY_TYPE: dict[type[Exception], str] = {
    NoCredentialsError: "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    PartialCredentialsError: "the credentials are incomplete: set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    EndpointConnectionError: "nobody answers there: correct AWS_ENDPOINT_URL_S3, or wait until it is back",
    ConnectTimeoutError: "nobody answers there: correct AWS_ENDPOINT_URL_S3, or wait until it is back",
    ReadTimeoutError: "no answer in time",
    ResponseParserError: _NONSENSE,
    ValueError: _NONSENSE,
    RecursionError: _NONSENSE,
    ConnectionClosedError: "the connection was cut",
}


def remedy(error: Exception) -> str:
    """Say what went wrong and, where we know it, what to do."""
    if isinstance(error, ClientError):
        code = error_code(error)
        text = _BY_CODE.get(code) or error.response.get("Error", {}).get(
            "Message", "no reason given"
        )
        return f"{text} ({status(error)} {code})"
    for kind, known in _BY_TYPE.items():
        if isinstance(error, kind):
            return known
    return f"{type(error).__name__}: {_PASSWORD.sub('//', str(error))}"


def error_code(error: Exception) -> str:
    """Return S3's own word for the error, such as ``NoSuchBucket``; empty if the error is none of S3's."""
    return (
        str(error.response.get("Error", {}).get("Code", ""))
        if isinstance(error, ClientError)
        else ""
    )


def status(error: ClientError) -> int:
    """Return the HTTP status of the answer."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
