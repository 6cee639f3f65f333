"""What processes that are forked for tests have loaded already: what launches, workers and their MLflow import.

Neither Ray nor MLflow themselves: they read the environment when they are loaded, and start threads. What they import
in turn does neither, and takes most of their time.
"""

from __future__ import annotations

TRAINING = ("torch._dynamo", "torchvision", "sklearn.datasets", "pandas", "pyarrow", "pydantic")
"""Of a worker."""

RAY = ("attr", "filelock", "fsspec", "jsonschema", "pyarrow.fs", "requests", "wcwidth")

MLFLOW = (
    "alembic.command",
    "cryptography.hazmat.primitives.serialization",
    "fastapi",
    "google.protobuf.descriptor_pb2",
    "google.protobuf.json_format",
    "opentelemetry.sdk.trace",
    "pygments.lexers",
    "sqlalchemy.dialects.sqlite",
    "sqlalchemy.orm",
    "sqlparse",
)

PAGES = ("fontTools.ttLib", "jinja2", "matplotlib.backends.backend_agg", "matplotlib.pyplot", "mpl_toolkits.axes_grid1")
"""Of figures and reports."""

LIBRARIES = (*TRAINING, *RAY, *MLFLOW, *PAGES)
