# A link between two tiers as an image:  docker build -f deploy/link.Dockerfile -t offramp-link .
#
# As the tiers' Dockerfiles, which say why each step is there; it has no port or setting of its
# own: `docker-compose.yml` names profile, addresses and engine.

ARG BASE=python:3.11-slim-bookworm

# --- build: a virtual environment with the wheel and what it depends on -----------------------------------------
FROM ${BASE} AS build
WORKDIR /source
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1 PIP_ROOT_USER_ACTION=ignore
ENV PIP_CONFIG_FILE=/run/secrets/pip_conf
RUN python3 -m venv --without-pip /opt/offramp

COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip_conf --mount=type=secret,id=ca \
    python3 -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
      print(*p['dependencies'], *p['optional-dependencies']['links'], sep='\n')" > /tmp/dependencies.txt \
 && python3 -m pip --python /opt/offramp/bin/python install --only-binary :all: \
      --constraint constraints.txt -r /tmp/dependencies.txt

COPY . .
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip_conf --mount=type=secret,id=ca \
    python3 -m pip wheel --no-deps --wheel-dir /tmp/wheel . \
 && python3 -m pip --python /opt/offramp/bin/python install --no-deps /tmp/wheel/*.whl
RUN cd /opt/offramp/lib/python3*/site-packages \
 && find . -type d -name tests -prune -exec rm -rf {} + \
 && rm -rf onnxruntime/transformers onnxruntime/quantization onnxruntime/tools \
 && /opt/offramp/bin/python -m compileall -q --invalidation-mode unchecked-hash .

# --- the image: the base without its pip, and the environment ---------------------------------------------------
FROM ${BASE}
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/ensurepip \
      /usr/bin/pip* /usr/lib/python3/dist-packages/pip* /usr/lib/python3*/ensurepip /usr/share/python-wheels \
 && ! python3 -m pip --version 2>/dev/null \
 && ! python3 -m ensurepip --version 2>/dev/null
COPY --from=build /opt/offramp /opt/offramp
ENV PATH=/opt/offramp/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
STOPSIGNAL SIGTERM
LABEL org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.title="offramp-link" \
      org.opencontainers.image.description="A link between two tiers of offramp, emulated: delay, rate, loss and outages of a profile"
EXPOSE 9104
ENTRYPOINT ["offramp", "link", "run"]
