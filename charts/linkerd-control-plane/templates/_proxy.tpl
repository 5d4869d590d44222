{{- /* The sidecar of a Pod of the control plane: what the injector adds to other Pods. A test compares the two. It is an
ordinary container, which waits for nobody: what it asks for is in the same Pod. The kubelet starts it when there are trust
anchors; their file is read again when it changes, so that new ones need no restart. Given: root, component, account, ports,
requireTLS. */ -}}
{{- define "linkerd.proxy" -}}
{{- $values := .root.Values -}}
{{- $proxy := $values.proxy -}}
{{- $namespace := .root.Release.Namespace -}}
{{- $domain := include "linkerd.trustDomain" .root -}}
{{- $identities := printf "serviceaccount.identity.%s.%s" $namespace $domain -}}
{{- $any := "0.0.0.0" -}}
{{- if not $values.disableIPv6 -}}
{{- $any = "[::]" -}}
{{- end -}}
- name: linkerd-proxy
  image: {{ $proxy.image.name }}:{{ $proxy.image.version | default (include "linkerd.version" .root) }}
  imagePullPolicy: {{ $proxy.image.pullPolicy | default $values.imagePullPolicy }}
  ports:
  - containerPort: {{ $proxy.ports.inbound | int }}
    name: linkerd-proxy
  - containerPort: {{ $proxy.ports.admin | int }}
    name: linkerd-admin
  livenessProbe:
    httpGet:
      path: /live
      port: {{ $proxy.ports.admin | int }}
    initialDelaySeconds: {{ $proxy.livenessProbe.initialDelaySeconds | int }}
    timeoutSeconds: {{ $proxy.livenessProbe.timeoutSeconds | int }}
  readinessProbe:
    httpGet:
      path: /ready
      port: {{ $proxy.ports.admin | int }}
    initialDelaySeconds: {{ $proxy.readinessProbe.initialDelaySeconds | int }}
    timeoutSeconds: {{ $proxy.readinessProbe.timeoutSeconds | int }}
  securityContext:
    allowPrivilegeEscalation: false
    capabilities:
      drop: [ALL]
    readOnlyRootFilesystem: true
    runAsNonRoot: true
    runAsUser: {{ $proxy.uid | int }}
    {{- if ge (int $proxy.gid) 0 }}
    runAsGroup: {{ $proxy.gid | int }}
    {{- end }}
    seccompProfile:
      type: RuntimeDefault
  terminationMessagePolicy: FallbackToLogsOnError
  volumeMounts:
  - name: linkerd-identity-end-entity
    mountPath: /var/run/linkerd/identity/end-entity
  {{- if $values.identity.serviceAccountTokenProjection }}
  - name: linkerd-identity-token
    mountPath: /var/run/secrets/tokens
  {{- end }}
  - name: trust-roots
    mountPath: /var/run/linkerd/identity/trust-roots
    readOnly: true
  {{- with include "linkerd.resources" .resources }}
  {{- . | nindent 2 }}
  {{- end }}
  env:
  - name: _pod_name
    valueFrom:
      fieldRef:
        fieldPath: metadata.name
  - name: _pod_ns
    valueFrom:
      fieldRef:
        fieldPath: metadata.namespace
  - name: _pod_uid
    valueFrom:
      fieldRef:
        fieldPath: metadata.uid
  - name: _pod_ip
    valueFrom:
      fieldRef:
        fieldPath: status.podIP
  - name: _pod_nodeName
    valueFrom:
      fieldRef:
        fieldPath: spec.nodeName
  - name: _pod_containerName
    value: linkerd-proxy
  - name: LINKERD2_PROXY_CORES
    value: {{ $proxy.runtime.workers.minimum | quote }}
  - name: LINKERD2_PROXY_CORES_MIN
    value: {{ $proxy.runtime.workers.minimum | quote }}
  {{- with $proxy.runtime.workers.maximum }}
  - name: LINKERD2_PROXY_CORES_MAX
    value: {{ . | quote }}
  {{- end }}
  {{- with $proxy.runtime.workers.maximumCPURatio }}
  - name: LINKERD2_PROXY_CORES_MAX_RATIO
    value: {{ . | quote }}
  {{- end }}
  {{- with .requireTLS }}
  - name: LINKERD2_PROXY_INBOUND_PORTS_REQUIRE_TLS
    value: {{ . | quote }}
  {{- end }}
  - name: LINKERD2_PROXY_SHUTDOWN_ENDPOINT_ENABLED
    value: "false"
  - name: LINKERD2_PROXY_LOG
    {{- if eq $proxy.logHTTPHeaders "insecure" }}
    value: {{ $proxy.logLevel | quote }}
    {{- else }}
    value: {{ printf "%s,[{headers}]=off,[{request}]=off" $proxy.logLevel | quote }}
    {{- end }}
  - name: LINKERD2_PROXY_LOG_FORMAT
    value: {{ $proxy.logFormat | quote }}
  - name: LINKERD2_PROXY_DESTINATION_SVC_ADDR
    {{- if eq .component "destination" }}
    value: localhost.:8086
    {{- else }}
    value: linkerd-dst-headless.{{ $namespace }}.svc.{{ $values.clusterDomain }}.:8086
    {{- end }}
  - name: LINKERD2_PROXY_DESTINATION_PROFILE_NETWORKS
    value: {{ $values.clusterNetworks | quote }}
  - name: LINKERD2_PROXY_POLICY_CLUSTER_NETWORKS
    value: {{ $values.clusterNetworks | quote }}
  - name: LINKERD2_PROXY_POLICY_SVC_ADDR
    {{- if eq .component "destination" }}
    value: localhost.:8090
    {{- else }}
    value: linkerd-policy.{{ $namespace }}.svc.{{ $values.clusterDomain }}.:8090
    {{- end }}
  - name: LINKERD2_PROXY_POLICY_WORKLOAD
    value: '{"ns":"$(_pod_ns)", "pod":"$(_pod_name)"}'
  - name: LINKERD2_PROXY_INBOUND_DEFAULT_POLICY
    value: all-unauthenticated
  - name: LINKERD2_PROXY_CONTROL_STREAM_INITIAL_TIMEOUT
    value: {{ $proxy.control.streams.initialTimeout | quote }}
  - name: LINKERD2_PROXY_CONTROL_STREAM_IDLE_TIMEOUT
    value: {{ $proxy.control.streams.idleTimeout | quote }}
  - name: LINKERD2_PROXY_CONTROL_STREAM_LIFETIME
    value: {{ $proxy.control.streams.lifetime | quote }}
  - name: LINKERD2_PROXY_CONTROL_LISTEN_ADDR
    value: {{ printf "%s:%d" $any (int $proxy.ports.control) | quote }}
  - name: LINKERD2_PROXY_ADMIN_LISTEN_ADDR
    value: {{ printf "%s:%d" $any (int $proxy.ports.admin) | quote }}
  - name: LINKERD2_PROXY_OUTBOUND_LISTEN_ADDRS
    {{- if $values.disableIPv6 }}
    value: {{ printf "127.0.0.1:%d" (int $proxy.ports.outbound) | quote }}
    {{- else }}
    value: {{ printf "127.0.0.1:%d,[::1]:%d" (int $proxy.ports.outbound) (int $proxy.ports.outbound) | quote }}
    {{- end }}
  - name: LINKERD2_PROXY_INBOUND_LISTEN_ADDR
    value: {{ printf "%s:%d" $any (int $proxy.ports.inbound) | quote }}
  - name: LINKERD2_PROXY_INBOUND_IPS
    valueFrom:
      fieldRef:
        fieldPath: status.podIPs
  - name: LINKERD2_PROXY_INBOUND_PORTS
    value: {{ .ports | quote }}
  - name: LINKERD2_PROXY_DESTINATION_PROFILE_SUFFIXES
    value: svc.{{ $values.clusterDomain }}.
  {{- if eq $proxy.mode "explicit" }}
  - name: LINKERD2_PROXY_INBOUND_LISTENERS
    value: {{ .listeners | quote }}
  {{- end }}
  - name: LINKERD2_PROXY_INBOUND_ACCEPT_KEEPALIVE
    value: 10000ms
  - name: LINKERD2_PROXY_OUTBOUND_CONNECT_KEEPALIVE
    value: 10000ms
  - name: LINKERD2_PROXY_INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL
    value: {{ $proxy.inbound.server.http2.keepAliveInterval | quote }}
  - name: LINKERD2_PROXY_INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT
    value: {{ $proxy.inbound.server.http2.keepAliveTimeout | quote }}
  - name: LINKERD2_PROXY_INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION
    value: {{ $proxy.opaquePorts | quote }}
  - name: LINKERD2_PROXY_DESTINATION_CONTEXT
    value: '{"ns":"$(_pod_ns)", "nodeName":"$(_pod_nodeName)", "pod":"$(_pod_name)"}'
  - name: _pod_sa
    valueFrom:
      fieldRef:
        fieldPath: spec.serviceAccountName
  - name: _l5d_ns
    value: {{ $namespace }}
  - name: _l5d_trustdomain
    value: {{ $domain }}
  - name: LINKERD2_PROXY_IDENTITY_DIR
    value: /var/run/linkerd/identity/end-entity
  - name: LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS
    valueFrom:
      configMapKeyRef:
        name: linkerd-identity-trust-roots
        key: ca-bundle.crt
  - name: LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS_FILE
    value: /var/run/linkerd/identity/trust-roots/ca-bundle.crt
  - name: LINKERD2_PROXY_IDENTITY_TOKEN_FILE
    {{- if $values.identity.serviceAccountTokenProjection }}
    value: /var/run/secrets/tokens/linkerd-identity-token
    {{- else }}
    value: /var/run/secrets/kubernetes.io/serviceaccount/token
    {{- end }}
  - name: LINKERD2_PROXY_IDENTITY_SVC_ADDR
    {{- if eq .component "identity" }}
    value: localhost.:8080
    {{- else }}
    value: linkerd-identity-headless.{{ $namespace }}.svc.{{ $values.clusterDomain }}.:8080
    {{- end }}
  - name: LINKERD2_PROXY_IDENTITY_LOCAL_NAME
    value: $(_pod_sa).$(_pod_ns).{{ $identities }}
  - name: LINKERD2_PROXY_IDENTITY_SVC_NAME
    value: linkerd-identity.{{ $namespace }}.{{ $identities }}
  - name: LINKERD2_PROXY_DESTINATION_SVC_NAME
    value: linkerd-destination.{{ $namespace }}.{{ $identities }}
  - name: LINKERD2_PROXY_POLICY_SVC_NAME
    value: linkerd-destination.{{ $namespace }}.{{ $identities }}
{{- end -}}

