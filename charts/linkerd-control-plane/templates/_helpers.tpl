{{- /* What every object says of itself. Only what both Helm and `linkerd install` know is used in these templates: see charts/README.md. */ -}}
{{- define "linkerd.labels" -}}
app.kubernetes.io/name: linkerd
app.kubernetes.io/part-of: Linkerd
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
linkerd.io/control-plane-ns: {{ .Release.Namespace }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "linkerd.version" -}}
{{ .Values.linkerdVersion | default .Chart.AppVersion }}
{{- end -}}

{{- define "linkerd.trustDomain" -}}
{{ .Values.identityTrustDomain | default .Values.clusterDomain }}
{{- end -}}

{{- define "linkerd.controllerImage" -}}
{{ .Values.controllerImage }}:{{ .Values.controllerImageVersion | default (include "linkerd.version" .) }}
{{- end -}}

{{- /* Whether the control plane makes anchors and issuer itself. */ -}}
{{- define "linkerd.bootstraps" -}}
{{- if not (or .Values.identityTrustAnchorsPEM .Values.identity.externalCA .Values.identity.issuer.tls.crtPEM (eq .Values.identity.issuer.scheme "kubernetes.io/tls")) -}}
yes
{{- end -}}
{{- end -}}

{{- /* The address that a component listens on: its sidecar speaks for it where traffic is not redirected. */ -}}
{{- define "linkerd.host" -}}
{{- if eq .Values.proxy.mode "explicit" -}}
127.0.0.1
{{- else if .Values.disableIPv6 -}}
0.0.0.0
{{- else -}}
[::]
{{- end -}}
{{- end -}}

