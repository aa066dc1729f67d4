"""The dialect of each provider. A new provider is a line here."""

from collections.abc import Mapping

from receiver.model import Provider
from receiver.providers.bfl.dialect import Bfl
from receiver.providers.dialect import Dialect, ReportDialect
from receiver.providers.fal.dialect import Fal
from receiver.providers.grsai.dialect import Grsai
from receiver.providers.kie.dialect import Kie
from receiver.providers.openai.dialect import OpenAI
from receiver.providers.replicate.dialect import Replicate

_TASKS: tuple[Dialect, ...] = (Grsai(), Fal(), Replicate(), Bfl(), Kie())

# Providers that take a task and report its end later.
DIALECTS: Mapping[Provider, Dialect] = {dialect.provider: dialect for dialect in _TASKS}
# All, with those whose answer is the result.
READERS: Mapping[Provider, ReportDialect] = {**DIALECTS, Provider.OPENAI: OpenAI()}
# A model of each provider, for the texts of errors.
EXAMPLES = {name: dialect.example for name, dialect in DIALECTS.items()}
# How long the URLs of a provider live that documents it, in seconds.
LIFETIMES: Mapping[str, float] = {
    name: dialect.url_lifetime
    for name, dialect in READERS.items()
    if dialect.url_lifetime is not None
}
