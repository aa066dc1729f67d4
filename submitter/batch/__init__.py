"""``submitter batch``: many jobs from a file, each posted once however often the command is run."""
