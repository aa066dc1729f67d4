"""Error texts for S3 and boto3 errors: they say what to do and contain no secret."""

import re
from http import HTTPStatus

from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError

_REGION = "it lives in another region: set AWS_DEFAULT_REGION"
_NONSENSE = "it does not answer like an S3 server: correct AWS_ENDPOINT_URL_S3"
_UNREACHABLE = "no server answers: correct AWS_ENDPOINT_URL_S3, or wait until it is back"
_EXPIRED = "the credentials have expired: renew them; no restart is needed"
_KMS = (
    "correct S3_SSE_KMS_KEY_ID, and let these credentials use the key "
    "(kms:GenerateDataKey, kms:Decrypt)"
)
_PASSWORD = re.compile(r"//[^/@\s]*@")  # user name and password in a URL
_LONGEST_MESSAGE = 400  # characters of a server's own message
_BY_CODE = {
    "NoSuchKey": "there is no such object",
    "NoSuchBucket": "the bucket does not exist there: create it or correct ARCHIVE_URL",
    "InvalidAccessKeyId": "the access key is not known there: correct AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is wrong: correct AWS_SECRET_ACCESS_KEY; "
    "or a proxy on the way changes Host or path",
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "SecurityTokenExpired": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "InvalidToken": "the session token is wrong or has expired: correct AWS_SESSION_TOKEN",
    "InvalidTokenId": "the session token is wrong or has expired: correct AWS_SESSION_TOKEN",
    "InvalidSecurityToken": "the session token is wrong: correct AWS_SESSION_TOKEN",
    "RequestExpired": "the credentials have expired, or this machine's clock is wrong",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "AccessDenied": "not permitted: allow these credentials s3:PutObject, s3:GetObject and "
    "s3:ListBucket on the bucket and its prefix",
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "InvalidStorageClass": "correct S3_STORAGE_CLASS",
    "InvalidObjectState": "the object lies in an archive: choose another S3_STORAGE_CLASS",
    "SecondLevelDomainForbidden": "set S3_ADDRESSING_STYLE=virtual",
    "PathStyleDomainForbidden": "set S3_ADDRESSING_STYLE=virtual",
    # The answer to a HEAD has no body, so no error code either.
    "301": _REGION,
    "403": "not permitted: allow these credentials s3:ListBucket, s3:PutObject and s3:GetObject",
    "BadDigest": "the bytes it received have another SHA-256: they were damaged on the way",
    "SlowDown": "it is overloaded, later it may work",
}
_BY_TYPE: dict[type[Exception], str] = {
    NoCredentialsError: "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    PartialCredentialsError: "the credentials are incomplete: "
    "set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    EndpointConnectionError: _UNREACHABLE,
    ConnectTimeoutError: _UNREACHABLE,
    ReadTimeoutError: "no answer in time, or the connection is too slow",
    ResponseParserError: _NONSENSE,
    ValueError: _NONSENSE,
    RecursionError: _NONSENSE,
    ConnectionClosedError: "the connection was cut",
}


def remedy(error: Exception) -> str:
    """Return what went wrong and, if known, what to do."""
    if isinstance(error, ClientError):
        return f"{_said_by_server(error)} ({status(error)} {error_code(error)})"
    # Endless redirects end in a RecursionError somewhere, perhaps inside the HTTP client.
    inner = error.kwargs.get("error") if isinstance(error, HTTPClientError) else None
    for kind, known in _BY_TYPE.items():
        if isinstance(error, kind) or isinstance(inner, kind):
            return known
    return f"{type(error).__name__}: {_PASSWORD.sub('//', str(error))}"


def _said_by_server(error: ClientError) -> str:
    """Return the remedy, if known, and in any case the server's own message."""
    code, found = error_code(error), error.response.get("Error", {})
    message = " ".join(str(found.get("Message") or "no reason given").split())
    message = _PASSWORD.sub("//", message)[:_LONGEST_MESSAGE]
    known = _KMS if code.startswith("KMS") or " kms:" in message else _BY_CODE.get(code)
    if known == _REGION and (region := _region(error)):
        known = f"{_REGION}={region}"
    return f"{known}; it says: {message}" if known else message


def _region(error: ClientError) -> str:
    """Return the region of the bucket, where the server names it."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    found = headers.get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region")
    if not found:
        said = re.search(r"expecting '([a-z0-9-]+)'", str(error))
        found = said[1] if said else ""
    return str(found)[:40]


def error_code(error: Exception) -> str:
    """Return S3's error code, such as ``NoSuchBucket``, or "" if the error is not from S3."""
    return (
        str(error.response.get("Error", {}).get("Code", ""))
        if isinstance(error, ClientError)
        else ""
    )


def status(error: ClientError) -> int:
    """Return the HTTP status of the response."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_taken(error: ClientError) -> bool:
    """Return whether a conditional put was refused because the key exists, or is being written."""
    return (
        status(error) == HTTPStatus.PRECONDITION_FAILED
        or error_code(error) == "ConditionalRequestConflict"
    )


def is_unsupported(error: ClientError) -> bool:
    """Return whether the server may have refused the condition or the checksum itself."""
    return status(error) == HTTPStatus.NOT_IMPLEMENTED or error_code(error) in (
        "NotImplemented",
        "InvalidArgument",
        "InvalidRequest",
        "MissingContentMD5",
    )
