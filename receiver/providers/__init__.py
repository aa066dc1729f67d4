"""What each provider says on the wire, and how to talk to it."""
