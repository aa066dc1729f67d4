"""The names of the metrics that modules declare, as a scrape shows them."""

from types import ModuleType

from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase


def declared(*modules: ModuleType) -> list[str]:
    """Return the name of every metric of these modules."""
    return [
        f"{metric._name}_total" if isinstance(metric, Counter) else metric._name
        for module in modules
        for metric in vars(module).values()
        if isinstance(metric, MetricWrapperBase)
    ]
