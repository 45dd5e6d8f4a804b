# The gateway as an image. CI has no container engine: this file is built by its users.
#
#   docker build -t qcs-gateway .
#   docker run -p 127.0.0.1:8080:8080 -v qcs-gateway:/srv/qcs-gateway/var qcs-gateway
#
# Jobs run inside the same container. Their sandbox needs user namespaces, which an engine's
# default profile forbids: `--security-opt seccomp=unconfined`, or a profile that allows `clone`
# and `mount`. The log line `executor_connected` tells which isolation is in force.
FROM python:3.13-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends bubblewrap \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --create-home --home-dir /srv/qcs-gateway gateway
WORKDIR /srv/qcs-gateway
COPY --chown=gateway . .
USER gateway
RUN bash -c 'set -euo pipefail; source scripts/setup.sh; install_python runtime' \
    && mkdir var

VOLUME /srv/qcs-gateway/var
EXPOSE 8080 8081
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8081/readyz', timeout=2)"]
ENTRYPOINT ["scripts/serve", "--host", "0.0.0.0"]
