{{- /*
Configuration of kube-scheduler. The score plugins that are off would pull against ours; filters all stay on.
Lease: a leader that ends releases it, so durations matter after a kill only: 6 s at most until a standby decides, and an API server
may be silent for 4 s before the leader gives up. It costs one small write a second.
*/ -}}
{{- define "mica.schedulerConfig" -}}
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection: {qps: 1000, burst: 2000}
percentageOfNodesToScore: {{ .Values.scheduler.percentageOfNodesToScore }}
leaderElection:
  leaderElect: true
  resourceLock: leases
  resourceName: {{ include "mica.names.scheduler" . }}
  resourceNamespace: {{ .Release.Namespace }}
  leaseDuration: 6s
  renewDeadline: 4s
  retryPeriod: 1s
profiles:
  - schedulerName: {{ include "mica.names.scheduler" . }}
    plugins:
      score:
        disabled:
          - {name: NodeResourcesFit}
          - {name: NodeResourcesBalancedAllocation}
          - {name: PodTopologySpread}
extenders:
  - urlPrefix: https://127.0.0.1:9443
    filterVerb: filter
    prioritizeVerb: prioritize
    preemptVerb: preempt
    bindVerb: bind
    weight: 100
    enableHTTPS: true
    tlsConfig:
      caFile: /etc/mica/scheduler-client-tls/ca.crt
      certFile: /etc/mica/scheduler-client-tls/tls.crt
      keyFile: /etc/mica/scheduler-client-tls/tls.key
    httpTimeout: 5s
    nodeCacheCapable: true
    ignorable: false
    managedResources:
      {{- range include "mica.names.resources" . | fromJsonArray }}
      - {name: {{ . }}, ignoredByScheduler: false}
      {{- end }}
{{- end -}}
