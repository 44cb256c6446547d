{{- /* Pieces that several components share. */ -}}

{{- /* Labels that select the pods of a component. Takes the component's name. */ -}}
{{- define "mica.selector" -}}
app.kubernetes.io/name: mica
app.kubernetes.io/component: {{ . }}
{{- end -}}

{{- /* Labels of every object. Takes (list $ component). */ -}}
{{- define "mica.labels" -}}
{{- $root := index . 0 -}}
{{ include "mica.selector" (index . 1) }}
app.kubernetes.io/part-of: mica
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end -}}

{{- /* Bytes of a quantity of memory, as a whole number. Takes (list quantity nameOfTheValue). */ -}}
{{- define "mica.memoryBytes" -}}
{{- $units := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $text := index . 0 -}}
{{- if not (kindIs "string" $text) }}{{ $text = $text | int64 | toString }}{{ end -}}
{{- $number := regexFind "^[0-9]+([.][0-9]+)?" $text -}}
{{- $unit := trimPrefix $number $text -}}
{{- if or (not $number) (not (hasKey $units $unit)) }}
{{- fail (printf "mica: %s is '%s', which is no size of memory; write for example 512Mi" (index . 1) $text) }}
{{- end -}}
{{- mulf (float64 $number) (float64 (get $units $unit)) | floor | int64 -}}
{{- end -}}

{{- define "mica.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- /* Pod fields that are the same everywhere. Service links would be MICA_... variables, which our settings refuse. */ -}}
{{- define "mica.pod" -}}
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Where a component runs. Takes its values. */ -}}
{{- define "mica.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "mica.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "mica.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{- /* Variables of one of our containers. Takes (list $ values-of-the-component). */ -}}
{{- define "mica.commonEnv" -}}
- {name: MICA_LOG_LEVEL, value: {{ (index . 0).Values.logLevel }}}
{{- with (index . 1).extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Probes of the admin port: /livez depends on nothing, /readyz on caches and certificates. */ -}}
{{- define "mica.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end -}}

{{- /*
A server that is to end goes on serving until nobody sends to it any more: endpoints and kube-proxies learn of the end at the same
moment as the kubelet. The 2 s in which our processes end follow this pause.
*/ -}}
{{- define "mica.leaveSlowly" -}}
lifecycle:
  preStop:
    sleep: {seconds: 3}
{{- end -}}

{{- /* Namespaces whose pods cannot have slices, as a list that is good YAML and good CEL. */ -}}
{{- define "mica.excludedNamespaces" -}}
['{{ concat (list "kube-system" .Release.Namespace) .Values.admission.excludedNamespaces | uniq | join "', '" }}']
{{- end -}}

{{- /* Service account, cluster role and its binding. Takes (list $ account component rules-as-YAML). */ -}}
{{- define "mica.account" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $labels := include "mica.labels" (list $root (index . 2)) -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- $labels | nindent 4 }}
automountServiceAccountToken: false
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ $name }}
  labels: {{- $labels | nindent 4 }}
rules: {{- index . 3 | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ $name }}
  labels: {{- $labels | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ $name }}}
subjects:
  - {kind: ServiceAccount, name: {{ $name }}, namespace: {{ $root.Release.Namespace }}}
{{- end -}}
