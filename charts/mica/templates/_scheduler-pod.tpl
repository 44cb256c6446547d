{{- /* The Deployment. Takes (list $ tls). */ -}}
{{- define "mica.schedulerDeployment" -}}
{{- $root := index . 0 -}}
{{- $tls := index . 1 -}}
{{- $values := $root.Values.scheduler -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: mica-scheduler
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "mica.labels" (list $root "scheduler") | nindent 4 }}
spec:
  replicas: {{ $values.replicas }}
  # The new pod admits and stands by before the old one releases its Lease.
  strategy:
    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
  selector:
    matchLabels: {{- include "mica.selector" "scheduler" | nindent 6 }}
  template:
    metadata:
      labels: {{- include "mica.labels" (list $root "scheduler") | nindent 8 }}
      annotations:
        checksum/tls: {{ $tls | toJson | sha256sum }}
        checksum/config: {{ include "mica.schedulerConfig" $root | sha256sum }}
    spec:
      {{- include "mica.pod" $root | nindent 6 }}
      serviceAccountName: mica-extender
      automountServiceAccountToken: true
      priorityClassName: system-cluster-critical
      terminationGracePeriodSeconds: 10
      {{- include "mica.podSecurity" $root | nindent 6 }}
      {{- with include "mica.placement" $values }}{{ . | trim | nindent 6 }}{{- end }}
      containers:
        - name: extender
          image: {{ include "mica.image" $root }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          command: [python, -m, mica_extender]
          env:
            {{- include "mica.commonEnv" (list $root $values) | nindent 12 }}
            - {name: MICA_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
            - {name: MICA_POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
            - {name: MICA_SCHEDULER_TLS_DIR, value: /etc/mica/scheduler-tls}
            - {name: MICA_WEBHOOK_TLS_DIR, value: /etc/mica/webhook-tls}
          ports:
            - {name: webhook, containerPort: 8443}
            - {name: admin, containerPort: 8080}
          {{- include "mica.probes" $root | nindent 10 }}
          {{- include "mica.leaveSlowly" $root | nindent 10 }}
          resources: {{- toYaml $values.resources | nindent 12 }}
          {{- include "mica.containerSecurity" $root | nindent 10 }}
          volumeMounts:
            - {name: scheduler-tls, mountPath: /etc/mica/scheduler-tls, readOnly: true}
            - {name: webhook-tls, mountPath: /etc/mica/webhook-tls, readOnly: true}
        - name: kube-scheduler
          image: {{ $values.image }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          command: [kube-scheduler, --config=/etc/mica/config/config.yaml]
          # A seventh of its processor time would go into collecting a heap that is a fraction of the limit. Near the limit Go collects
          # more often again; without one the node's memory counts.
          env:
            - {name: GOGC, value: "400"}
            - {name: GOMEMLIMIT, valueFrom: {resourceFieldRef: {containerName: kube-scheduler, resource: limits.memory}}}
          ports:
            - {name: scheduler, containerPort: 10259}
          startupProbe:
            httpGet: {path: /livez, port: scheduler, scheme: HTTPS}
            periodSeconds: 1
            failureThreshold: 60
          livenessProbe:
            httpGet: {path: /livez, port: scheduler, scheme: HTTPS}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 3
          readinessProbe:
            httpGet: {path: /readyz, port: scheduler, scheme: HTTPS}
            periodSeconds: 2
            timeoutSeconds: 2
            failureThreshold: 2
          resources: {{- toYaml $values.schedulerResources | nindent 12 }}
          {{- include "mica.containerSecurity" $root | nindent 10 }}
          volumeMounts:
            - {name: config, mountPath: /etc/mica/config, readOnly: true}
            - {name: scheduler-client-tls, mountPath: /etc/mica/scheduler-client-tls, readOnly: true}
      volumes:
        - {name: config, configMap: {name: mica-scheduler}}
        {{- range $name := list "scheduler-tls" "scheduler-client-tls" "webhook-tls" }}
        - {name: {{ $name }}, secret: {secretName: mica-{{ $name }}, defaultMode: 0440}}
        {{- end }}
{{- end -}}
