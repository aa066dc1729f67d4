"""How many examples a generated test runs whose examples cost milliseconds each."""

from hypothesis import HealthCheck, settings


def examples(number: int) -> settings:
    """Return settings for ``number`` examples in ``make test``, and more in other profiles."""
    times = {"thorough": 3, "search": 20}.get(settings.get_current_profile_name(), 1)
    return settings(
        max_examples=number * times,
        deadline=None,  # the machine may be busy
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
