"""Rules for the fault proxy: how S3 servers differ, and how they and the network fail."""

from dataclasses import replace

from faultproxy import (
    Forward,
    ProxyRequest,
    ProxyResponse,
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


DIALECTS = [
    refuses_conditions,
    calls_conditions_an_invalid_argument,
    overwrites_in_spite_of_conditions,
    spells_metadata_its_own_way,
    says_conflict_to_racing_puts,
    ignores_hashes,
    refuses_hashes,
]
