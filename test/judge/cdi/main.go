// Command cdi-judge is what container runtimes do with CDI specs: it loads a folder of them with the Container Device
// Interface's own code, checks each against the published schema and for the version it needs, and injects devices.
//
// Usage: cdi-judge FOLDER DEVICE...; the answer is one JSON document on stdout.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	oci "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/schema"
)

type answer struct {
	// What is wrong with the specs, by file.
	Errors map[string][]string `json:"errors"`
	// What a container with the devices gets; Refused says why it gets nothing.
	Env     []string          `json:"env"`
	Devices []oci.LinuxDevice `json:"devices"`
	Mounts  []oci.Mount       `json:"mounts"`
	Refused string            `json:"refused,omitempty"`
}

func main() {
	folder, devices := os.Args[1], os.Args[2:]
	a := answer{Errors: map[string][]string{}}
	published := schema.BuiltinSchema()
	files, _ := os.ReadDir(folder)
	for _, file := range files {
		if !strings.HasSuffix(file.Name(), ".json") {
			continue
		}
		path := filepath.Join(folder, file.Name())
		if err := published.ValidateFile(path); err != nil {
			a.Errors[file.Name()] = append(a.Errors[file.Name()], "schema: "+err.Error())
		}
		spec, err := cdi.ReadSpec(path, 0)
		if err != nil {
			a.Errors[file.Name()] = append(a.Errors[file.Name()], err.Error())
			continue
		}
		needed, err := cdi.MinimumRequiredVersion(spec.Spec)
		if err != nil || needed != spec.Version {
			a.Errors[file.Name()] = append(a.Errors[file.Name()], fmt.Sprintf("says version %s, needs %s %v", spec.Version, needed, err))
		}
	}
	cache, err := cdi.NewCache(cdi.WithSpecDirs(folder), cdi.WithAutoRefresh(false))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	container := &oci.Spec{}
	if _, err := cache.InjectDevices(container, devices...); err != nil {
		a.Refused = err.Error()
	}
	if container.Process != nil {
		a.Env = container.Process.Env
	}
	if container.Linux != nil {
		a.Devices = container.Linux.Devices
	}
	a.Mounts = container.Mounts
	_ = json.NewEncoder(os.Stdout).Encode(a)
}
