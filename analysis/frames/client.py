"""Any MLflow store through MLflow's own client: a server, a database, another version's file.

The parts that losslab attaches to the study run hold all trainings but the latest, so few runs are
searched for and hardly any metric history is asked for. Runs without a part, written by older
versions, cost a call for every metric of every run, once.
"""

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from losslab.analysis.frames.cache import Cache, write_file
from losslab.analysis.frames.mirrored import Mirrored, Point, is_curve
from losslab.analysis.frames.runs import Run
from losslab.errors import BadInput
from losslab.experiments.run_parts import PART_TAG, FiledRun, part_file, unpack
from losslab.experiments.tracking_client import quiet_mlflow

_THREADS = 8
_PAGE = 1000
_FILED = "filed"  # the stamp of what never changes again


class ClientSource:
    """One experiment of a store that is asked through MLflow's client."""

    def __init__(self, uri: str, name: str):
        quiet_mlflow()
        from mlflow import MlflowClient

        self.uri = uri
        self.client = self._ask(MlflowClient, uri)
        found = self._ask(self.client.get_experiment_by_name, name)
        if found is None:
            raise BadInput(f"there is no experiment {name!r} at {uri}")
        self.experiment_id = str(found.experiment_id)

    def read(self, kept: Cache) -> tuple[list[Mirrored], list[Run]]:
        """The newest study's run, its arms' runs, newest first, and all its trainings."""
        heads = self._search("tags.`losslab.phase` = 'study'", most=1)
        if not heads:
            return [], []
        head, study = heads[0], heads[0].tags.get("losslab.study_id")
        mine = f"tags.`losslab.study_id` = '{study}'" if study else ""
        listed = self._unfiled(mine) if study and PART_TAG in head.tags else None
        if listed is None:
            entries = [e for e in self._search(mine) if e.tags.get("losslab.study_id") == study]
            runs = self._trainings([e for e in entries if e.is_training], kept)
        else:
            entries, deleted = listed, {e.id for e in self._search(mine, deleted=True)}
            runs = self._trainings([e for e in entries if e.is_training], kept)
            runs += [run for run in self._parts(head, mine, kept) if run.id not in deleted]
        arms = [entry for entry in entries if entry.tags.get("losslab.phase") == "arm"]
        return [head, *arms], runs

    def artifact(self, entry: Mirrored, name: str) -> bytes | None:
        """The content of a file of a run; None if it is not there."""
        return self._download(entry.id, name)

    def outputs(self, run_id: str, name: str, kept: Cache) -> Path | None:
        """A file of a run, by the run's id; it is kept where there is a cache."""
        file = kept.file(f"{run_id}-{name}")
        if file is not None and file.is_file():
            return file
        content = self._download(run_id, name)
        if content is None:
            return None
        file = file or Path(tempfile.mkdtemp(prefix="losslab-")) / name
        write_file(file, content)
        return file

    def _unfiled(self, mine: str) -> list[Mirrored] | None:
        """The runs that no part holds; None where the server is too old to be asked."""
        from mlflow.exceptions import MlflowException

        try:
            return self._search(f"{mine} AND tags.`{PART_TAG}` IS NULL")
        except BadInput as error:
            cause = error.__cause__
            if isinstance(cause, MlflowException) and cause.error_code == "INVALID_PARAMETER_VALUE":
                return None
            raise

    def _parts(self, head: Mirrored, mine: str, kept: Cache) -> list[Run]:
        """The trainings of all parts; the last one is written to and has no file yet."""
        current = int(head.tags[PART_TAG])
        numbers = range(1, current + 1)
        markers = {
            number: kept.find(f"{head.id}/{part_file(number)}", _FILED) for number in numbers
        }
        runs: list[Run] = []
        missing = []
        for number, marker in markers.items():
            own = [kept.find(run_id, _FILED) for run_id in marker.record["runs"]] if marker else []
            if marker and None not in own:
                runs += [run for run in own if run is not None]
            else:
                missing.append(number)
        with_file = self._files(head, "parts") if any(n < current for n in missing) else set()

        def read(number: int) -> list[FiledRun] | None:
            name = part_file(number)
            content = self._download(head.id, name) if name in with_file else None
            try:
                return None if content is None else unpack(content)
            except ValueError:  # damaged
                return None

        with ThreadPoolExecutor(_THREADS) as pool:
            filed = dict(zip(missing, pool.map(read, missing), strict=True))
        for number in missing:
            runs += self._part(head, mine, number, number < current, filed[number], kept)
        return runs

    def _part(
        self, head: Mirrored, mine: str, number: int, closed: bool,
        filed: Sequence[FiledRun] | None, kept: Cache,
    ) -> list[Run]:  # fmt: skip
        """The trainings of one part, from its file or from its runs."""
        if filed is not None:
            runs = [Run(run.run_id, _FILED, run.record, run.history) for run in filed]
        else:
            entries = self._search(f"{mine} AND tags.`{PART_TAG}` = '{number}'")
            entries = [entry for entry in entries if entry.is_training]
            runs = self._trainings(entries, kept)
            closed = closed and not any(entry.is_open for entry in entries)
        if closed:
            runs = [Run(run.id, _FILED, run.record, run.history) for run in runs]
            for run in runs:
                kept.add(run)
            about = {"runs": [run.id for run in runs]}
            kept.add(Run(f"{head.id}/{part_file(number)}", _FILED, about))
        return runs

    def _trainings(self, entries: Sequence[Mirrored], kept: Cache) -> list[Run]:
        """Trainings from their runs, with a call for every metric of those that are not kept."""
        known = [(e, None if e.is_open else kept.find(e.id, e.stamp)) for e in entries]
        missing = [entry for entry, run in known if run is None]
        asked = [(e.id, name) for e in missing for name in sorted(e.metrics) if is_curve(name)]
        with ThreadPoolExecutor(_THREADS) as pool:
            histories = list(pool.map(lambda what: self._points(*what), asked))
        points: dict[str, list[Point]] = {
            e.id: [(n, 0, 0, value) for n, value in e.metrics.items() if not is_curve(n)]
            for e in missing
        }
        for (run_id, _), history in zip(asked, histories, strict=True):
            points[run_id].extend(history)
        read = {entry.id: entry.training(points[entry.id]) for entry in missing}
        for entry in missing:
            if not entry.is_open:
                kept.add(read[entry.id])
        return [run or read[entry.id] for entry, run in known]

    def _points(self, run_id: str, metric: str) -> list[Point]:
        history = self._ask(self.client.get_metric_history, run_id, metric)
        return [(metric, point.step, point.timestamp, point.value) for point in history]

    def _search(
        self, filter_string: str, *, most: int | None = None, deleted: bool = False
    ) -> list[Mirrored]:
        """Runs, newest first."""
        from mlflow.entities import ViewType

        view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
        found: list[Mirrored] = []
        token = None
        while True:
            page = self._ask(
                self.client.search_runs, [self.experiment_id], filter_string, run_view_type=view,
                max_results=most or _PAGE, page_token=token,
                order_by=["attributes.start_time DESC"],
            )  # fmt: skip
            found += [_mirrored(run) for run in page]
            if most or not (token := page.token):
                return found

    def _files(self, entry: Mirrored, folder: str) -> set[str]:
        return {file.path for file in self._ask(self.client.list_artifacts, entry.id, folder)}

    def _download(self, run_id: str, name: str) -> bytes | None:
        from mlflow.exceptions import MlflowException

        with tempfile.TemporaryDirectory(prefix="losslab-") as place:
            try:
                return Path(self.client.download_artifacts(run_id, name, place)).read_bytes()
            except (MlflowException, OSError):
                return None

    def _ask(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return call(*arguments, **options)
        except (MlflowException, OSError) as error:
            first = (str(error).strip().splitlines() or [""])[0][:300]
            if "Max retries exceeded" in first:  # what urllib3 says of a server that is away
                first = "no server answers"
            raise BadInput(
                f"{self.uri} cannot be read: {first}; is the address right, and are you allowed to?"
            ) from error


def _mirrored(run: Any) -> Mirrored:
    info = run.info
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("losslab.")}
    return Mirrored(
        info.run_id, info.status, info.start_time or 0, info.end_time, info.artifact_uri or "",
        tags, dict(run.data.metrics),
    )  # fmt: skip
