"""What the service reports about itself: logs, metrics, traces; and how secrets are kept out."""
