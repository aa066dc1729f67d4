"""Posts image jobs and waits for their pictures: ``from submitter import Submitter``."""

from submitter.job import Asset, Job
from submitter.submit import Submitter

__all__ = ["Asset", "Job", "Submitter"]
