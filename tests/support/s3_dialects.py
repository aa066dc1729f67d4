"""Rules for the fault proxy: how S3 servers differ, and how they and the network fail."""

from dataclasses import replace

from faultproxy import (
    Forward,
    ProxyRequest,
    ProxyResponse,
    Rule,
    s3_error,
    without,
)


def refuses_conditions(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    return (
        s3_error(501, "NotImplemented") if "if-none-match" in request.headers else forward(request)
    )


def calls_conditions_an_invalid_argument(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    return (
        s3_error(400, "InvalidArgument") if "if-none-match" in request.headers else forward(request)
    )


def overwrites_in_spite_of_conditions(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    return forward(without(request, "if-none-match"))


def spells_metadata_its_own_way(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    answer = forward(request)
    return replace(
        answer,
        headers={
            name.title() if "meta" in name else name: value
            for name, value in answer.headers.items()
        },
    )


def says_conflict_to_racing_puts(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    answer = forward(request)
    return s3_error(409, "ConditionalRequestConflict") if answer.status == 412 else answer


def ignores_hashes(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    return forward(without(request, "x-amz-checksum-sha256"))


def refuses_hashes(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    return (
        s3_error(501, "NotImplemented")
        if "x-amz-checksum-sha256" in request.headers
        else forward(request)
    )


def damages_on_the_way(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    return forward(
        replace(request, body=request.body[:-1] + b"?") if request.method == "PUT" else request
    )


def damages_what_it_stores(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    return damages_on_the_way(without(request, "x-amz-checksum-sha256"), forward)


def damages_and_keeps_no_metadata(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    return damages_what_it_stores(without(request, "x-amz-meta-sha256"), forward)


def stores_and_cuts(request: ProxyRequest, forward: Forward) -> ProxyResponse | None:
    answer = forward(request)
    return None if request.method == "PUT" else answer


def cuts(request: ProxyRequest, forward: Forward) -> ProxyResponse | None:
    return None if request.method == "PUT" else forward(request)


def cuts_downloads(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    answer = forward(request)
    return replace(answer, body=answer.body[:10]) if request.method == "GET" else answer


def requires_a_checksum(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    """Act as a bucket whose objects are locked by default."""
    given = {"content-md5", "x-amz-checksum-sha256"} & request.headers.keys()
    if request.method == "PUT" and not given:
        return s3_error(
            400,
            "InvalidRequest",
            "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests "
            "with Object Lock parameters",
        )
    return forward(request)


def requires_an_md5(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    """Act as an older server with Object Lock."""
    if request.method == "PUT" and "content-md5" not in request.headers:
        return s3_error(400, "InvalidRequest", "Missing required header: Content-MD5")
    return forward(request)


def requires_encryption(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    """Act as a bucket whose policy denies what is not encrypted with a key of ours."""
    given = request.headers.get("x-amz-server-side-encryption")
    if request.method == "PUT" and given != "aws:kms":
        return s3_error(403, "AccessDenied", "explicit deny in a resource-based policy")
    return forward(request)


def accepts_only(key: str, code: str) -> Rule:
    """Return the rule that answers with the error ``code`` unless this access key signed."""

    def rule(request: ProxyRequest, forward: Forward) -> ProxyResponse:
        if f"Credential={key}/" not in request.headers.get("authorization", ""):
            said = s3_error(400, code, "The provided token has expired.")
            return replace(said, body=b"") if request.method == "HEAD" else said
        return forward(request)

    return rule


DIALECTS = [
    refuses_conditions,
    calls_conditions_an_invalid_argument,
    overwrites_in_spite_of_conditions,
    spells_metadata_its_own_way,
    says_conflict_to_racing_puts,
    ignores_hashes,
    refuses_hashes,
]
