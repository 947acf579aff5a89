# Orch in a small image, not root. Both bases are build arguments, for where images come from elsewhere; they must have the
# same C library.
#
#   docker build -t orch .
#   docker run --init --stop-timeout 90 -v orch:/var/lib/orch -v ./orch.toml:/etc/orch/orch.toml:ro -e DATABASE_URL=… orch
ARG BUILD_IMAGE=rust:1.95-bookworm
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /build
COPY . .
ENV CARGO_PROFILE_RELEASE_STRIP=debuginfo
RUN cargo build --release --locked

FROM ${BASE_IMAGE}
# Plain lines, since not every base has useradd. A new volume gets the owner of the directory that it is mounted on.
RUN echo 'orch:x:10001:10001:orch:/var/lib/orch:/bin/sh' >>/etc/passwd && echo 'orch:x:10001:' >>/etc/group && \
    mkdir -p /var/lib/orch /etc/orch/secret && chown 10001:10001 /var/lib/orch /etc/orch/secret
COPY --from=build /build/target/release/orch /usr/local/bin/orch
# By number: what must not be root can then be checked without this image's /etc/passwd.
USER 10001:10001
WORKDIR /var/lib/orch
# A volume for each replica: one that starts again on it settles what the one before left.
ENV ORCH_STATE_DIR=/var/lib/orch/state
# Agents stand in /etc/orch/orch.toml; mount yours. Programs that they run belong into an image made FROM this one.
ENV ORCH_CONFIG=/etc/orch/orch.toml
# A container that is replaced takes its processes along: live runs get drain_grace, so stop with more patience than
# drain_grace and kill_grace together. Run it with an init (docker run --init): orch waits for its own children alone.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/orch"]
CMD ["up"]
