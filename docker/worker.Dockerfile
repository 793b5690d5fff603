# The workshop: `--target cpu` (the default) or `--target gpu`, which brings CUDA with it and needs only the driver.
FROM python:3.11-slim-bookworm AS wheel
WORKDIR /build
COPY requirements/build.txt requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY liverseg_core liverseg_core
COPY migrations migrations
COPY store store
COPY worker worker
COPY api api
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

FROM python:3.11-slim-bookworm AS base
ENV KERAS_HOME=/tmp/keras \
    LIVERSEG_HOME=/var/lib/liverseg \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TF_CPP_MIN_LOG_LEVEL=2
# The uid is the API's: both share the folder.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/liverseg liverseg \
 && install -d -m 0700 -o liverseg -g liverseg /var/lib/liverseg

FROM base AS gpu
COPY requirements/gpu.txt /tmp/requirements/
RUN pip install --no-cache-dir --require-hashes -r /tmp/requirements/gpu.txt
COPY --from=wheel /wheels /tmp/wheels
RUN pip install --no-cache-dir --no-deps --no-index /tmp/wheels/*.whl
WORKDIR /var/lib/liverseg
USER 10001:10001
CMD ["liverseg-worker", "start"]

FROM base AS cpu
COPY requirements/worker.txt /tmp/requirements/
RUN pip install --no-cache-dir --require-hashes -r /tmp/requirements/worker.txt
COPY --from=wheel /wheels /tmp/wheels
RUN pip install --no-cache-dir --no-deps --no-index /tmp/wheels/*.whl
WORKDIR /var/lib/liverseg
USER 10001:10001
CMD ["liverseg-worker", "start"]
