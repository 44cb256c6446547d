{{- /* Webhook configurations. Takes (list $ caBundle). */ -}}
{{- define "mica.webhook" -}}
{{- $root := index . 0 -}}
{{- $ca := index . 1 -}}
{{- range $kind, $path := dict "Mutating" "/mutate" "Validating" "/validate" }}
---
apiVersion: admissionregistration.k8s.io/v1
kind: {{ $kind }}WebhookConfiguration
metadata:
  name: mica
  labels: {{- include "mica.labels" (list $root "scheduler") | nindent 4 }}
webhooks:
  - name: slices.mica.dev
    admissionReviewVersions: [v1]
    sideEffects: None
    # A pod that asks for a slice and was not seen by us would be scheduled by somebody else. Other pods never get here.
    failurePolicy: Fail
    {{- if eq $kind "Mutating" }}
    reinvocationPolicy: IfNeeded
    {{- end }}
    matchPolicy: Equivalent
    timeoutSeconds: 3
    clientConfig:
      caBundle: {{ $ca }}
      service: {name: mica-webhook, namespace: {{ $root.Release.Namespace }}, path: {{ $path }}, port: 443}
    rules:
      - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods], scope: Namespaced}
    namespaceSelector:
      matchExpressions:
        - key: kubernetes.io/metadata.name
          operator: NotIn
          values: {{ include "mica.excludedNamespaces" $root }}
    matchConditions:
      - name: asks-for-slices
        expression: {{ include "mica.cel.asks" $root | quote }}
{{- end }}
{{- end -}}
