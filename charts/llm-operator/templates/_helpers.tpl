{{- define "llm-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 50 characters: names made from it get an ending. */}}
{{- define "llm-operator.fullname" -}}
{{- $name := include "llm-operator.name" . -}}
{{- $both := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $both .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "llm-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "llm-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "llm-operator.labels" -}}
{{ include "llm-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "llm-operator.serviceAccountName" -}}
{{- $made := include "llm-operator.fullname" . -}}
{{- default (ternary $made "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{/* Whole name of an image; takes a list of the image's values and the root. */}}
{{- define "llm-operator.image" -}}
{{- $image := index . 0 -}}
{{- $root := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default $root.Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{/* Labels of every pod that the operator starts. */}}
{{- define "llm-operator.runnerLabels" -}}
app.kubernetes.io/name: llm-runner
app.kubernetes.io/managed-by: llm-operator
{{- end -}}

{{- define "llm-operator.webhookSecret" -}}
{{- if eq .Values.webhook.certificate.source "existing" -}}
{{- .Values.webhook.certificate.existingSecret -}}
{{- else -}}
{{- include "llm-operator.fullname" . }}-webhook
{{- end -}}
{{- end -}}

{{/* Namespaces that policies and monitors speak of, as a selector. */}}
{{- define "llm-operator.namespaceSelector" -}}
{{- if .Values.watchNamespaces -}}
matchExpressions:
  - key: kubernetes.io/metadata.name
    operator: In
    values: {{ toYaml .Values.watchNamespaces | nindent 6 }}
{{- else -}}
{}
{{- end -}}
{{- end -}}

{{/* Stops at values that can't work together; a schema can't say these. */}}
{{- define "llm-operator.check" -}}
{{- if and (gt (int .Values.replicas) 1) (not .Values.leaderElection.enabled) -}}
{{- fail "replicas is above 1, but leaderElection.enabled is false: two operators would write at once" -}}
{{- end -}}
{{- with .Values.webhook -}}
{{- if and .enabled (eq .certificate.source "existing") -}}
{{- if or (not .certificate.existingSecret) (not .certificate.caBundle) -}}
{{- fail "webhook.certificate.source is existing: write webhook.certificate.existingSecret and webhook.certificate.caBundle" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "llm-operator.subjects" -}}
- kind: ServiceAccount
  name: {{ include "llm-operator.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end -}}
