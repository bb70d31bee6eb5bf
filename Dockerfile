# The lake, without networks: docker build -t qmri-lake . && docker run --rm qmri-lake --help
# With networks on the CPU: docker build --build-arg EXTRAS=[segmentation,diagnosis,view] -t qmri-lake .
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY qmri_lake ./qmri_lake
ARG EXTRAS=""
RUN python -m venv /opt/qmri-lake \
    && /opt/qmri-lake/bin/pip install --no-cache-dir ".${EXTRAS}"

FROM python:3.12-slim
COPY --from=build /opt/qmri-lake /opt/qmri-lake
RUN useradd --create-home lake
USER lake
WORKDIR /data
ENTRYPOINT ["/opt/qmri-lake/bin/qmri-lake"]
CMD ["--help"]
