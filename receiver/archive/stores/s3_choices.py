"""What a server's operator may choose about how it is spoken to."""

from typing import Literal

AddressingStyle = Literal["auto", "path", "virtual"]
Checksums = Literal["when_required", "when_supported"]