{{- /* What comes before it: rules that redirect traffic, or the check that a CNI plugin has written them. */ -}}
{{- define "linkerd.proxyInit" -}}
{{- $values := .root.Values -}}
{{- $proxy := $values.proxy -}}
{{- $init := $values.proxyInit -}}
{{- $resources := include "linkerd.resources" $init.resources | default (include "linkerd.resources" $proxy.resources) -}}
{{- if eq $proxy.mode "redirect" }}
initContainers:
{{- if $values.cniEnabled }}
- name: linkerd-network-validator
  image: {{ $proxy.image.name }}:{{ $proxy.image.version | default (include "linkerd.version" .root) }}
  imagePullPolicy: {{ $proxy.image.pullPolicy | default $values.imagePullPolicy }}
  command: [/usr/lib/linkerd/linkerd2-network-validator]
  args:
  - --log-format={{ $values.networkValidator.logFormat }}
  - --log-level={{ $values.networkValidator.logLevel }}
  {{- if $values.disableIPv6 }}
  - --connect-addr={{ $values.networkValidator.connectAddr | default "1.1.1.1:20001" }}
  - --listen-addr={{ $values.networkValidator.listenAddr | default (printf "0.0.0.0:%d" (int $proxy.ports.outbound)) }}
  {{- else }}
  - --connect-addr={{ $values.networkValidator.connectAddr | default "[fd00::1]:20001" }}
  - --listen-addr={{ $values.networkValidator.listenAddr | default (printf "[::]:%d" (int $proxy.ports.outbound)) }}
  {{- end }}
  - --timeout={{ $values.networkValidator.timeout }}
  securityContext:
    allowPrivilegeEscalation: false
    capabilities:
      drop: [ALL]
    readOnlyRootFilesystem: true
    runAsGroup: 65534
    runAsNonRoot: true
    runAsUser: 65534
    seccompProfile:
      type: RuntimeDefault
  terminationMessagePolicy: FallbackToLogsOnError
  {{- with $resources }}
  {{- . | nindent 2 }}
  {{- end }}
{{- else }}
{{- $mode := "iptables-nft" -}}
{{- if eq $init.iptablesMode "plain" -}}
{{- $mode = "iptables" -}}
{{- else if eq $init.iptablesMode "legacy" -}}
{{- $mode = "iptables-legacy" -}}
{{- end }}
- name: linkerd-init
  image: {{ $init.image.name | default $proxy.image.name }}:{{ $init.image.version | default $proxy.image.version | default (include "linkerd.version" .root) }}
  imagePullPolicy: {{ $init.image.pullPolicy | default $proxy.image.pullPolicy | default $values.imagePullPolicy }}
  command: [/usr/lib/linkerd/linkerd2-proxy-init]
  args:
  - --firewall-bin-path
  - {{ $mode }}
  - --firewall-save-bin-path
  - {{ $mode }}-save
  {{- if $values.disableIPv6 }}
  - --ipv6=false
  {{- end }}
  - --incoming-proxy-port
  - {{ $proxy.ports.inbound | quote }}
  - --outgoing-proxy-port
  - {{ $proxy.ports.outbound | quote }}
  - --proxy-uid
  - {{ $proxy.uid | quote }}
  {{- if gt (int $proxy.gid) 0 }}
  - --proxy-gid
  - {{ $proxy.gid | quote }}
  {{- end }}
  - --inbound-ports-to-ignore
  {{- if $init.ignoreInboundPorts }}
  - {{ printf "%d,%d,%v" (int $proxy.ports.control) (int $proxy.ports.admin) $init.ignoreInboundPorts | quote }}
  {{- else }}
  - {{ printf "%d,%d" (int $proxy.ports.control) (int $proxy.ports.admin) | quote }}
  {{- end }}
  - --outbound-ports-to-ignore
  - {{ $init.kubeAPIServerPorts | quote }}
  {{- with $init.skipSubnets }}
  - --subnets-to-ignore
  - {{ . | quote }}
  {{- end }}
  {{- if gt (int $init.closeWaitTimeoutSecs) 0 }}
  - --timeout-close-wait-secs
  - {{ $init.closeWaitTimeoutSecs | quote }}
  {{- end }}
  {{- with $init.logLevel }}
  - --log-level
  - {{ . | quote }}
  {{- end }}
  {{- with $init.logFormat }}
  - --log-format
  - {{ . | quote }}
  {{- end }}
  securityContext:
    {{- if or $init.privileged (gt (int $init.closeWaitTimeoutSecs) 0) }}
    allowPrivilegeEscalation: true
    privileged: true
    {{- else }}
    allowPrivilegeEscalation: false
    privileged: false
    {{- end }}
    capabilities:
      add: [NET_ADMIN, NET_RAW]
    {{- if $init.runAsRoot }}
    runAsNonRoot: false
    runAsUser: 0
    runAsGroup: 0
    {{- else }}
    runAsNonRoot: true
    runAsUser: {{ $init.runAsUser | int }}
    runAsGroup: {{ $init.runAsGroup | int }}
    {{- end }}
    readOnlyRootFilesystem: true
    seccompProfile:
      type: RuntimeDefault
  terminationMessagePolicy: FallbackToLogsOnError
  volumeMounts:
  - name: linkerd-proxy-init-xtables-lock
    mountPath: /run
  {{- with $resources }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "linkerd.proxyVolumes" -}}
{{- if and (eq .Values.proxy.mode "redirect") (not .Values.cniEnabled) }}
- name: linkerd-proxy-init-xtables-lock
  emptyDir: {}
{{- end }}
- name: linkerd-identity-end-entity
  emptyDir:
    medium: Memory
- name: trust-roots
  configMap:
    name: linkerd-identity-trust-roots
{{- if .Values.identity.serviceAccountTokenProjection }}
- name: linkerd-identity-token
  projected:
    sources:
    - serviceAccountToken:
        path: linkerd-identity-token
        expirationSeconds: 86400
        audience: identity.l5d.io
{{- end }}
{{- end -}}
