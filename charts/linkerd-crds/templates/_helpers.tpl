{{- define "linkerd.crd.metadata" -}}
labels:
  helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
  linkerd.io/control-plane-ns: {{ .Release.Namespace }}
  {{- with .Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  linkerd.io/created-by: linkerd/helm {{ .Chart.AppVersion }}
  {{- if .Values.keep }}
  helm.sh/resource-policy: keep
  {{- end }}
{{- end -}}
