#!/bin/sh
# Compile the kubelet's protocols into the checked-in stubs of the node agent.
# usage: hack/generate_stubs.sh [OUTPUT]   (default: device_plugin/src; another folder serves the drift check)
set -eu
cd "$(dirname "$0")/.."
out=${1:-device_plugin/src}
python=${PYTHON:-.venv/bin/python}
bin=$(dirname "$("$python" -c 'import sys; print(sys.executable)')")
mkdir -p "$out"
root=device_plugin/proto/mica_device_plugin/_kubelet
PATH="$bin:$PATH" "$python" -m grpc_tools.protoc -Idevice_plugin/proto \
    --python_out="$out" --grpc_python_out="$out" --mypy_out="quiet:$out" --mypy_grpc_out="quiet:$out" \
    "$root/deviceplugin_v1beta1/api.proto" "$root/podresources_v1/api.proto"
