# The command `jsjobs` with everything it needs, and nothing else:
#
#   docker build -t jsjobs .
#
# An application comes in by an image of its own,
#
#   FROM jsjobs
#   USER root
#   RUN pip install --no-cache-dir httpx
#   USER 10001:10001
#   COPY app.py ./
#   CMD ["worker", "app.py:jobs"]
#
# or, for a try, by a volume: docker run -v ./app.py:/app/app.py:ro jsjobs worker app.py:jobs

FROM python:3.13-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
# All that comes from an index has the hash that it had when `just lock` wrote these files, the builder itself too.
COPY deploy/requirements.txt deploy/requirements-build.txt ./
RUN pip install --require-hashes -r requirements-build.txt
COPY pyproject.toml README.md LICENSE ./
COPY streams streams
COPY examples/files examples/files
COPY src src
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .
RUN python -m venv /opt/jsjobs \
    && /opt/jsjobs/bin/pip install --require-hashes -r requirements.txt \
    && /opt/jsjobs/bin/pip install --no-deps --no-index /wheels/jsjobs-*.whl

FROM python:3.13-slim
# A number, since Kubernetes cannot tell whether a name is root.
RUN groupadd --gid 10001 jsjobs && useradd --uid 10001 --gid 10001 --create-home jsjobs
COPY --from=build /opt/jsjobs /opt/jsjobs
ENV PATH=/opt/jsjobs/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    JSJOBS_HEALTH_PORT=8080
WORKDIR /app
USER 10001:10001
EXPOSE 8080
# Alive, not ready: some who read this start an unhealthy container anew, which brings no server back. It needs only python.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['JSJOBS_HEALTH_PORT'] + '/live', timeout=3)"]
# Without a shell in between, SIGTERM reaches jsjobs, which then lets running jobs end.
ENTRYPOINT ["jsjobs"]
CMD ["--help"]
