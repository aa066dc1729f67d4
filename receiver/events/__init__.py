"""Events: state changes that are published to webhooks, SQS, SNS or the log."""
