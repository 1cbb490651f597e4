# tag2mask on the CPU, from a clone: docker build -f docker/cpu.Dockerfile -t tag2mask:cpu .
# The full image has a compiler for the core; the slim one that is kept has none.
FROM python:3.12-bookworm AS build
WORKDIR /source
COPY pyproject.toml CMakeLists.txt README.md LICENSE ./
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim-bookworm
LABEL org.opencontainers.image.title="tag2mask" \
      org.opencontainers.image.description="Image-level tags in, pixel masks out" \
      org.opencontainers.image.licenses="Apache-2.0"
# torch and torchvision fit each other only in pairs; those of this index hold no CUDA, which is gigabytes less.
ARG TORCH=2.14.1
ARG TORCHVISION=0.29.1
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu \
    "torch==${TORCH}" "torchvision==${TORCHVISION}"
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir "tag2mask[onnx,smp,hf,heif,ui] @ file://$(echo /wheels/tag2mask-*.whl)" \
    && python -c "import tag2mask._core"
# Nobody in particular: --user "$(id -u):$(id -g)" of docker run gives what is written to whoever starts it. Caches need a home
# that anybody may write to, and torch a user name.
ENV HOME=/tmp \
    USER=tag2mask \
    PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["tag2mask"]
CMD ["--help"]
