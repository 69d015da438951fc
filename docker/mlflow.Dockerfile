# An MLflow tracking server with its record in PostgreSQL and its artifacts in S3, at the versions of constraints.txt.
# It is told where by MLFLOW_BACKEND_STORE_URI, MLFLOW_ARTIFACTS_DESTINATION and AWS_*; see compose.yaml.

FROM python:3.11.14-slim-bookworm AS uv
RUN python -m pip install --no-cache-dir uv==0.13.9

FROM python:3.11.14-slim-bookworm
RUN groupadd --gid 10001 mlflow && useradd --uid 10001 --gid mlflow --create-home mlflow \
    && python -m venv --without-pip /opt/mlflow
RUN --mount=from=uv,source=/usr/local/bin/uv,target=/usr/local/bin/uv \
    --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=constraints.txt,target=/src/constraints.txt \
    uv pip install --python /opt/mlflow --link-mode copy --compile-bytecode --constraints /src/constraints.txt \
        mlflow "psycopg[binary]" boto3
# Without its job workers the server starts in a third of the time, and nothing here uses them.
ENV PATH=/opt/mlflow/bin:$PATH \
    MLFLOW_HOST=127.0.0.1 \
    MLFLOW_PORT=5000 \
    MLFLOW_SERVE_ARTIFACTS=true \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
    MLFLOW_DISABLE_TELEMETRY=true \
    DO_NOT_TRACK=true
WORKDIR /home/mlflow
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=10s --start-period=180s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"MLFLOW_PORT\"]}/health', timeout=5)"]
ENTRYPOINT ["mlflow", "server"]
