{{- /* A ValidatingAdmissionPolicy that is in force everywhere. Takes (list $ name spec-as-YAML). */ -}}
{{- define "mica.policy" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $labels := include "mica.labels" (list $root "admission") -}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: {{ $name }}
  labels: {{- $labels | nindent 4 }}
spec:
  failurePolicy: Fail
  {{- index . 2 | nindent 2 }}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ $name }}
  labels: {{- $labels | nindent 4 }}
spec:
  policyName: {{ $name }}
  validationActions: [Deny]
{{- end -}}
