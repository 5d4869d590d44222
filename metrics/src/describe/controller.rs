//! Families of the control plane: what its sources, index and services expose.

use super::{Desc, Unit, families};

families! {
    CONTROLLER_TABLE:
    /// The number of resources in the index, by kind.
    CONTROLLER_RESOURCES = Desc::gauge("controller_resources").fixed(&[&["kind"]]);
    /// The number of documents of a manifest file that cannot be used.
    /// 0 when all are good; the last good version of each resource stays.
    CONTROLLER_MANIFEST_ERRORS = Desc::gauge("controller_manifest_errors").labels(&[&["file"]]);
    /// The number of times that the manifest directory was read.
    /// `result`: `ok`, `error`.
    CONTROLLER_MANIFEST_LOADS_TOTAL = Desc::counter("controller_manifest_loads_total").fixed(&[&["result"]]);
    /// The number of findings of the policy linter, by reason.
    /// `reason` is a closed set of the linter.
    CONTROLLER_LINT_FINDINGS = Desc::gauge("controller_lint_findings").fixed(&[&["reason"]]);
    /// Time when the index last changed, in seconds since 1970.
    CONTROLLER_INDEX_CHANGED_TIMESTAMP_SECONDS =
        Desc::gauge("controller_index_changed_timestamp_seconds").unit(Unit::Seconds);
    /// The number of open streams, by service and method.
    CONTROLLER_STREAMS = Desc::gauge("controller_streams").fixed(&[&["service", "method"]]);
    /// The number of times that a slow client of `Get` was spared older states of a Service's endpoints.
    /// It gets the newest state next; linkerd2's control plane closes such streams.
    ENDPOINT_UPDATES_QUEUE_OVERFLOW = Desc::counter("endpoint_updates_queue_overflow").peer().fixed(&[&["service"]]);
    /// The number of times that a slow client of `GetProfile` was spared older profiles of a Service.
    /// It gets the newest one next.
    PROFILE_UPDATES_QUEUE_OVERFLOW = Desc::counter("profile_updates_queue_overflow").peer().labels(&[&["fqn", "port"]]);
    /// The number of times that a slow client of `GetProfile` was spared older profiles of an address or instance.
    ENDPOINT_PROFILE_UPDATES_QUEUE_OVERFLOW = Desc::counter("endpoint_profile_updates_queue_overflow").peer();
    /// The number of times that an answer was made anew for an open stream, because something that it is made of changed.
    /// `sent` is whether that changed the answer.
    CONTROLLER_STREAM_UPDATES_TOTAL = Desc::counter("controller_stream_updates_total").fixed(&[&["service", "method", "sent"]]);
    /// The number of calls answered, by service, method and gRPC status.
    /// `grpc_status` is the number.
    CONTROLLER_CALLS_TOTAL = Desc::counter("controller_calls_total").fixed(&[&["service", "method", "grpc_status"]]);
    /// The number of certificates asked for.
    /// `result`: `ok`, `error`; `reason` says why, empty for `ok`.
    CONTROLLER_CERTIFICATES_TOTAL = Desc::counter("controller_certificates_total").fixed(&[&["result", "reason"]]);
    /// Time when the certificate of the issuer will expire, in seconds since 1970.
    CONTROLLER_ISSUER_EXPIRATION_TIMESTAMP_SECONDS =
        Desc::gauge("controller_issuer_expiration_timestamp_seconds").unit(Unit::Seconds);
    /// Time until the certificate of the issuer will expire, in seconds; below 0 when it has.
    ISSUER_CERT_TTL_SECONDS = Desc::gauge("issuer_cert_ttl_seconds").peer().unit(Unit::Seconds);
    /// Time when a trust anchor of the control plane will expire, in seconds since 1970.
    /// 0 for one that is in use no longer.
    CONTROLLER_TRUST_ANCHOR_EXPIRATION_TIMESTAMP_SECONDS =
        Desc::gauge("controller_trust_anchor_expiration_timestamp_seconds").fixed(&[&["anchor"]]).unit(Unit::Seconds);
    /// Time when the certificate of a webhook will expire, in seconds since 1970.
    /// `service` is what API servers call; a new one is made when two thirds of its life are over.
    CONTROLLER_WEBHOOK_CERTIFICATE_EXPIRATION_TIMESTAMP_SECONDS =
        Desc::gauge("controller_webhook_certificate_expiration_timestamp_seconds").fixed(&[&["service"]]).unit(Unit::Seconds);
    /// The number of times that the certificate of a webhook could not be put right.
    /// The log says why.
    CONTROLLER_WEBHOOK_CERTIFICATE_FAILURES_TOTAL = Desc::counter("controller_webhook_certificate_failures_total").fixed(&[&["service"]]);
    /// Whether this replica holds the lease that lets it write statuses.
    CONTROLLER_STATUS_LEASE_HELD = Desc::gauge("controller_status_lease_held");
    /// Whether this replica holds the lease that lets it write EndpointSlices of ExternalWorkloads.
    CONTROLLER_ENDPOINT_SLICE_LEASE_HELD = Desc::gauge("controller_endpoint_slice_lease_held");
    /// The number of EndpointSlices of ExternalWorkloads created, changed and deleted.
    /// `result`: `ok`, `error`; what the API server refuses is tried again within ten seconds.
    CONTROLLER_ENDPOINT_SLICE_WRITES_TOTAL = Desc::counter("controller_endpoint_slice_writes_total").fixed(&[&["result"]]);
    /// The number of statuses written.
    RESOURCE_STATUS_PATCHES_TOTAL = Desc::counter("resource_status_patches_total").peer();
    /// The number of statuses that the API server refused.
    /// An object that has changed meanwhile is refused and found again at once.
    RESOURCE_STATUS_PATCH_API_ERRORS_TOTAL = Desc::counter("resource_status_patch_api_errors_total").peer();
    /// The number of statuses that the API server did not take in time.
    RESOURCE_STATUS_PATCH_TIMEOUTS_TOTAL = Desc::counter("resource_status_patch_timeouts_total").peer();
    /// Time for the API server to answer.
    RESOURCE_STATUS_PATCH_DURATION_SECONDS =
        Desc::histogram("resource_status_patch_duration_seconds", &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0]).unit(Unit::Seconds).peer();
    /// The number of objects put into the queue of statuses to be written.
    RESOURCE_STATUS_PATCH_ENQUEUES_TOTAL = Desc::counter("resource_status_patch_enqueues_total").peer();
    /// The number of objects taken out of it.
    RESOURCE_STATUS_PATCH_DEQUEUES_TOTAL = Desc::counter("resource_status_patch_dequeues_total").peer();
    /// The number of statuses that were to be written when the lease was lost.
    RESOURCE_STATUS_PATCH_DROPS_TOTAL = Desc::counter("resource_status_patch_drops_total").peer();
    /// The number of times that the queue was full.
    /// What does not fit is found again within ten seconds.
    RESOURCE_STATUS_PATCH_ENQUEUE_OVERFLOWS_TOTAL = Desc::counter("resource_status_patch_enqueue_overflows_total").peer();
    /// The number of Pods and Services that the injector was asked about.
    /// A label `config_<name>` for each annotation `config.linkerd.io/<name>` that there is, which says where: `workload` or `namespace`.
    PROXY_INJECT_ADMISSION_REQUESTS_TOTAL = Desc::counter("proxy_inject_admission_requests_total").labels(&[INJECTED]).peer();
    /// The number of answers of the injector.
    /// `skip` is `false` where the answer has a patch; `skip_reason` says why there is no sidecar, as in `docs/injection.md`.
    PROXY_INJECT_ADMISSION_RESPONSES_TOTAL =
        Desc::counter("proxy_inject_admission_responses_total").labels(&[INJECTED, &["skip", "skip_reason"]]).peer();
    /// The number of MeshTLSAuthentications in the index, by namespace.
    INBOUND_INDEX_MESHTLS_AUTHENTICATION_INDEX_SIZE = size("inbound_index_meshtls_authentication_index_size");
    /// The number of NetworkAuthentications in the index, by namespace.
    INBOUND_INDEX_NETWORK_AUTHENTICATION_INDEX_SIZE = size("inbound_index_network_authentication_index_size");
    /// The number of Pods in the index, by namespace.
    INBOUND_INDEX_POD_INDEX_SIZE = size("inbound_index_pod_index_size");
    /// The number of ExternalWorkloads in the index, by namespace.
    INBOUND_INDEX_EXTERNAL_WORKLOAD_INDEX_SIZE = size("inbound_index_external_workload_index_size");
    /// The number of Servers in the index, by namespace.
    INBOUND_INDEX_SERVER_INDEX_SIZE = size("inbound_index_server_index_size");
    /// The number of ServerAuthorizations in the index, by namespace.
    INBOUND_INDEX_SERVER_AUTHORIZATION_INDEX_SIZE = size("inbound_index_server_authorization_index_size");
    /// The number of AuthorizationPolicies in the index, by namespace.
    INBOUND_INDEX_AUTHORIZATION_POLICY_INDEX_SIZE = size("inbound_index_authorization_policy_index_size");
    /// The number of routes that name a Server, by namespace.
    INBOUND_INDEX_HTTP_ROUTE_INDEX_SIZE = size("inbound_index_http_route_index_size");
    /// The number of virtual addresses of Services.
    OUTBOUND_INDEX_SERVICE_INDEX_SIZE = Desc::gauge("outbound_index_service_index_size").peer();
    /// The number of Services and EgressNetworks.
    OUTBOUND_INDEX_SERVICE_INFO_INDEX_SIZE = Desc::gauge("outbound_index_service_info_index_size").peer();
    /// The number of Services and EgressNetworks that routes of the namespace name without a port.
    OUTBOUND_INDEX_SERVICE_ROUTE_INDEX_SIZE = size("outbound_index_service_route_index_size");
    /// The number of ports of Services and EgressNetworks that routes of the namespace name.
    OUTBOUND_INDEX_SERVICE_PORT_ROUTE_INDEX_SIZE = size("outbound_index_service_port_route_index_size");
    /// The number of calls that were begun.
    GRPC_SERVER_STARTED_TOTAL = Desc::counter("grpc_server_started_total").peer().fixed(&[CALL]);
    /// The number of calls that were completed, whatever came of them.
    /// Those of a stream count when it ends.
    GRPC_SERVER_HANDLED_TOTAL = Desc::counter("grpc_server_handled_total").peer().fixed(&[CALL, &["grpc_code"]]);
    /// The number of messages that clients sent.
    GRPC_SERVER_MSG_RECEIVED_TOTAL = Desc::counter("grpc_server_msg_received_total").peer().fixed(&[CALL]);
    /// The number of messages sent to clients.
    GRPC_SERVER_MSG_SENT_TOTAL = Desc::counter("grpc_server_msg_sent_total").peer().fixed(&[CALL]);
    /// Time from a call's beginning to its end.
    GRPC_SERVER_HANDLING_SECONDS =
        Desc::histogram("grpc_server_handling_seconds", &[0.1, 1.0, 300.0, 3600.0]).unit(Unit::Seconds).peer().fixed(&[CALL]);
    /// The number of streams of a Service's endpoints.
    ENDPOINTS_SUBSCRIBERS = Desc::gauge("endpoints_subscribers").peer().labels(&[ENDPOINTS]);
    /// The number of times that the endpoints of a Service became others, for those who watch them.
    ENDPOINTS_UPDATES = Desc::counter("endpoints_updates").peer().labels(&[ENDPOINTS]);
    /// The number of endpoints of a Service.
    ENDPOINTS_PODS = Desc::gauge("endpoints_pods").peer().labels(&[ENDPOINTS]);
    /// Whether the Service exists.
    ENDPOINTS_EXISTS = Desc::gauge("endpoints_exists").peer().labels(&[ENDPOINTS]);
    /// The number of streams of a Service's profile.
    PROFILE_SUBSCRIBERS = Desc::gauge("profile_subscribers").peer().labels(&[&["namespace", "profile"]]);
    /// The number of profiles of a Service sent.
    PROFILE_UPDATES = Desc::counter("profile_updates").peer().labels(&[&["namespace", "profile"]]);
    /// The number of streams of a Service's profile, by the Service's name.
    SERVICE_SUBSCRIBERS = Desc::gauge("service_subscribers").peer().labels(&[&["namespace", "name"]]);
    /// The number of other clusters whose endpoints are known.
    CLUSTER_STORE_SIZE = Desc::gauge("cluster_store_size").peer();
    /// Time from a change of a Service until the control plane sees it.
    /// As the API server dates changes, to the second, by its own clock.
    SERVICES_INFORMER_LAG_SECONDS = lag("services_informer_lag_seconds");
    /// Time from a change of an EndpointSlice until the control plane sees it.
    ENDPOINTSLICES_INFORMER_LAG_SECONDS = lag("endpointslices_informer_lag_seconds");
    /// Time from a change of a Pod until the control plane sees it.
    PODS_INFORMER_LAG_SECONDS = lag("pods_informer_lag_seconds");
    /// Time from a change of an ExternalWorkload until the control plane sees it.
    EXTERNALWORKLOAD_INFORMER_LAG_SECONDS = lag("externalworkload_informer_lag_seconds");
    /// Time from a change of a Server until the control plane sees it.
    SERVERS_INFORMER_LAG_SECONDS = lag("servers_informer_lag_seconds");
    /// Time from a change of a ServiceProfile until the control plane sees it.
    SERVICEPROFILES_INFORMER_LAG_SECONDS = lag("serviceprofiles_informer_lag_seconds");
    /// The number of events that the API server was not told.
    /// There were too many at once, or it refused.
    CONTROLLER_EVENTS_LOST_TOTAL = Desc::counter("controller_events_lost_total");
}

/// From a change until it is seen.
const fn lag(name: &'static str) -> Desc {
    const BUCKETS: &[f64] = &[0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 1000.0];
    Desc::histogram(name, BUCKETS).unit(Unit::Seconds).peer()
}

/// What an object of the injector's is.
const INJECTED: &[&str] = &["owner_kind", "namespace", "annotation_at", "config_*"];

/// A call.
const CALL: &[&str] = &["grpc_service", "grpc_method", "grpc_type"];

/// Endpoints that somebody watches.
const ENDPOINTS: &[&str] = &[
    "cluster",
    "namespace",
    "service",
    "port",
    "hostname",
    "nodename",
];

/// The number of objects of a namespace.
const fn size(name: &'static str) -> Desc {
    Desc::gauge(name).peer().labels(&[&["namespace"]])
}
