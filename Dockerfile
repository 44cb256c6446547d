# One image for every component, chosen by `command:` (python -m mica_operator, mica_extender, mica_device_plugin, mica_router).
#
# BASE is any image with python3 (3.11 or newer), its venv module and CA certificates, on glibc. Run `make shim kernel` first.
# Behind a proxy with its own CA, mount the host's bundle over /etc/ssl/certs/ca-certificates.crt and pass SSL_CERT_FILE.
ARG BASE
FROM ${BASE} AS deps
ARG UV_VERSION
ARG SSL_CERT_FILE
ARG PIP_CERT
ARG PIP_INDEX_URL
ARG UV_DEFAULT_INDEX
COPY hack/requirements/runtime.lock /tmp/runtime.lock
RUN python3 -m venv /tmp/tools && /tmp/tools/bin/pip install -q --no-cache-dir uv==${UV_VERSION} \
 && python3 -m venv --without-pip /opt/venv \
 && /tmp/tools/bin/uv pip install -q --no-cache --python /opt/venv/bin/python3 --require-hashes -r /tmp/runtime.lock \
 # Times in layers are normalised, which would make time-stamped .pyc files worthless; these carry hashes nobody checks.
 && python3 -m compileall -q -j0 --invalidation-mode unchecked-hash /opt/venv/lib

FROM ${BASE} AS runtime
COPY --from=deps /opt/venv /opt/venv
# A name for our user: some libraries look themselves up.
RUN echo 'mica:x:65532:65532::/nonexistent:/usr/sbin/nologin' >> /etc/passwd && echo 'mica:x:65532:' >> /etc/group
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/opt/mica/src PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532

FROM runtime
COPY api/src/ operator/src/ extender/src/ device_plugin/src/ router/src/ cli/src/ /opt/mica/src/
# What the node agent installs on its node: the limiter and the monitor, and the simulated driver; and the arbiter, which runs from here.
COPY build/shim/libmica.so build/shim/libmica-nvml.so build/shim/gpu-monitor /opt/mica/lib/
COPY build/shim/mica-arbiter /opt/mica/bin/
COPY build/shim/sim/libcuda.so.1 build/shim/sim/libnvidia-ml.so.1 /opt/mica/sim/
