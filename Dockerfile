# Orch in a small image, not root. The two bases are build arguments, for where images come from elsewhere.
ARG BUILD_IMAGE=rust:1.95-bookworm
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /build
COPY . .
RUN cargo build --release --locked

FROM ${BASE_IMAGE}
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/orch orch
COPY --from=build /build/target/release/orch /usr/local/bin/orch
USER orch
WORKDIR /var/lib/orch
# Mount a volume here: a replica that starts again on it settles what the one before left.
ENV ORCH_STATE_DIR=/var/lib/orch/state
# Agents stand in /etc/orch/orch.toml; mount yours.
ENV ORCH_CONFIG=/etc/orch/orch.toml
# A container that is replaced takes its processes along: live runs get drain_grace, so stop with a longer one.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/orch"]
CMD ["up"]
