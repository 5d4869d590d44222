# One image for every container of the mesh: the sidecar, its init container, the control plane. It holds what tools/image.sh
# lists and has no shell. To build it use BuildKit, which keeps the capabilities of files when it copies them.
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends iptables libcap2-bin
WORKDIR /src
COPY . .
RUN cargo build --locked --release --bin linkerd-proxy --bin linkerd-controller --bin linkerd --bin linkerd2-proxy-init --bin linkerd2-network-validator --bin linkerd-await
RUN sh tools/image.sh target/release /src/image

FROM scratch
COPY --from=build /src/image/ /
# No huge pages on hosts that give them to everybody: a sidecar is smaller than five of them.
ENV PATH=/usr/sbin:/usr/bin:/bin MIMALLOC_ALLOW_THP=0
USER 2102
ENTRYPOINT ["/usr/lib/linkerd/linkerd-proxy"]
