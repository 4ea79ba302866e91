#!/usr/bin/env bash
# Builds the client: stubs from the .proto files by Google's own generators, at the versions that go.mod pins.
# Needs Go and a protoc: PROTOC, else the path's, else that of grpcio-tools in the active Python or the clone's.
set -euo pipefail
cd "$(dirname "$0")"
protos="${PROTOS:-../../proto}"
if [ -n "${PROTOC:-}" ]; then
  read -ra protoc <<<"$PROTOC"
elif command -v protoc >/dev/null; then
  protoc=(protoc)
elif python -c 'import grpc_tools' 2>/dev/null; then
  protoc=(python -m grpc_tools.protoc)
elif ../../.venv/bin/python -c 'import grpc_tools' 2>/dev/null; then
  protoc=(../../.venv/bin/python -m grpc_tools.protoc)
else
  echo "there is no protoc: install it, or make the clone's environment, which has grpcio-tools (make test)" >&2
  exit 1
fi
out="${OUT:-bin}"
mkdir -p "$out" kgrankv1
out="$(cd "$out" && pwd)"
go build -o "$out/protoc-gen-go" google.golang.org/protobuf/cmd/protoc-gen-go
go build -o "$out/protoc-gen-go-grpc" google.golang.org/grpc/cmd/protoc-gen-go-grpc
options=()
files=()
for file in "$protos"/kgrank/v1/*.proto; do
  name="kgrank/v1/$(basename "$file")"
  files+=("$name")
  # The contract names no Go package, so that it belongs to no language: this client chooses its own.
  options+=("--go_opt=M$name=example.com/kgrank-client/kgrankv1" "--go-grpc_opt=M$name=example.com/kgrank-client/kgrankv1")
done
PATH="$out:$PATH" "${protoc[@]}" -I "$protos" --go_out=. --go_opt=module=example.com/kgrank-client \
  --go-grpc_out=. --go-grpc_opt=module=example.com/kgrank-client "${options[@]}" "${files[@]}"
go vet ./...
go build -o "$out/kgrank-client" .
