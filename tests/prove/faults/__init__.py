"""Every fault, the most important first: a short run plays only the first ones."""

from tests.prove.fault import Fault
from tests.prove.faults.archives import ARCHIVES
from tests.prove.faults.crashes import CRASHES
from tests.prove.faults.deliveries import BURST, DELIVERIES
from tests.prove.faults.ledgers import LEDGERS
from tests.prove.faults.sources import SOURCES

FAULTS: dict[str, Fault] = {
    fault.name: fault for fault in (*CRASHES, *ARCHIVES, *LEDGERS, *DELIVERIES, *SOURCES, BURST)
}
