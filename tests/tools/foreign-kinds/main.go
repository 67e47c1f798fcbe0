// Command foreign-kinds reads a JSON list of objects and says which of their fields their own projects do not know.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
)

var kinds = map[string]func() any{
	"Certificate":    func() any { return &certmanager.Certificate{} },
	"Issuer":         func() any { return &certmanager.Issuer{} },
	"PodMonitor":     func() any { return &monitoring.PodMonitor{} },
	"PrometheusRule": func() any { return &monitoring.PrometheusRule{} },
	"ServiceMonitor": func() any { return &monitoring.ServiceMonitor{} },
}

func main() {
	var objects []json.RawMessage
	if err := json.NewDecoder(os.Stdin).Decode(&objects); err != nil {
		fail("standard input: %v", err)
	}
	for _, object := range objects {
		check(object)
	}
}

func check(object json.RawMessage) {
	var header struct {
		Kind string `json:"kind"`
	}
	if err := json.Unmarshal(object, &header); err != nil {
		fail("%v", err)
	}
	make, known := kinds[header.Kind]
	if !known {
		fail("%q is none of the kinds that are known here", header.Kind)
	}
	decoder := json.NewDecoder(bytes.NewReader(object))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(make()); err != nil {
		fail("%s: %v", header.Kind, err)
	}
}

func fail(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", arguments...)
	os.Exit(1)
}
