# The image holds the relay, its pinned packages and nothing else. Build it in a checkout: docker build -t itscope-relay .

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/itscope-relay
COPY requirements.lock ./
RUN /opt/itscope-relay/bin/pip install --require-hashes -r requirements.lock
COPY requirements-build.lock ./
RUN pip install --require-hashes -r requirements-build.lock
COPY pyproject.toml README.md ./
COPY relay ./relay
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/itscope-relay/bin/pip install --no-deps /wheels/*.whl \
 && /opt/itscope-relay/bin/itscope-relay --version

FROM python:3.13-slim
# Nothing is written but the database, so the root file system may be read-only.
ENV PATH=/opt/itscope-relay/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
COPY --from=build /opt/itscope-relay /opt/itscope-relay
RUN install -d -o 10001 -g 10001 -m 0700 /var/lib/itscope-relay
USER 10001:10001
WORKDIR /var/lib/itscope-relay
VOLUME /var/lib/itscope-relay
EXPOSE 8080
STOPSIGNAL SIGTERM
# Asks the admin listener at its default port, past any proxy; override it if admin.listen has another port.
HEALTHCHECK --interval=15s --timeout=3s --start-period=10s CMD ["python", "-c", "from urllib.request import ProxyHandler, build_opener as opener; opener(ProxyHandler({})).open('http://127.0.0.1:8081/-/healthy', timeout=2)"]
ENTRYPOINT ["itscope-relay"]
CMD ["serve", "-c", "/etc/itscope-relay/config.yaml"]
