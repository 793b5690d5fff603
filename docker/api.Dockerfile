# The front desk: API, pages and migrations. No TensorFlow in here.
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

FROM python:3.11-slim-bookworm
ENV PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY requirements/base.txt /tmp/requirements/
RUN pip install --no-cache-dir --require-hashes -r /tmp/requirements/base.txt
COPY --from=wheel /wheels /tmp/wheels
RUN pip install --no-cache-dir --no-deps --no-index /tmp/wheels/*.whl \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/liverseg liverseg \
 && install -d -m 0700 -o liverseg -g liverseg /var/lib/liverseg
ENV LIVERSEG_HOME=/var/lib/liverseg
WORKDIR /var/lib/liverseg
USER 10001:10001
EXPOSE 8421
CMD ["python", "-m", "api.serve", "--host", "0.0.0.0", "--port", "8421"]
