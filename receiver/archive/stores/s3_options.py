"""What the settings S3_… say about a bucket."""

import re
from dataclasses import dataclass
from typing import Literal, TypedDict

AddressingStyle = Literal["auto", "path", "virtual"]
Checksums = Literal["when_required", "when_supported"]
Verify = Literal["auto", "always"]
Encryption = Literal["", "AES256", "aws:kms", "aws:kms:dsse"]


_ENCRYPTIONS: dict[str, Encryption] = {
    "aes256": "AES256",
    "aws:kms": "aws:kms",
    "aws:kms:dsse": "aws:kms:dsse",
}
# Objects of these classes have to be restored before they can be read.
_ARCHIVE_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE"})


def encryption(value: str) -> str:
    """Return the encryption as S3 spells it. Raise ValueError for anything else."""
    if value and value.lower() not in _ENCRYPTIONS:
        raise ValueError(f"should be {', '.join(_ENCRYPTIONS.values())}, or empty: the bucket's")
    return _ENCRYPTIONS.get(value.lower(), "")


def storage_class(value: str) -> str:
    """Return the class as S3 spells it. Raise ValueError if its objects cannot be read at once."""
    found = value.upper()
    if found in _ARCHIVE_CLASSES:
        raise ValueError(
            "must be a class whose objects can be read at once, such as GLACIER_IR or STANDARD_IA"
        )
    if not re.fullmatch(r"[A-Z0-9_]*", found):
        raise ValueError("must be the name of a storage class, such as STANDARD_IA")
    return found


class PutHeaders(TypedDict, total=False):
    """The parameters that every put of an object has."""

    ServerSideEncryption: str
    SSEKMSKeyId: str
    StorageClass: str


@dataclass(frozen=True, slots=True)
class S3Options:
    """How to speak to the server, and how it should store objects; the settings validate them."""

    addressing_style: AddressingStyle = "auto"
    checksums: Checksums = "when_required"
    verify: Verify = "auto"
    sse: str = ""
    sse_kms_key_id: str = ""
    storage_class: str = ""

    def put_headers(self) -> PutHeaders:
        """Return what each put says about encryption and storage class."""
        headers: PutHeaders = {}
        if self.sse:
            headers["ServerSideEncryption"] = self.sse
        if self.sse_kms_key_id:
            headers["SSEKMSKeyId"] = self.sse_kms_key_id
        if self.storage_class:
            headers["StorageClass"] = self.storage_class
        return headers


DEFAULT = S3Options()
