"""Posts image jobs and waits for their pictures: ``from submitter import Submitter``."""

from submitter.job import Asset, Job
from submitter.submit import Submitter
from submitter.submit_async import AsyncSubmitter

__all__ = ["Asset", "AsyncSubmitter", "Job", "Submitter"]
