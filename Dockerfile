# syntax=docker/dockerfile:1.7
# The image of the whole house: workers, the Prefect server and its services, `srpo deploy`. docker-compose.yml builds it;
# docs/operations.md tells how. TORCH=cpu leaves CUDA's 3 GB away:
#
#     docker build --build-arg TORCH=cpu --tag srpo:0.1.0 .

ARG PYTHON=3.11.13-slim-bookworm

FROM python:${PYTHON} AS build
ARG TORCH=cuda
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /opt/srpo
COPY pyproject.toml ./
# torch first, as in the Makefile: it is by far the largest layer, and changes least.
RUN case "$TORCH" in \
      cuda) pip install "torch>=2.8,<2.14" ;; \
      cpu) pip install "torch>=2.8,<2.14" --index-url https://download.pytorch.org/whl/cpu ;; \
      *) echo "TORCH is cuda or cpu, not '$TORCH'" >&2; exit 1 ;; \
    esac
# Dependencies before the source, so that a changed line of code does not install everything anew.
RUN mkdir flows srpo_core storage \
 && touch README.md LICENSE flows/__init__.py srpo_core/__init__.py storage/__init__.py \
 && pip install --editable ".[datasets,lora,server]"

FROM python:${PYTHON}
# Debian drops a package's old version when it fixes one: a pin would break the build with every security fix.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends bubblewrap tini \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 srpo \
 && useradd --uid 10001 --gid srpo --create-home srpo \
 && install --directory --owner srpo --group srpo /store /cache
COPY --from=build /opt/venv /opt/venv
WORKDIR /opt/srpo
# An editable install: `srpo deploy` applies prefect.yaml and the form names files of configs/, both beside the code.
COPY pyproject.toml prefect.yaml README.md LICENSE ./
COPY configs configs
COPY storage storage
COPY srpo_core srpo_core
COPY flows flows
# The worker's health is told to this container alone. Data sets and policies of the hub are kept in /cache.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DO_NOT_TRACK=1 \
    HF_HOME=/cache/huggingface \
    PREFECT_WORKER_WEBSERVER_HOST=127.0.0.1
USER 10001:10001
VOLUME ["/store", "/cache"]
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/health', timeout=5)"]
ENTRYPOINT ["tini", "--"]
CMD ["prefect", "worker", "start", "--pool", "cpu", "--type", "process", "--with-healthcheck"]
