"""The sandbox: a stand-in for GRSAI on real sockets, with real pictures and faults on request.

It is written from the description of the protocol and shares no code with the receiver. So a wrong
reading of the protocol cannot be in both. ``Sandbox`` runs one; ``script.Script`` documents the
faults that a job can ask for in its request field ``sandbox``.
"""

from submitter.sandbox.server import Sandbox

__all__ = ["Sandbox"]
