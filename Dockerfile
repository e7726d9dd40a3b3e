# Two images, for the jobs and for the MLflow server:
#   docker build --target train  --tag florence:0.1.0 .
#   docker build --target mlflow --tag florence-mlflow:0.1.0 .
# A release pins the base by digest: --build-arg PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV UV_LINK_MODE=copy \
    # The root file system is read-only later: Python could not write its bytecode then.
    UV_COMPILE_BYTECODE=1 \
    VIRTUAL_ENV=/opt/florence \
    PATH=/opt/florence/bin:$PATH
RUN pip install --no-cache-dir uv==0.13.9 && uv venv /opt/florence
WORKDIR /src
COPY constraints.txt pyproject.toml ./

FROM build AS build-train
RUN uv pip install --no-cache --constraints constraints.txt \
    --requirements pyproject.toml --extra train

# Apart from its packages: a change to the code is a layer of kilobytes, not one of 6 GB.
FROM build-train AS build-project
COPY README.md ./
COPY florence florence
RUN uv pip install --no-cache --no-deps --target /opt/project .

FROM build AS build-mlflow
COPY mlruns_config/requirements.txt ./
RUN uv pip install --no-cache --constraints constraints.txt \
    mlflow boto3 --requirements requirements.txt

FROM ${PYTHON_IMAGE} AS runtime
RUN apt-get update && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --user-group --no-create-home --home-dir /tmp florence
ENV PATH=/opt/florence/bin:$PATH \
    # The only place to write is a volume at /tmp: caches of torch, triton and matplotlib too.
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DO_NOT_TRACK=true
# Signals go to the process group: torchrun and its ranks, uvicorn and its workers.
ENTRYPOINT ["tini", "-g", "--"]

FROM runtime AS mlflow
COPY --from=build-mlflow /opt/florence /opt/florence
USER 1000:1000
EXPOSE 5000
CMD ["mlflow", "server", "--app-name", "basic-auth"]

FROM runtime AS train
# g++: triton and torch.compile build kernels while they run. libibverbs: without it NCCL takes
# TCP instead of InfiniBand, and says so only at NCCL_DEBUG=INFO.
RUN apt-get update && apt-get install --yes --no-install-recommends \
    g++ ibverbs-providers libibverbs1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build-train /opt/florence /opt/florence
COPY --from=build-project /opt/project /opt/project
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONPATH=/opt/project \
    PATH=/opt/project/bin:$PATH
# runs/ and data/ of a job file are relative to this; claims are mounted there.
WORKDIR /workspace
USER 1000:1000
CMD ["florence", "--help"]
