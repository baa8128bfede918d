# `crossalign serve` in a container:
#   docker build --tag crossalign .
#   docker run --publish 7860:7860 --volume crossalign:/cache crossalign --labels-file /cache/labels.txt
# torch's default wheels for Linux bring CUDA. --build-arg PIP_EXTRA_INDEX_URL=ADDRESS with the address of torch's index of
# CPU wheels makes the image several gigabytes smaller. --build-arg EXTRAS=fast,llm,serve adds OpenVINO and what --model needs.
FROM python:3.12-slim AS build
ARG EXTRAS=serve
ARG PIP_EXTRA_INDEX_URL
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m venv /opt/crossalign \
    && /opt/crossalign/bin/python -m pip install --no-cache-dir ".[${EXTRAS}]"

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 crossalign \
    && install --directory --owner=crossalign --group=crossalign /cache
COPY --from=build /opt/crossalign /opt/crossalign
ENV PATH=/opt/crossalign/bin:$PATH \
    CROSSALIGN_CACHE=/cache \
    HF_HOME=/cache/hub \
    PYTHONUNBUFFERED=1
USER 10001
WORKDIR /home/crossalign
VOLUME /cache
EXPOSE 7860
# With --auth the answer is 401, which also shows that the server works.
HEALTHCHECK --interval=30s --timeout=5s --start-period=90s \
    CMD ["python", "-c", "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 7860, timeout=4); c.request('GET', '/v1/health'); sys.exit(c.getresponse().status not in (200, 401))"]
ENTRYPOINT ["crossalign", "serve", "--host", "0.0.0.0", "--port", "7860"]
