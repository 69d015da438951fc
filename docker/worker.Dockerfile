# What scores, trains and searches: the acsearch command with PyTorch, for CPUs or for CUDA.
#
#     docker build -f docker/worker.Dockerfile -t acsearch-worker:0.1.0-cpu .
#     docker build -f docker/worker.Dockerfile -t acsearch-worker:0.1.0-cuda --build-arg TORCH_INDEX= .
#
# Both have the same base: PyTorch's wheels bring CUDA's libraries along (on PyPI, the pinned one is built for CUDA 13),
# and NVIDIA's container toolkit puts the host's driver in. Packages are those of constraints.txt, so the images hold
# what the tests ran on. The base is pinned by its full version; add its digest (docker buildx imagetools inspect)
# where an image must never change beneath its tag.

FROM python:3.11.14-slim-bookworm AS uv
RUN python -m pip install --no-cache-dir uv==0.13.9

FROM uv AS wheel
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/root/.cache/uv uv build --wheel --out-dir /dist

FROM python:3.11.14-slim-bookworm
RUN groupadd --gid 10001 acsearch \
    && useradd --uid 10001 --gid acsearch --create-home acsearch \
    && install --directory --owner acsearch --group acsearch /home/acsearch/runs \
    && python -m venv --without-pip /opt/acsearch
# Only torch and torchvision come from this index, and without what they depend on: that comes from uv's own default, like
# the rest. Where it is empty, they come from there too.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
RUN --mount=from=uv,source=/usr/local/bin/uv,target=/usr/local/bin/uv \
    --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=pyproject.toml,target=pyproject.toml \
    --mount=type=bind,source=constraints.txt,target=constraints.txt \
    uv pip install --python /opt/acsearch --link-mode copy --compile-bytecode --constraints constraints.txt \
        --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision \
    && uv pip install --python /opt/acsearch --link-mode copy --compile-bytecode --constraints constraints.txt \
        --requirements pyproject.toml --extra cluster
# A layer of its own: gigabytes of dependencies need not be made again for a change of our code.
RUN --mount=from=uv,source=/usr/local/bin/uv,target=/usr/local/bin/uv --mount=from=wheel,source=/dist,target=/dist \
    uv pip install --python /opt/acsearch --no-cache --no-deps --compile-bytecode /dist/*.whl
ENV PATH=/opt/acsearch/bin:$PATH \
    ACSEARCH_HOME=/home/acsearch/runs \
    HF_HOME=/home/acsearch/runs/huggingface \
    MLFLOW_DISABLE_TELEMETRY=true \
    DO_NOT_TRACK=true
WORKDIR /home/acsearch
USER 10001:10001
# One command that ends, not a server: its exit status says how it went, and its leases say whether it lives.
HEALTHCHECK NONE
ENTRYPOINT ["acsearch"]
CMD ["--help"]
