#!/usr/bin/env bash
# Builds the client: stubs from the .proto files by Google's own generators, at the versions that go.mod pins.
# Needs Go and a protoc; the one in grpcio-tools will do (PROTOC="python -m grpc_tools.protoc").
set -euo pipefail
cd "$(dirname "$0")"
protos="${PROTOS:-../../proto}"
protoc="${PROTOC:-protoc}"
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
PATH="$out:$PATH" $protoc -I "$protos" --go_out=. --go_opt=module=example.com/kgrank-client \
  --go-grpc_out=. --go-grpc_opt=module=example.com/kgrank-client "${options[@]}" "${files[@]}"
go vet ./...
go build -o "$out/kgrank-client" .
