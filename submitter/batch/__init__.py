"""``submitter batch``: many jobs from a file. Run again after a crash, it posts no job twice."""
