{{/* What the operator is told. Names are its flags' in capitals; `python -m llm_operator --help` explains them. */}}
{{- define "llm-operator.env" -}}
{{- $name := include "llm-operator.fullname" . -}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: LLM_OPERATOR_REPLICA_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: LLM_OPERATOR_REPLICA_ADDRESS
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- $settings := dict
  "RUNNER_IMAGE" (include "llm-operator.image" (list .Values.runner.image .))
  "RUNNER_IMAGE_PULL_POLICY" .Values.runner.image.pullPolicy
  "GRACE_PERIOD_SECONDS" .Values.runner.gracePeriodSeconds
  "CLUSTER_DOMAIN" .Values.clusterDomain
  "STATUS_INTERVAL_SECONDS" .Values.statusIntervalSeconds
  "CLEANUP_DEADLINE_SECONDS" .Values.cleanupDeadlineSeconds
  "WORKERS" .Values.workers
  "RESYNC_SECONDS" .Values.resyncSeconds
  "LEADER_ELECTION" .Values.leaderElection.enabled
  "LEASE_NAME" $name
  "LOG_FORMAT" .Values.log.format
  "LOG_LEVEL" .Values.log.level
-}}
{{- with .Values.runner.imagePullSecrets -}}
{{- $names := list -}}
{{- range . }}{{ $names = append $names .name }}{{ end -}}
{{- $_ := set $settings "RUNNER_IMAGE_PULL_SECRETS" (join "," $names) -}}
{{- end -}}
{{- with .Values.vllm.image }}{{ $_ := set $settings "VLLM_IMAGE" . }}{{ end -}}
{{- with .Values.watchNamespaces }}{{ $_ := set $settings "WATCH_NAMESPACES" (join "," .) }}{{ end -}}
{{- if .Values.progress.enabled -}}
{{- $host := printf "%s.%s.svc" $name .Release.Namespace -}}
{{- $_ := set $settings "PROGRESS_URL" (printf "http://%s:%d/progress" $host (int .Values.service.progressPort)) -}}
{{- end -}}
{{- if .Values.webhook.enabled }}{{ $_ := set $settings "WEBHOOK_CERT_DIR" "/etc/llm-operator/webhook" }}{{ end -}}
{{- range $key, $value := $settings }}
- name: LLM_OPERATOR_{{ $key }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
