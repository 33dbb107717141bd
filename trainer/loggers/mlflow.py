"""MLflow: a run named as the folder, at MLFLOW_TRACKING_URI, in the experiment MLFLOW_EXPERIMENT_NAME (backdrop).

RUN/mlflow.txt keeps its id, so that a run that goes on is the same one there.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backdrop.errors import UserError

ID_FILE = "mlflow.txt"
# What its API takes at once.
_MAX_PARAMS = 100
_MAX_PARAM_LENGTH = 500


def open(folder: Path, settings: Mapping[str, Any], first_step: int) -> "_Mlflow":
    """Start or continue the run. Raises: UserError: the package is missing, or the server does not answer."""
    try:
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise UserError("--log mlflow needs the package mlflow: pip install 'backdrop-ssl[mlflow]'") from error
    try:
        client = MlflowClient()
        kept = folder / ID_FILE
        if not kept.exists():
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "backdrop")
            experiment = client.get_experiment_by_name(name)
            number = client.create_experiment(name) if experiment is None else experiment.experiment_id
            run_id = client.create_run(number, run_name=folder.name).info.run_id
            params = [Param(path, str(value)[:_MAX_PARAM_LENGTH]) for path, value in settings.items()]
            for start in range(0, len(params), _MAX_PARAMS):
                client.log_batch(run_id, params=params[start : start + _MAX_PARAMS])
            kept.write_text(run_id)
        return _Mlflow(client, kept.read_text().strip(), Metric)
    except MlflowException as error:
        raise UserError(f"mlflow starts no run: {error}. Look at MLFLOW_TRACKING_URI") from error


class _Mlflow:
    def __init__(self, client: Any, run_id: str, metric: Any) -> None:
        self._client, self._run_id, self._metric = client, run_id, metric

    def log(self, step: int, values: Mapping[str, float], unix_time: float) -> None:
        """Add the numbers, all in one request."""
        milliseconds = int(unix_time * 1000)
        metrics = [self._metric(name, value, milliseconds, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self) -> None:
        """Say that nothing more comes for now."""
        self._client.set_terminated(self._run_id)
