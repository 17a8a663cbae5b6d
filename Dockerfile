# One image for all five processes; the command selects one: `python -m services.member`, …, `python -m gateway`.
FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /opt/quanyu
# Dependencies first, since they change less often than the sources.
COPY pyproject.toml ./
RUN python -c "import tomllib; print('\n'.join(tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']))" > requirements.txt \
    && /opt/quanyu/bin/pip install --no-cache-dir -r requirements.txt
COPY . .
RUN /opt/quanyu/bin/pip install --no-cache-dir --no-deps . \
    && /opt/quanyu/bin/python -m compileall -q /opt/quanyu/lib

FROM python:3.12-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin quanyu
COPY --from=build /opt/quanyu /opt/quanyu
ENV PATH=/opt/quanyu/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /tmp
CMD ["python", "-m", "gateway"]