{{- define "linkerd.resources" -}}
{{- $limits := or .cpu.limit .memory.limit (index . "ephemeral-storage" "limit") -}}
{{- $requests := or .cpu.request .memory.request (index . "ephemeral-storage" "request") -}}
{{- if or $limits $requests -}}
resources:
{{- if $limits }}
  limits:
    {{- with .cpu.limit }}
    cpu: {{ . | quote }}
    {{- end }}
    {{- with .memory.limit }}
    memory: {{ . | quote }}
    {{- end }}
    {{- with index . "ephemeral-storage" "limit" }}
    ephemeral-storage: {{ . | quote }}
    {{- end }}
{{- end }}
{{- if $requests }}
  requests:
    {{- with .cpu.request }}
    cpu: {{ . | quote }}
    {{- end }}
    {{- with .memory.request }}
    memory: {{ . | quote }}
    {{- end }}
    {{- with index . "ephemeral-storage" "request" }}
    ephemeral-storage: {{ . | quote }}
    {{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{- /* What a container of the control plane may do: nothing. */ -}}
{{- define "linkerd.restricted" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: {{ .Values.controllerUID | int }}
{{- if ge (int .Values.controllerGID) 0 }}
runAsGroup: {{ .Values.controllerGID | int }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "linkerd.probes" -}}
livenessProbe:
  httpGet:
    path: /live
    port: 9990
  initialDelaySeconds: 10
readinessProbe:
  failureThreshold: 7
  httpGet:
    path: /ready
    port: 9990
{{- end -}}

{{- /* What all Deployments have; `component` and `spread` are given beside the root. */ -}}
{{- define "linkerd.deployment" -}}
replicas: {{ .root.Values.controllerReplicas | int }}
revisionHistoryLimit: {{ .root.Values.revisionHistoryLimit | int }}
selector:
  matchLabels:
    linkerd.io/control-plane-component: {{ .component }}
    linkerd.io/control-plane-ns: {{ .root.Release.Namespace }}
strategy:
  rollingUpdate:
    maxUnavailable: {{ .root.Values.deploymentStrategy.rollingUpdate.maxUnavailable }}
    maxSurge: {{ .root.Values.deploymentStrategy.rollingUpdate.maxSurge }}
{{- end -}}

{{- define "linkerd.podMetadata" -}}
annotations:
  linkerd.io/created-by: linkerd/helm {{ include "linkerd.version" .root }}
  linkerd.io/proxy-version: {{ .root.Values.proxy.image.version | default (include "linkerd.version" .root) | quote }}
  cluster-autoscaler.kubernetes.io/safe-to-evict: "true"
  config.linkerd.io/default-inbound-policy: all-unauthenticated
  {{- with .root.Values.identityTrustAnchorsPEM }}
  linkerd.io/trust-root-sha256: {{ sha256sum . }}
  {{- end }}
  {{- with .root.Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
labels:
  linkerd.io/control-plane-component: {{ .component }}
  linkerd.io/control-plane-ns: {{ .root.Release.Namespace }}
  linkerd.io/workload-ns: {{ .root.Release.Namespace }}
  linkerd.io/proxy-deployment: {{ .account }}
  {{- with .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "linkerd.podSpec" -}}
serviceAccountName: {{ .account }}
securityContext:
  seccompProfile:
    type: RuntimeDefault
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- if or .root.Values.enablePodAntiAffinity .root.Values.nodeAffinity }}
affinity:
  {{- if .root.Values.enablePodAntiAffinity }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        labelSelector:
          matchExpressions:
          - key: linkerd.io/control-plane-component
            operator: In
            values: [{{ .component }}]
        topologyKey: topology.kubernetes.io/zone
    requiredDuringSchedulingIgnoredDuringExecution:
    - labelSelector:
        matchExpressions:
        - key: linkerd.io/control-plane-component
          operator: In
          values: [{{ .component }}]
      topologyKey: kubernetes.io/hostname
  {{- end }}
  {{- with .root.Values.nodeAffinity }}
  nodeAffinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- $component := .component }}
{{- with .spread }}
topologySpreadConstraints:
{{- range . }}
- labelSelector:
    matchLabels:
      linkerd.io/control-plane-component: {{ $component }}
  {{- toYaml (omit . "labelSelector") | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "linkerd.namespaceLabels" -}}
config.linkerd.io/admission-webhooks: disabled
linkerd.io/control-plane-ns: {{ .Release.Namespace }}
linkerd.io/is-control-plane: "true"
{{- if or .Values.cniEnabled (eq .Values.proxy.mode "explicit") }}
pod-security.kubernetes.io/enforce: restricted
{{- else }}
pod-security.kubernetes.io/enforce: privileged
{{- end }}
{{- end -}}

{{- /* Whether a webhook's certificate is made by the control plane; given its values. */ -}}
{{- define "linkerd.makesCertificate" -}}
{{- if not (or .crtPEM .externalSecret .injectCaFrom .injectCaFromSecret) -}}
yes
{{- end -}}
{{- end -}}

{{- /* Validating webhooks whose certificates are made by the control plane, comma-separated. */ -}}
{{- define "linkerd.ownValidators" -}}
{{- $policy := include "linkerd.makesCertificate" .Values.policyValidator -}}
{{- $profile := include "linkerd.makesCertificate" .Values.profileValidator -}}
{{- if $policy -}}
policy-validator
{{- end -}}
{{- if and $policy $profile -}}
,
{{- end -}}
{{- if $profile -}}
sp-validator
{{- end -}}
{{- end -}}

{{- /* The Secret of a webhook; given root, name, values. Without data where the control plane fills it: Helm leaves alone what
it did not render, and takes the Secret away with the rest. */ -}}
{{- define "linkerd.webhookSecret" -}}
{{- if not .values.externalSecret }}
---
apiVersion: v1
kind: Secret
metadata:
  name: linkerd-{{ .name }}-k8s-tls
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "linkerd.labels" .root | nindent 4 }}
{{- if include "linkerd.makesCertificate" .values }}
  annotations:
    linkerd.io/created-by: linkerd/controller
{{- else if .values.crtPEM }}
data:
  tls.crt: {{ .values.crtPEM | trim | b64enc }}
  tls.key: {{ .values.keyPEM | trim | b64enc }}
{{- else }}
{{- fail (printf "%s: injectCaFrom and injectCaFromSecret need a certificate: externalSecret, or crtPEM and keyPEM" .name) }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* What a webhook configuration says of its webhook's certificate; given values. */ -}}
{{- define "linkerd.injectAnnotations" -}}
{{- with .injectCaFrom }}
cert-manager.io/inject-ca-from: {{ . }}
{{- end }}
{{- with .injectCaFromSecret }}
cert-manager.io/inject-ca-from-secret: {{ . }}
{{- end }}
{{- end -}}

{{- /* The namespaces of a webhook; never the control plane's own, whose objects come before who judges them. */ -}}
{{- define "linkerd.namespaceSelector" -}}
matchExpressions:
- key: kubernetes.io/metadata.name
  operator: NotIn
  values: [{{ .root.Release.Namespace }}]
{{- with index .selector "matchExpressions" }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- with index .selector "matchLabels" }}
matchLabels:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* A level is for the mesh's own targets. */ -}}
{{- define "linkerd.logFilter" -}}
{{- if contains "=" . -}}
{{ . | quote }}
{{- else -}}
{{ printf "warn,linkerd=%s" . | quote }}
{{- end -}}
{{- end -}}
