"""Posts image jobs and waits for their pictures: ``from submitter import Submitter``."""

from submitter.submit import Submitter

__all__ = ["Submitter"]
