{{- /*
Certificates of the webhook and of the two containers of the scheduler pod. Made once and then read back from the cluster, so that
they survive upgrades. Returns JSON: secret name → {ca.crt, tls.crt, tls.key}, each base64.
ECDSA keys: kube-scheduler keeps two idle connections at most, so that concurrent binds make new ones all the time, and an RSA handshake
costs more than the bind.
*/ -}}
{{- define "mica.tls" -}}
{{- $days := 3650 -}}
{{- $webhook := lookup "v1" "Secret" .Release.Namespace "mica-webhook-tls" -}}
{{- $server := lookup "v1" "Secret" .Release.Namespace "mica-scheduler-tls" -}}
{{- $client := lookup "v1" "Secret" .Release.Namespace "mica-scheduler-client-tls" -}}
{{- $result := dict -}}
{{- if $webhook -}}
{{- $_ := set $result "mica-webhook-tls" $webhook.data -}}
{{- else -}}
{{- $ca := genCAWithKey "mica-webhook-ca" $days (genPrivateKey "ecdsa") -}}
{{- $dns := printf "mica-webhook.%s.svc" .Release.Namespace -}}
{{- $cert := genSignedCertWithKey $dns nil (list $dns) $days $ca (genPrivateKey "ecdsa") -}}
{{- $_ := set $result "mica-webhook-tls" (dict "ca.crt" (b64enc $ca.Cert) "tls.crt" (b64enc $cert.Cert) "tls.key" (b64enc $cert.Key)) -}}
{{- end -}}
{{- if and $server $client -}}
{{- $_ := set $result "mica-scheduler-tls" $server.data -}}
{{- $_ := set $result "mica-scheduler-client-tls" $client.data -}}
{{- else -}}
{{- $ca := genCAWithKey "mica-scheduler-ca" $days (genPrivateKey "ecdsa") -}}
{{- $own := genSignedCertWithKey "mica-extender" (list "127.0.0.1") (list "localhost") $days $ca (genPrivateKey "ecdsa") -}}
{{- $peer := genSignedCertWithKey "mica-scheduler" nil nil $days $ca (genPrivateKey "ecdsa") -}}
{{- $_ := set $result "mica-scheduler-tls" (dict "ca.crt" (b64enc $ca.Cert) "tls.crt" (b64enc $own.Cert) "tls.key" (b64enc $own.Key)) -}}
{{- $_ := set $result "mica-scheduler-client-tls" (dict "ca.crt" (b64enc $ca.Cert) "tls.crt" (b64enc $peer.Cert) "tls.key" (b64enc $peer.Key)) -}}
{{- end -}}
{{- $result | toJson -}}
{{- end -}}

{{- /* One secret. Takes (list $ name data). */ -}}
{{- define "mica.tlsSecret" -}}
{{- $root := index . 0 -}}
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata:
  name: {{ index . 1 }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "mica.labels" (list $root "scheduler") | nindent 4 }}
data:
  {{- range $key := list "ca.crt" "tls.crt" "tls.key" }}
  {{ $key }}: {{ index (index $ 2) $key }}
  {{- end }}
{{- end -}}
