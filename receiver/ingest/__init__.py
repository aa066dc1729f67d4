"""Reports about jobs: signed callback URLs, and the single entry point for every report."""
