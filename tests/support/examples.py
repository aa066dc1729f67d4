"""How many examples a generated test runs whose examples cost milliseconds each."""

from hypothesis import HealthCheck, settings


def examples(number: int) -> settings:
    """Return settings for ``number`` examples, and for 20 times as many in the profile "search"."""
    search = settings.get_current_profile_name() == "search"
    return settings(
        max_examples=number * (20 if search else 1),
        deadline=None,  # the machine may be busy
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
