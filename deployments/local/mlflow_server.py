"""`python -m deployments.local.mlflow_server --database PATH --port N`: MLflow's tracking server in one process.

`mlflow server` keeps a parent with all of MLflow loaded (about 220 MB) beside the process that answers. It serves no artifacts:
steps write them under their own site, which is the only place they may rest.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def main() -> None:
    """Bring the database to the newest schema, then serve on the loopback address until told to stop."""
    parser = argparse.ArgumentParser(prog="mlflow_server")
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    from mlflow.server.constants import ARTIFACT_ROOT_ENV_VAR, BACKEND_STORE_URI_ENV_VAR, REGISTRY_STORE_URI_ENV_VAR

    store = f"sqlite:///{arguments.database}"
    # an experiment without a location of its own is a mistake: let it fail at a folder that cannot be made
    nowhere = "file:///dev/null/no-default-artifact-location"
    os.environ.update({BACKEND_STORE_URI_ENV_VAR: store, REGISTRY_STORE_URI_ENV_VAR: store, ARTIFACT_ROOT_ENV_VAR: nowhere})
    import uvicorn
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(store, store, nowhere)
    uvicorn.run("mlflow.server.fastapi_app:app", host="127.0.0.1", port=arguments.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
