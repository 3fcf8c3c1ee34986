# syntax=docker/dockerfile:1

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/planrelay
WORKDIR /src
# For worker/csv_records.c; the image itself has no compiler.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
# What changes seldom comes first: the dependencies are a layer of their own.
COPY requirements-runtime.lock ./
RUN /opt/planrelay/bin/pip install --require-hashes --only-binary :all: -r requirements-runtime.lock
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY config config
COPY worker worker
COPY tasks tasks
COPY sandbox sandbox
RUN /opt/planrelay/bin/pip install --no-deps . && /opt/planrelay/bin/planrelay --help > /dev/null \
    && /opt/planrelay/bin/python -c 'from worker.csv_records import count_plain; raise SystemExit(count_plain is None)'

FROM python:3.13-slim
# Bytecode was written while building: nothing is written outside /srv/planrelay/var and /tmp, so the root may be read-only.
ENV PATH=/opt/planrelay/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /srv/planrelay --shell /usr/sbin/nologin planrelay \
    && install -d -o planrelay -g planrelay /srv/planrelay /srv/planrelay/var
COPY --from=build /opt/planrelay /opt/planrelay
# planrelay.toml is looked for here, or where PLANRELAY_CONFIG says; artifacts and an embedded Valkey go to var/.
WORKDIR /srv/planrelay
VOLUME /srv/planrelay/var
USER 10001:10001
# /metrics /healthz /readyz, once [worker] metrics_host is not loopback
EXPOSE 9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 9464, timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
# The worker is process 1: it gets SIGTERM itself, finishes what is in flight within its drain timeout and gives back the rest.
STOPSIGNAL SIGTERM
ENTRYPOINT ["planrelay"]
CMD ["worker"]
