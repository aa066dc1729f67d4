"""The service in this process, with the stand-ins of the other providers and real callbacks."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ledgers import migrated_file
from waiting import until
from werkzeug.serving import make_server

from receiver.ledger.jobs import expedite_job
from receiver.ledger.rows import Asset, DeliveryEntry, Job
from receiver.model import FINAL_STATES, Api, JobState, Mode, Provider, Submission
from receiver.providers import keyring
from receiver.services import Services
from receiver.settings import Settings
from receiver.web import create_app
from submitter.sandbox import Sandbox

OTHERS = (Provider.FAL, Provider.REPLICATE, Provider.BFL, Provider.KIE)
SIGNING = OTHERS[:3]  # whose signatures cover the body
MODELS = {
    Provider.FAL: "fal-ai/flux/dev",
    Provider.REPLICATE: "black-forest-labs/flux-schnell",
    Provider.BFL: "flux-2-pro",
    Provider.KIE: "google/nano-banana",
}


class Harness:
    """Services whose callbacks arrive at a real port; ``work`` does what a worker would do."""

    def __init__(self, folder: Path, sandbox: Sandbox, port: "Port", **environ: str) -> None:
        self.sandbox = sandbox
        self.port = port
        self.folder = folder
        self.environ = {
            "DATA_DIR": str(folder / "data"),
            "GRSAI_API_KEY": "any",
            "GRSAI_BASE_URL": sandbox.url,
            "FETCH_ALLOW": f"127.0.0.1:{sandbox.port}",
            "PUBLIC_URL": f"http://127.0.0.1:{port.number}",
            "POLL_AFTER": "3",  # so that a callback comes first
            "POLL_INTERVAL": "0.3",
            **sandbox.stand_ins.environ("any"),
            **environ,
        }
        migrated_file(folder / "data" / "ledger.sqlite3")
        self.services = self._opened()
        self.scratch = folder / "scratch"
        self.scratch.mkdir(exist_ok=True)

    def _opened(self) -> Services:
        given = {name: value for name, value in self.environ.items() if value}
        services = Services(Settings.load(given)).open()
        self.port.serve(services)
        return services

    def restart(self, **environ: str) -> None:
        """Close the service and open it again, with these settings changed ("": unset)."""
        self.port.serve(None)
        self.close()
        self.environ |= environ
        self.services = self._opened()

    def close(self) -> None:
        """Close the service, when its fetches are over."""
        for thread in threading.enumerate():
            if thread.name.startswith("keys of"):
                thread.join(20)
        self.services.close()

    def submit(
        self, provider: Provider, script: Mapping[str, Any] | None = None, **more: Any
    ) -> Job:
        """Post a job with this script of faults."""
        return self.post(provider, Mode.WEBHOOK, **(script or {}), **more)

    def post(self, provider: Provider, mode: Mode, **script: Any) -> Job:
        """Post a job in this mode with this script of faults."""
        params: dict[str, object] = {"sandbox": {"delay": 0, **script}}
        if provider is not Provider.KIE:
            params |= {"width": 64, "height": 48}
        submission = Submission("a fox", MODELS[provider], params, mode, provider, Api.QUEUE)
        return self.services.submit_service.post(submission, back_off=())

    def work(self) -> None:
        """Do once what is due."""
        archiver = self.services.archiver(self.scratch)
        for asset in self.services.assets.claim(100):
            archiver.archive(asset)
        for job in self.services.jobs.claim(100):
            self.services.reconciler.reconcile_job(job)

    def finished(self, ref: str) -> Job:
        """Work until a job is final and every callback was sent; return it."""

        def is_over() -> bool:
            self.work()
            job, is_reported = self.job(ref), not self._to_send(ref)
            if job.state is JobState.WAITING and is_reported:
                self._expedite(job)
            return job.state in FINAL_STATES and is_reported

        until(is_over, what=f"the end of {ref}")
        return self.job(ref)

    def _expedite(self, job: Job) -> None:
        """Poll a job now that no callback will come for, instead of after POLL_AFTER."""
        if self.sandbox.task(job.provider_id or "")["status"] != "running":
            now = self.services.now()
            self.services.database.write(lambda open_: expedite_job(open_, job.ref, now))

    def _to_send(self, ref: str) -> int:
        provider_id = self.job(ref).provider_id
        return int(self.sandbox.task(provider_id)["callbacks_due"]) if provider_id else 0

    def job(self, ref: str) -> Job:
        """Return a job."""
        return self.services.jobs.get(ref)

    def assets(self, ref: str) -> list[Asset]:
        """Return the assets of a job."""
        return self.services.queries.assets([ref])[ref]

    def deliveries(self, ref: str) -> list[DeliveryEntry]:
        """Return the deliveries of a job."""
        return self.services.queries.delivery_log(ref)

    def sources_and_proofs(self, ref: str) -> list[tuple[str, str | None]]:
        """Return source and proof of each delivery."""
        return [(row.source, row.proof) for row in self.deliveries(ref)]

    def is_safe_once(self, ref: str) -> bool:
        """Return whether exactly the files that the provider made are archived, posted once."""
        task = self.sandbox.task(self.job(ref).provider_id or "")
        made = [file["sha256"] for file in task["files"]]
        kept = [asset.sha256 for asset in self.assets(ref)]
        return made == kept and task["submits"] == 1


class Port:
    """A port at which the application of a harness is served, or is unavailable."""

    def __init__(self) -> None:
        self._application: Callable[..., Any] | None = None
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.number = self._server.server_port

    def serve(self, services: Services | None) -> None:
        """Serve this application from now on; None: answer 503, as a proxy does."""
        self._application = create_app(services) if services else None

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if self._application is None:
            start_response("503 Service Unavailable", [("Content-Length", "0")])
            return [b""]
        return self._application(environ, start_response)

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def patient_keyrings() -> Iterator[None]:
    """Let callbacks wait for keys as long as a busy machine may take to fetch them."""
    before, keyring.FIRST_FETCH_WAIT = keyring.FIRST_FETCH_WAIT, 20.0
    try:
        yield
    finally:
        keyring.FIRST_FETCH_WAIT = before


@contextmanager
def running(folder: Path, **environ: str) -> Iterator[Harness]:
    """Yield a harness with its sandbox, served at a port of its own."""
    with closing(Port()) as port, Sandbox(looks=1) as sandbox, patient_keyrings():
        harness = Harness(folder, sandbox, port, **environ)
        try:
            yield harness
        finally:
            harness.close()
