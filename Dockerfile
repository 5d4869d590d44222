# Builds the binaries and ships nothing else. `linkerd2-proxy-init` calls iptables, which is not in this image: see docs/injection.md.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release --bin linkerd-proxy --bin linkerd-controller --bin linkerd --bin linkerd2-proxy-init --bin linkerd2-network-validator --bin linkerd-await

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/linkerd-proxy /src/target/release/linkerd-controller /src/target/release/linkerd /src/target/release/linkerd2-proxy-init /src/target/release/linkerd2-network-validator /src/target/release/linkerd-await /usr/lib/linkerd/
# No huge pages on hosts that give them to everybody: a sidecar is smaller than five of them.
ENV MIMALLOC_ALLOW_THP=0
USER 2102
ENTRYPOINT ["/usr/lib/linkerd/linkerd-proxy"]
